import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem

from canonkit.chemistry.formats import from_pyg, from_rdkit, read, to_pyg, to_rdkit, write
from canonkit.files import replacing
from canonkit.metrics import bond_orders
from canonkit.molecules import SYMBOLS, Molecules

SUFFIXES = (".sdf", ".xyz", ".npz")
PRECISION = {".sdf": 5.1e-5, ".xyz": 1e-6, ".npz": 0}  # Å: 4 decimals, float32, exact


@pytest.fixture(scope="module")
def some(sample):
    """QM9 molecules of many sizes, with bonds and (made up) charges."""
    x = sample[:60].trim()
    charges = torch.randint(-1, 2, x.types.shape, generator=torch.Generator().manual_seed(0))
    return x.with_(bonds=bond_orders(x), charges=charges * x.mask)


def assert_same(a, b, atol=0.0, bonds=True):
    torch.testing.assert_close(a.positions, b.positions, atol=atol, rtol=0)
    assert a.numbers.equal(b.numbers)
    assert a.mask.equal(b.mask)
    if bonds:
        assert a.bonds.equal(b.bonds)


# -- round trips --


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_round_trip(some, tmp_path, suffix):
    path = write(some, tmp_path / f"new folder/molecules{suffix}")
    back = read(path)
    assert_same(back, some, PRECISION[suffix], bonds=suffix != ".xyz")
    if suffix == ".xyz":
        assert back.bonds is None
    else:
        assert back.charges.equal(some.charges)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_collapsed_samples_are_read_again_with_a_warning(some, tmp_path, suffix):
    collapsed = some.with_(positions=0.01 * some.positions)
    with pytest.warns(UserWarning, match="Å apart .less than 0.1 Å.: no real molecule"):
        back = read(write(collapsed, tmp_path / f"collapsed{suffix}"))
    assert_same(back, collapsed, PRECISION[suffix], bonds=suffix != ".xyz")


def test_a_tangle_that_would_crash_rdkit_is_refused_as_sdf_and_kept_as_npz(tmp_path):
    n, generator = 61, torch.Generator().manual_seed(0)
    bonds = (torch.rand(1, n, n, generator=generator) < 0.75).triu(1).long()
    bonds = bonds + bonds.mT
    tangle = Molecules.from_arrays(3 * torch.randn(1, n, 3, generator=generator), torch.full((1, n), 6), bonds=bonds)
    with pytest.raises(ValueError, match=f"molecule 0 has an atom of {int((bonds > 0).sum(1).max())} bonds"):
        write(tangle, tmp_path / "tangle.sdf")
    assert read(write(tangle, tmp_path / "tangle.npz")).bonds.equal(bonds)


def test_rdkit_round_trip(some):
    back = from_rdkit(to_rdkit(some))
    assert_same(back, some)
    assert back.charges.equal(some.charges)


def test_pyg_round_trip_with_bonds_as_edges(some):
    batch = to_pyg(some)
    assert_same(from_pyg(batch), some, bonds=False)
    assert_same(from_pyg(batch.to_data_list()), some, bonds=False)
    for b, item in enumerate(batch.to_data_list()):
        dense = torch.zeros_like(some.bonds[b])
        dense[tuple(item.edge_index)] = item.edge_attr
        assert dense.equal(some.bonds[b])
    assert_same(from_pyg(batch[3]), some[3].trim(), bonds=False)


def test_pyg_without_bonds_has_no_edges(some):
    assert to_pyg(some.with_(bonds=None)).edge_index is None


@given(st.lists(st.lists(st.integers(1, len(SYMBOLS) - 1), min_size=1, max_size=5), min_size=1, max_size=4))
def test_every_element_round_trips(tmp_path_factory, numbers):
    rng = np.random.default_rng(0)
    positions = [5 * np.arange(len(z))[:, None] + rng.uniform(-1, 1, (len(z), 3)) for z in numbers]
    x = Molecules.from_list(positions, numbers).to(torch.float32)
    for suffix in SUFFIXES:
        path = write(x, tmp_path_factory.getbasetemp() / f"elements{suffix}")
        assert_same(read(path), x, 6e-5, bonds=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_are_read_with_one_table_of_elements(tmp_path, suffix):
    parts = [Molecules.from_list([np.zeros((1, 3))], [[z]]).to(torch.float32) for z in (16, 17)]
    paths = [write(x, tmp_path / f"{k}{suffix}") for k, x in enumerate(parts)]
    with pytest.raises(ValueError, match="read all with the same `elements`"):
        Molecules.cat([read(path) for path in paths])
    both = Molecules.cat([read(path, elements=("H", "S", "Cl")) for path in paths])
    assert both.types.tolist() == [[1], [2]]
    assert both.numbers.tolist() == [[16], [17]]
    with pytest.raises(ValueError, match="element Cl is not in the table"):
        read(paths[1], elements=("H", "S"))


def test_double_precision_survives_npz(some, tmp_path):
    x = some.to(torch.float64).translate(torch.full((len(some), 3), 1 / 3, dtype=torch.float64))
    assert read(write(x, tmp_path / "a.npz")).positions.equal(x.positions)


def test_aromatic_bonds_are_four(tmp_path):
    benzene = Chem.AddHs(Chem.MolFromSmiles("c1ccccc1"))
    AllChem.EmbedMolecule(benzene, randomSeed=0)
    x = from_rdkit([benzene])
    assert x.bonds.unique(return_counts=True)[1].tolist() == [144 - 24, 12, 12]  # none, C-H, aromatic, both ways
    assert x.bonds.max() == 4
    assert read(write(x, tmp_path / "a.sdf")).bonds.equal(x.bonds)
    assert from_rdkit(to_rdkit(x)).bonds.equal(x.bonds)


def test_xyz_may_have_blank_lines_numbers_and_fortran_exponents(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("\n2\nwater, nearly\nO 0 0 1.5*^-1 extra columns\nh 0.0 0 1.1e0\n\n1\n\n6 1 2 3\n\n")
    x = read(path)
    assert x.numbers.tolist() == [[8, 1], [6, 0]]
    assert x.positions[0, 0, 2] == pytest.approx(0.15)


# -- errors --


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.sdf"):
        read(tmp_path / "nowhere.sdf")


def test_an_unknown_suffix_is_named_with_those_that_work(some, tmp_path):
    (tmp_path / "a.pdb").touch()
    for use in (lambda: read(tmp_path / "a.pdb"), lambda: write(some, tmp_path / "b.pdb")):
        with pytest.raises(ValueError, match=r"\.pdb.*'\.pdb' files, only \.sdf, \.xyz, \.npz"):
            use()
    assert not (tmp_path / "b.pdb").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no molecules"),
        ("3\n\nH 0 0 0\nH 0 0 1\n", "announces 3 atoms but only 2"),
        ("1\n\nH 0 0 0\n2\n\nH 0 0 0\n", "line 4 announces 2 atoms but only 1"),
        ("1\n\nH 0 0\n", "not 'element x y z'"),
        ("1\n\nH 0 0 zero\n", "not 'element x y z'"),
        ("1\n\nXx 0 0 0\n", "unknown element 'Xx'"),
        ("1\n\n119 0 0 0\n", "atomic number 119"),
        ("2\n\nC 0 0 0\n0 0 0 2\n", "unknown element|atomic number 0|not 'element"),  # would vanish as padding
        ("C 0 0 0\n", "expected a number of atoms, found 'C 0 0 0'"),
        ("-1\n\n", "line 1"),
        ("1\n\nH 0 0 nan\n", "molecule 0 has a NaN"),
    ],
)
def test_a_bad_xyz_is_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / "a.xyz"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.xyz: .*({message})"):
        read(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "molecule|empty"),
        (lambda text: "not a mol block\n", "record 0 is truncated or no MDL mol block"),
        (lambda text: text[: len(text) - 100], "record 1 is truncated"),
        (lambda text: text.replace(" F ", " Zz", 1), "record 1 is truncated or no MDL"),
        (lambda text: text.replace(" F ", " * ", 1), "molecule 1|record 1"),  # would vanish as padding
    ],
    ids="empty garbage truncated unknown dummy".split(),
)
def test_a_damaged_sdf_is_refused_with_the_reason(tmp_path, damage, message):
    x = Molecules.from_list([[[0.0, 0, 0], [0, 0, 0.74]], [[0.0, 0, 0], [0, 0, 0.92]]], [[1, 1], [1, 9]])
    path = write(x.with_(bonds=bond_orders(x)), tmp_path / "a.sdf")
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=rf"a\.sdf: .*({message})"):
        read(path)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_npz_is_refused(some, tmp_path, share):
    path = write(some, tmp_path / "a.npz")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.npz: damaged or no npz file"):
        read(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"positions": np.zeros((1, 2, 3))}, r"no array \['numbers'\]"),
        ({"positions": np.zeros((1, 2, 3)), "numbers": np.array([[6]])}, "do not fit"),
        ({"positions": np.zeros((1, 1, 3)), "numbers": np.array([["C"]])}, "numbers"),
        ({"positions": np.eye(3)[None], "numbers": np.array([[6, 1, 1]]), "bonds": np.zeros((1, 2, 2))}, "bonds"),
        ({"positions": np.array([[[{}, 0, 0]]]), "numbers": np.array([[6]])}, "damaged or no npz"),  # needs pickle
    ],
    ids="missing shapes symbols bonds objects".split(),
)
def test_a_wrong_npz_is_refused_with_the_reason(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=rf"a\.npz: .*{message}"):
        read(tmp_path / "a.npz")


def test_rdkit_molecules_that_cannot_be_used_are_named():
    with pytest.raises(ValueError, match="molecule 0 has no conformer"):
        from_rdkit([Chem.MolFromSmiles("C")])
    with pytest.raises(ValueError, match="molecule 0 could not be parsed"):
        from_rdkit([None])


# -- whole or not at all --


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_old_file_survives_a_failed_write(some, tmp_path, monkeypatch, suffix):
    path = write(some[:3], tmp_path / f"a{suffix}")
    before = path.read_bytes()

    def disk_full(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", disk_full)
    flat = some.with_(positions=some.positions[..., :2])  # the text formats fail on points of a plane
    with pytest.raises((OSError, ValueError, TypeError)):
        write(flat, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_appears_only_when_its_block_ends_well(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012 (the failure must come inside)
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_sdf_files_have_the_bonds_that_edm_s_rule_sees_if_none_are_known(some, tmp_path):
    bare = some.with_(bonds=None, charges=None)
    back = read(write(bare, tmp_path / "bare.sdf"))
    assert back.bonds.equal(bond_orders(back))
    assert back.bonds.any()
    strange = Molecules.from_list([torch.tensor([[0.0, 0, 0], [0, 0, 1.9]]).numpy()], [[16, 17]])
    assert not read(write(strange, tmp_path / "strange.sdf")).bonds.any()
