from importlib import metadata

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch_geometric.data import Data, InMemoryDataset

from canonkit.chemistry.formats import write
from canonkit.data import qm9 as module
from canonkit.data.qm9 import load_qm9
from canonkit.data.qm9_files import parse_pyg, parse_qm9pack, parse_sdf
from canonkit.data.stored import load_stored

# -- the data --


def test_qm9_has_130831_molecules_and_2359210_atoms(qm9):
    x = qm9.molecules
    assert (len(x), int(x.sizes.sum())) == (130_831, 2_359_210)
    assert int(x.sizes.min()), int(x.sizes.max()) == (3, 29)
    assert float(x.sizes.double().mean()) == pytest.approx(18.03, abs=0.005)
    counts = dict(zip(x.elements, torch.bincount(x.types[x.mask]).tolist(), strict=True))
    assert counts == {"H": 1_208_486, "C": 831_925, "N": 132_498, "O": 183_265, "F": 3_036}


def test_index_is_the_number_in_gdb9(qm9):
    assert (qm9.index.diff() > 0).all()
    assert (int(qm9.index[0]), int(qm9.index[-1])) == (1, 133_885)
    assert [qm9.molecules[k].numbers[0].unique().tolist() for k in range(3)] == [[0, 1, 6], [0, 1, 7], [0, 1, 8]]


def test_content_has_the_known_hash(qm9):
    assert qm9.sha256 == module.SHA256


def test_split_is_edms(qm9):
    split = qm9.split
    assert {k: len(v) for k, v in split.items()} == {"train": 100_000, "valid": 17_748, "test": 13_083}
    together = torch.cat(list(split.values()))
    assert together.sort().values.equal(torch.arange(130_831))  # disjoint and covering
    np.random.seed(0)  # noqa: NPY002 (as EDM does)
    assert together.equal(torch.from_numpy(np.random.permutation(130_831)))  # noqa: NPY002
    assert qm9.part("test").positions.equal(qm9.molecules.positions[split["test"]])


def test_training_sizes_span_3_to_29_with_none_of_28(qm9):
    counts = torch.bincount(qm9.part("train").sizes, minlength=30)
    assert counts.nonzero()[:, 0].tolist() == [*range(3, 28), 29]


# -- the cache, on a QM9 of four molecules --


def ragged(molecules, index):
    return {
        "positions": molecules.positions[molecules.mask],
        "numbers": molecules.numbers[molecules.mask].to(torch.uint8),
        "sizes": molecules.sizes.to(torch.uint8),
        "index": index.int(),
    }


@pytest.fixture
def little(qm9, cache, monkeypatch):
    """load_qm9 as if QM9 were its first four molecules; `parsed` is what the parser finds, `calls` counts it."""

    class Little:
        parsed = ragged(qm9.molecules[:4], qm9.index[:4])
        path = cache / "qm9.safetensors"
        calls = 0

        def parse(self, progress):
            self.calls += 1
            return {k: v.clone() for k, v in self.parsed.items()}

    little = Little()
    monkeypatch.setattr(module, "COUNT", 4)
    monkeypatch.setattr(module, "ATOMS", len(little.parsed["numbers"]))
    monkeypatch.setattr(module, "SHA256", module.content_hash(little.parsed))
    monkeypatch.setattr(module, "parse_qm9pack", little.parse)
    return little


def test_qm9_is_parsed_once(little, qm9):
    for _ in range(2):
        loaded = load_qm9(progress=False)
        assert loaded.molecules.positions.equal(qm9.molecules[:4].positions)
        assert loaded.molecules.types.equal(qm9.molecules[:4].types)
        assert loaded.index.tolist() == [1, 2, 3, 4]
        assert loaded.sha256 == module.SHA256
    assert little.calls == 1


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": flip_a_bit,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "truncated header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "empty": lambda path: path.write_bytes(b""),
    "other content": lambda path: save_file({"positions": torch.zeros(3)}, path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_is_made_anew(little, damage):
    load_qm9(progress=False)
    damage(little.path)
    load_qm9(progress=False)
    assert little.calls == 2
    tensors, about = load_stored(little.path)
    assert about["sha256"] == module.SHA256
    assert all(tensors[k].equal(v) for k, v in little.parsed.items())


def set_entry(name, k, value):
    def change(parsed):
        parsed[name][k] = value

    return change


def drop_last(parsed):
    n = int(parsed["sizes"][-1])
    parsed.update(
        {k: parsed[k][:-n] for k in ("positions", "numbers")} | {k: parsed[k][:-1] for k in ("sizes", "index")}
    )


FAULTS = {
    "count": (drop_last, r"has 3 molecules with 12 atoms, expected 4 with 16"),
    "element": (set_entry("numbers", 0, 17), "an atom of number 17, not H, C, N, O, F"),
    "nan": (set_entry("positions", 5, torch.nan), "molecule 1 has a NaN"),
    "coinciding": (
        lambda p: set_entry("positions", 1, p["positions"][0])(p),
        "atoms 0 and 1 of molecule 0 lie 0.000 Å",
    ),
    "content": (set_entry("positions", 0, 9.0), "content hash is .*, expected"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("cached", ["no cache", "a damaged cache"])
def test_faulty_data_is_refused_and_the_cache_stays(little, fault, message, cached):
    if cached != "no cache":
        load_qm9(progress=False)
        flip_a_bit(little.path)
    before = little.path.read_bytes() if little.path.exists() else None
    fault(little.parsed)
    with pytest.raises(ValueError, match=rf"qm9pack.*{message}.*pip install --force-reinstall .*qm9pack==1\.0\.3"):
        load_qm9(progress=False)
    assert (little.path.read_bytes() if little.path.exists() else None) == before


# -- the parsers --


class InstalledFile(metadata.PackagePath):
    """A file of the installed qm9pack, somewhere else on the disk."""

    def locate(self):
        return self.real


@pytest.fixture
def csv_file(tmp_path, monkeypatch):
    """The first four lines of qm9pack's first file, as if they were all."""
    (real,) = [f.locate() for f in metadata.files("qm9pack") if f.name == "qm9_part1.csv"]
    with open(real) as file:
        (tmp_path / "part.csv").write_text("".join(next(file) for _ in range(4)))
    listed = InstalledFile("qm9pack/data/qm9_part1.csv")
    listed.real = tmp_path / "part.csv"
    monkeypatch.setattr(metadata, "files", lambda name: [listed])
    return tmp_path / "part.csv"


def test_qm9pack_is_read_as_written(csv_file, qm9):
    parsed = parse_qm9pack(False)
    for name, tensor in ragged(qm9.molecules[:3], qm9.index[:3]).items():
        assert parsed[name].equal(tensor)
        assert parsed[name].dtype == tensor.dtype


def test_a_truncated_csv_is_named_with_the_remedy(csv_file):
    text = csv_file.read_text()
    csv_file.write_text(text[: text.rindex("]]") - 20])
    with pytest.raises(ValueError, match=r"part\.csv is truncated at molecule 3: reinstall with `pip"):
        parse_qm9pack(False)


def test_an_unknown_element_in_a_csv_is_named(csv_file):
    csv_file.write_text(csv_file.read_text().replace("['N'", "['Qq'"))
    with pytest.raises(ValueError, match=r"part\.csv, molecule 2: unknown 'Qq'"):
        parse_qm9pack(False)


def test_a_missing_qm9pack_is_an_error_with_the_remedy(monkeypatch, cache):
    def files(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(FileNotFoundError, match=r"pip install qm9pack==1\.0\.3"):
        load_qm9(progress=False)


@pytest.fixture
def gdb9(qm9, tmp_path):
    """A gdb9.sdf of gdb_1, an uncharacterised molecule, and gdb_133885; and what of it belongs to QM9."""
    dropped = 1 + int(qm9.index[int((qm9.index.diff() > 1).nonzero()[0])])
    path = write(qm9.molecules[[0, 1, -1]], tmp_path / "gdb9.sdf")
    records = path.read_text().split("$$$$\n")[:3]
    titles = ["gdb_1", f"gdb_{dropped}", "gdb_133885"]
    path.write_text("".join(f"{t}{r}$$$$\n" for t, r in zip(titles, records, strict=True)))
    return path, ragged(qm9.molecules[[0, -1]], qm9.index[[0, -1]])


def test_gdb9_sdf_is_parsed_without_the_uncharacterised(gdb9, qm9):
    path, expected = gdb9
    parsed = parse_sdf(path, set(qm9.index.tolist()), False)
    torch.testing.assert_close(parsed.pop("positions"), expected.pop("positions"), atol=6e-5, rtol=0)
    assert all(parsed[k].equal(expected[k]) for k in ("numbers", "sizes", "index"))


def test_a_truncated_gdb9_sdf_is_refused(gdb9, qm9):
    path, _ = gdb9
    path.write_text(path.read_text()[:-200])
    with pytest.raises(ValueError, match=r"gdb9\.sdf: record 3 is truncated or damaged"):
        parse_sdf(path, set(qm9.index.tolist()), False)


@pytest.fixture
def data_v3(qm9, tmp_path):
    """The last three molecules of QM9 as PyTorch Geometric saves its processed QM9."""
    x, index = qm9.molecules[-3:], qm9.index[-3:]
    items = [
        Data(pos=m.positions[0], z=m.numbers[0], idx=i - 1, name=f"gdb_{i}", y=torch.zeros(1, 19), smiles="C")
        for m, i in zip(x, index, strict=True)
    ]
    InMemoryDataset.save(items, tmp_path / "data_v3.pt")
    return tmp_path / "data_v3.pt", ragged(x, index)


def test_pyg_processed_file_is_parsed(data_v3):
    path, expected = data_v3
    parsed = parse_pyg(path, False)
    assert all(parsed[k].equal(expected[k]) for k in expected)


def test_pyg_file_saved_by_hand_is_parsed(data_v3):
    path, expected = data_v3
    ends = torch.cat([torch.zeros(1), expected["sizes"].cumsum(0)]).long()
    data = Data(pos=expected["positions"], z=expected["numbers"].long(), idx=expected["index"].long() - 1)
    torch.save((data.to_dict(), {"pos": ends, "z": ends}, Data), path)
    parsed = parse_pyg(path, False)
    assert all(parsed[k].equal(expected[k]) for k in expected)


@pytest.fixture(params=["gdb9", "data_v3"])
def own_file(request, qm9, cache, monkeypatch):
    """A file of one's own, and QM9 as if it were as small as that."""
    path, expected = request.getfixturevalue(request.param)
    monkeypatch.setattr(module, "COUNT", len(expected["sizes"]))
    monkeypatch.setattr(module, "ATOMS", len(expected["numbers"]))
    monkeypatch.setattr(module, "_numbers", lambda progress: set(qm9.index.tolist()))
    return path, expected


def test_a_file_of_ones_own_is_parsed_once(own_file, cache, monkeypatch):
    path, expected = own_file
    loaded = load_qm9(path, progress=False)
    assert loaded.index.equal(expected["index"].long())
    (cached,) = cache.iterdir()
    assert load_file(cached)["numbers"].equal(expected["numbers"])
    monkeypatch.setattr(module, "parse_sdf", None)
    monkeypatch.setattr(module, "parse_pyg", None)
    assert load_qm9(path, progress=False).sha256 == loaded.sha256


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_of_a_file_of_ones_own_is_made_anew(own_file, cache, damage):
    path, _ = own_file
    loaded = load_qm9(path, progress=False)
    (cached,) = cache.iterdir()
    damage(cached)
    assert load_qm9(path, progress=False).sha256 == loaded.sha256


def test_a_file_with_too_few_molecules_is_refused(data_v3, cache):
    with pytest.raises(ValueError, match=r"data_v3\.pt has 3 molecules with 51 atoms, expected 130,831 with 2,359,210"):
        load_qm9(data_v3[0], progress=False)
    assert not cache.exists()


@pytest.mark.parametrize("name", ["gdb9.sdf", "data_v3.pt"])
def test_a_missing_file_of_ones_own_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        load_qm9(tmp_path / name)


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("where", ["everything", "inside"])
def test_code_in_a_pt_file_is_not_executed(tmp_path, cache, where):
    made, path = tmp_path / "made", tmp_path / "data_v3.pt"
    data = Data(pos=torch.zeros(1, 3), z=torch.ones(1).long()).to_dict()
    torch.save(Touch(made) if where == "everything" else (data | {"name": Touch(made)}, {}, Data), path)
    with pytest.raises(ValueError, match=r"data_v3\.pt is no processed QM9 of PyTorch Geometric"):
        load_qm9(path, progress=False)
    assert not made.exists()
    torch.load(path, weights_only=False)  # unpickled, it would have been
    assert made.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip"])
def test_a_damaged_pt_file_is_refused(tmp_path, cache, content):
    (tmp_path / "data_v3.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"data_v3\.pt is no processed QM9"):
        load_qm9(tmp_path / "data_v3.pt", progress=False)
