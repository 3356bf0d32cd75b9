"""The Chemical Component Dictionary: what is taken of it, its hydrogens, its parts, and that a flow trains on it."""

import pytest
import torch
from rdkit import Chem

import canonkit as ck
from canonkit.chemistry.formats import to_rdkit
from canonkit.chemistry.hydrogens import add_hydrogens, without_hydrogens
from canonkit.data import ccd
from canonkit.data.ccd import ELEMENTS, load_ccd
from canonkit.data.stored import installed_files
from canonkit.recipes import recipe


@pytest.fixture(scope="module")
def heavy():
    return load_ccd(heavy=True, progress=False)


@pytest.fixture(scope="module")
def some(heavy):
    """Two hundred of the molecules with hydrogens."""
    stored = ccd.load_stored(ccd.cache_folder() / "ccd-1.6.0.safetensors")[0]
    return ccd._padded(ccd._rows(stored, torch.arange(0, 35_500, 178)), ELEMENTS)


def test_what_is_taken(heavy):
    x = heavy.molecules
    assert len(x) == 35_512
    assert (x.sizes.min(), x.sizes.max()) == (15, 60)
    assert ((x.numbers == 6).sum(1) >= 8).all()
    assert x.elements == ELEMENTS[1:]
    assert x.charges.abs().max() == 1
    assert heavy.form.heavy
    x[:5000].check()


def test_imatinib_is_there_with_its_bonds(heavy):
    (row,) = [k for k, title in enumerate(heavy.molecules.titles) if title == "STI"]
    mol = to_rdkit(heavy.molecules[row : row + 1].trim())[0]
    Chem.SanitizeMol(mol)
    imatinib = Chem.MolFromSmiles("Cc1ccc(cc1Nc2nccc(n2)c3cccnc3)NC(=O)c4ccc(cc4)CN5CCN(CC5)C")
    assert Chem.MolToSmiles(mol, isomericSmiles=False) == Chem.MolToSmiles(imatinib)


def test_heavy_atoms_are_those_that_rdkit_leaves_and_the_rule_puts_the_hydrogens_back(heavy, some):
    rows = [heavy.molecules.titles.index(title) for title in some.titles]
    mine = heavy.molecules[torch.tensor(rows)].trim()
    theirs = without_hydrogens(some)
    assert torch.equal(mine.numbers, theirs.numbers)
    assert torch.equal(mine.positions, theirs.positions)
    assert torch.equal(mine.charges.long(), theirs.charges.long())
    made = add_hydrogens(mine)
    assert not made.refused.any()
    assert torch.equal(made.molecules.sizes, some.sizes)


def test_one_graph_is_in_one_part(heavy):
    keys = [set(heavy.keys[rows].tolist()) for rows in heavy.split.values()]
    assert sum(map(len, keys)) == len(set().union(*keys)) > 33_000
    assert sum(map(len, heavy.split.values())) == 35_512


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    (source,) = installed_files("biotite", "structure/info/components.bcif")
    path = tmp_path / "components.bcif"
    path.write_bytes(source.read_bytes()[:1_000_000])
    monkeypatch.setattr(ccd, "installed_files", lambda *_: [path])
    monkeypatch.setattr(ccd, "cache_folder", lambda: tmp_path)
    with pytest.raises(
        ValueError, match=r"components\.bcif is damaged.*pip install --force-reinstall biotite==1\.6\.0"
    ):
        load_ccd(progress=False)
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_word_the_recipe_and_the_loader_agree(heavy):
    chosen = recipe("CanonFlow-heavy").on(heavy)
    assert chosen.data == "CCD-heavy"
    assert chosen.form.longest == 60
    assert chosen.load().sha256 == heavy.sha256 == ck.dataset("ccd-heavy", progress=False).sha256
