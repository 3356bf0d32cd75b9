"""Files: written whole or not at all; what is read is checked before it is believed; text stays text in HTML."""

import io
import os
import resource
import signal
import stat
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

import canonkit as ck
from canonkit import files
from canonkit.chemistry.bonds import perceive_bonds
from canonkit.chemistry.hydrogens import without_hydrogens
from canonkit.data.own import OwnMolecules
from canonkit.data.packed import pack, unpack
from canonkit.data.rotmnist import _gunzip
from canonkit.data.stored import load_stored, store
from canonkit.files import cache_folder, replacing, settled
from canonkit.metrics import known_smiles
from canonkit.molecules import Molecules
from canonkit.recipes.names import recipe
from canonkit.tables import Table
from canonkit.training.checkpoint import read_checkpoint

WRITERS = ["a.sdf", "a.xyz", "a.npz", "a.png", "b.npz"]


def samples(name, count):
    """Molecules, or images for a.png and b.npz, that take some kB."""
    generator = torch.Generator().manual_seed(0)
    if name in ("a.png", "b.npz"):
        return torch.rand(count, 1, 28, 28, generator=generator)
    positions = 3 * torch.randn(count, 9, 3, generator=generator)
    return Molecules.from_list(list(positions), [torch.full((9,), 6)] * count)


@pytest.fixture
def full_disk():
    """No file may grow beyond 4 kB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_on_a_full_disk_the_file_that_was_there_stays(tmp_path, name, full_disk):
    path = ck.write(samples(name, 1), tmp_path / name)
    before = path.read_bytes()
    with pytest.raises(OSError, match=rf"{name} cannot be written \(File too large\): what was there is as it was"):
        ck.write(samples(name, 400), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_cache_on_a_full_disk_stays_as_it_was(tmp_path, full_disk):
    store(tmp_path / "a.safetensors", {"x": torch.arange(5)}, source="here")
    with pytest.raises(OSError, match="set CANONKIT_CACHE to another folder"):
        store(tmp_path / "a.safetensors", {"x": torch.arange(5000)}, source="there")
    found = load_stored(tmp_path / "a.safetensors")
    assert found is not None
    assert (found[0]["x"].tolist(), found[1]["source"]) == ([0, 1, 2, 3, 4], "here")


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old, alive, other = (tmp_path / name for name in (f".a.{dead.pid}.xyz", f".a.{os.getppid()}.xyz", ".a.note.xyz"))
    for path in (old, alive, other):
        path.touch()
    ck.write(samples("a.xyz", 1), tmp_path / "a.xyz")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, other.name, "a.xyz"])


def test_what_torch_cannot_write_is_one_line(tmp_path, full_disk):
    with pytest.raises(OSError, match=r"a\.pt cannot be written"), replacing(tmp_path / "a.pt") as temporary:
        torch.save(torch.rand(5000), temporary)
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_anywhere_in_a_cache_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    store(path, {"x": torch.arange(12).reshape(3, 4), "y": torch.ones(3, dtype=torch.uint8)}, source="here")
    whole = path.read_bytes()
    assert load_stored(path) is not None
    for k in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[k // 8] ^= 1 << k % 8
        path.write_bytes(damaged)
        found = load_stored(path)
        if found is not None:  # blanks behind the header, which say nothing
            assert found[1] == {"sha256": found[1]["sha256"], "source": "here"}
            assert found[0]["x"].equal(torch.arange(12).reshape(3, 4))
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        assert load_stored(path) is None


def test_everyone_may_read_what_the_umask_lets_them(tmp_path):
    old = os.umask(0o022)
    try:
        store(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o644


def test_the_cache_folder_is_the_usual_one_unless_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CANONKIT_CACHE", "")
    assert cache_folder() == tmp_path / ".cache" / "canonkit"
    (tmp_path / "file").touch()
    monkeypatch.setenv("CANONKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match="file is a file: set CANONKIT_CACHE to a folder"):
        cache_folder()
    monkeypatch.setenv("CANONKIT_CACHE", "~nobody-here/cache")
    with pytest.raises(OSError, match="no home folder is known: set CANONKIT_CACHE"):
        cache_folder()


def test_a_damaged_list_of_smiles_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("CANONKIT_CACHE", str(tmp_path))
    x = 1.09 / 3**0.5 * torch.tensor([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    smiles = "[H]C([H])([H])[H]"
    methane = Molecules.from_list([x], [[6, 1, 1, 1, 1]])
    assert known_smiles(methane, progress=False) == {smiles}
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace("[C]", "[N]"))
    assert known_smiles(methane, progress=False) == {smiles}


# -- what is read -----------------------------------------------------------------------------------------------------


def npz(path, **arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.write_bytes(buffer.getvalue())
    return path


TWO = {"positions": np.array([[[0.0, 0, 0], [0, 0, 1]]]), "numbers": np.array([[6, 1]])}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"bonds": np.array([[[0, 1], [0, 0]]])}, "one-sided bond"),
        ({"charges": np.array([[10**12, 0]])}, "charges are formal charges, whole numbers, not 1000000000000"),
        ({"titles": np.array("[3]")}, r"titles.0 = 3 should be"),
        ({"data": np.array("[{")}, "data is damaged"),
        ({"data": np.array('{"a": "b"}')}, "data = .* should be"),
        ({"positions": np.array(["a"])}, "positions are coordinates"),
        ({"positions": np.full((1, 2, 3), 1e30)}, "molecule 0 has a coordinate of 1e[+]30: give Å"),
        ({"numbers": np.array([[object(), 1]])}, "damaged or no npz file"),
    ],
)
def test_an_npz_file_with_absurd_arrays_is_refused(tmp_path, more, said):
    with pytest.raises(ValueError, match=rf"a\.npz: .*{said}"):
        ck.read(npz(tmp_path / "a.npz", **TWO | more))


def test_an_npz_file_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = npz(tmp_path / "a.npz", **TWO, charges=np.zeros(10**6))
    monkeypatch.setattr(files, "memory", lambda: 10**6)
    with pytest.raises(ValueError, match=r"a\.npz: .*more than half of this machine's memory"):
        ck.read(path)


def test_an_array_that_announces_more_than_is_there_is_refused_before_memory_is_taken(tmp_path):
    path = npz(tmp_path / "a.npz", **TWO)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    header = parts["numbers.npy"].replace(b"(1, 2), }" + b" " * 7, b"(10000000, 2), }")
    assert header != parts["numbers.npy"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (parts | {"numbers.npy": header}).items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="announces 160,000,128 bytes"):
        ck.read(path)


def test_a_packed_file_is_checked(tmp_path):
    arrays = {"sha256": np.array("0"), "name": np.array("a"), "longest": np.array(2), "elements": np.array(["H", "C"])}
    arrays |= {"heavy": np.array(False)}
    for part in ("train", "valid"):
        arrays |= {f"{part}_positions": np.eye(3, dtype=np.float32)[:2], f"{part}_sizes": np.array([2], dtype=np.int16)}
        arrays |= {f"{part}_types": np.array([1, 0], dtype=np.uint8)}
    assert len(unpack(npz(tmp_path / "a.npz", **arrays)).part("train")) == 1
    for change in (
        {"train_types": np.array([1, 7], dtype=np.uint8)},
        {"train_sizes": np.array([3], dtype=np.int16)},
        {"train_sizes": np.array([], dtype=np.int16)},
        {"valid_positions": np.full((2, 3), np.nan, dtype=np.float32)},
        {"valid_positions": np.zeros((5, 3), dtype=np.float32)},
        {"elements": np.array("H")},
    ):
        with pytest.raises(ValueError, match=r"a\.npz does not fit together"):
            unpack(npz(tmp_path / "a.npz", **arrays | change))


def test_packed_heavy_atoms_are_what_systems_without_hydrogens_train_on(tmp_path, sample):
    heavy = OwnMolecules(without_hydrogens(perceive_bonds(sample[:60])[0]), heavy=True)
    packed = unpack(pack(heavy, tmp_path / "a.packed.npz"))
    for name in ("GDM-heavy", "Flow-heavy"):
        prepared = recipe(name).prepare(packed)
        assert (prepared.train.numbers[prepared.train.mask] > 1).all()
        assert len(prepared.train) == len(heavy.part("train"))
    with pytest.raises(ValueError, match="has no hydrogens to leave out"):
        unpack(pack(OwnMolecules(sample[:60]), tmp_path / "b.packed.npz")).without_hydrogens()


def test_one_long_molecule_among_many_short_ones_does_not_fill_the_memory(tmp_path):
    long = "20000\n\n" + "".join(f"C {k} 0 0\n" for k in range(20000))
    (tmp_path / "a.xyz").write_text(long + "1\n\nH 0 0 0\n" * 10000)
    with pytest.raises(ValueError, match=r"a\.xyz: 10,001 molecules of mostly few atoms .* a file of their own"):
        ck.read(tmp_path / "a.xyz")
    (tmp_path / "a.xyz").write_text(long)
    assert ck.read(tmp_path / "a.xyz").mask.shape == (1, 20000)


def test_gzip_is_unpacked_to_what_mnist_has_and_no_further():
    import gzip

    with pytest.raises(ValueError, match="a has more than 67,108,864 bytes unpacked"):
        _gunzip(gzip.compress(bytes(2**27), 1), "a")
    with pytest.raises(ValueError, match="a is truncated or damaged"):
        _gunzip(gzip.compress(b"some text")[:-9], "a")


def test_a_seed_of_more_than_64_bits_is_refused():
    with pytest.raises(ValueError, match="seed = 1180591620717411303424 has more than 64 bits"):
        ck.load("UNet").sample(1, 2, seed=2**70)


# -- the command line -------------------------------------------------------------------------------------------------


def said(*words, **environment):
    """What the command line says of an error: one line."""
    command = [sys.executable, "-m", "canonkit", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode in (1, 2), done
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.slow
def test_errors_of_the_command_line_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "far.xyz").write_text("1\n\nH 1e30 0 0\n")
    (tmp_path / "folder.sdf").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"recipe": 3}')
    assert "less than or equal to 4294967295" in said("sample", "UNet", "-o", tmp_path / "a.png", "--seed", 2**70)
    assert "too many" in said("sample", "UNet", "-o", tmp_path / "a.png", "-n", 10**30)
    assert "a coordinate of 1e+30" in said("evaluate", tmp_path / "far.xyz")
    assert "there is no file" in said("evaluate", tmp_path / "folder.sdf")
    assert "run.json: recipe = 3 should be" in said("evaluate", tmp_path / "run")
    assert "set CANONKIT_CACHE to a folder" in said("data", "qm9", CANONKIT_CACHE=str(tmp_path / "file"))
    line = said("sample", "UNet", "-o", tmp_path / "file" / "a.png", "-n", 1, "--steps", 2, "--json")
    assert f"{tmp_path / 'file'}: File exists" in line or "Not a directory" in line


@pytest.mark.slow
def test_training_that_two_signals_end_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "canonkit", "train", "GDM", "--out", str(out), "--minutes", "60"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (out / "log.jsonl").exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    for _ in range(2):
        child.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130  # so that `train && release` does not go on
    assert said.rstrip().endswith("--resume")
    assert read_checkpoint(out) is not None


# -- pages ------------------------------------------------------------------------------------------------------------


def test_text_from_files_stays_text_in_html():
    evil = "<script>alert(1)</script>"
    table = Table(evil, [evil], [[evil]], [evil])
    assert table._repr_html_().count("&lt;script&gt;") == 4
    assert "<script" not in table._repr_html_()


def test_text_from_a_card_stays_text_in_html(monkeypatch):
    from canonkit import releases
    from canonkit.results import table2

    evil = "<script>alert(1)</script>"
    known = {name: card for name, card in releases.cards().items() if name == "UNet"}
    known["UNet"]["data"]["name"] = known["UNet"]["hardware"] = known["UNet"]["recipe"]["scale"] = evil
    known["UNet"]["evaluation"] |= {"hardware": evil, "protocol": evil, "scale": evil}
    monkeypatch.setattr(releases, "cards", lambda: known)
    for page in (releases.pretrained()._repr_html_(), table2()._repr_html_()):
        assert "&lt;script" in page
        assert "<script" not in page


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path):
    path, seen = tmp_path / "a", []
    path.write_text("old")

    def read():
        seen.append(path.read_text())
        if len(seen) == 1:
            with replacing(path) as temporary:
                temporary.write_text("new")
        if seen[-1] == "damaged" or len(seen) == 1:
            raise ValueError("half of a file")
        return seen[-1]

    assert settled(path, read) == "new"
    path.write_text("damaged")
    with pytest.raises(ValueError, match="half of a file"):
        settled(path, read)
    assert len(seen) == 3
    path.unlink()
    with pytest.raises(FileNotFoundError):
        settled(path, read)
