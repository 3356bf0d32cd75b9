"""Bonds and charges: perceived, cached, checked against the data set's SMILES, judged."""

from dataclasses import replace

import pytest
import torch

from canonkit.chemistry.bonds import perceive_bonds
from canonkit.data import qm9 as module
from canonkit.data.qm9_files import stated_smiles
from canonkit.metrics import chemistry
from canonkit.molecules import Molecules


@pytest.fixture(scope="module")
def part(qm9):
    """300 fixed random molecules as a data set of their own."""
    rows = torch.randperm(len(qm9.index), generator=torch.Generator().manual_seed(0))[:300]
    return replace(qm9, molecules=qm9.molecules[rows], index=qm9.index[rows])


@pytest.mark.slow
def test_perceived_graphs_are_those_of_the_data_set_and_are_cached(part, tmp_path, monkeypatch):
    monkeypatch.setenv("CANONKIT_CACHE", str(tmp_path))
    graphs = part.with_graphs(progress=False)
    assert graphs.known.double().mean() > 0.985
    assert graphs.sha256 != part.sha256
    m = graphs.molecules
    assert m.bonds.equal(m.bonds.mT)
    assert not m.bonds.diagonal(dim1=1, dim2=2).any()
    assert not m.bonds[~m.mask].any()
    assert m.charges.sum(1).eq(0).all()
    monkeypatch.setattr(module, "perceive_bonds", lambda *a, **k: pytest.fail("the cache was not used"))
    again = part.with_graphs(progress=False)
    assert again.molecules.bonds.equal(m.bonds)
    assert again.molecules.charges.equal(m.charges)
    assert again.known.equal(graphs.known)
    assert again.sha256 == graphs.sha256


@pytest.mark.slow
def test_a_zwitterion_keeps_its_charges_and_an_aromatic_ring_its_bonds(qm9):
    wanted = {k: s for k, s in stated_smiles(set(range(1, 60_000))).items() if "[" in s or s == "c1ccccc1"}
    charged = next(k for k, s in wanted.items() if "+" in s)
    benzene = next(k for k, s in wanted.items() if s == "c1ccccc1")
    rows = [int((qm9.index == k).nonzero()) for k in (charged, benzene)]
    found, smiles = perceive_bonds(qm9.molecules[rows])
    assert smiles == [wanted[charged], "c1ccccc1"]
    assert sorted(set(found.charges[0].tolist())) == [-1, 0, 1]
    assert int((found.bonds[1] == 4).sum()) == 2 * 6


def test_a_molecule_that_is_no_molecule_has_no_bonds():
    far = Molecules.from_list([[[0.0, 0, 0], [1.5, 0, 0], [0, 1.1, 0]]], [[6, 6, 1]])
    found, smiles = perceive_bonds(far)
    assert smiles == [None]
    assert not found.bonds.any()


def test_the_split_leaves_out_what_is_not_known(qm9):
    known = torch.ones(len(qm9.index), dtype=torch.bool)
    out = qm9.split["train"][:7]
    known[out] = False
    split = replace(qm9, known=known).split
    assert len(split["train"]) == 100_000 - 7
    assert not torch.isin(out, split["train"]).any()
    assert split["test"].equal(qm9.split["test"])


def test_real_graphs_are_valid_by_their_bonds_and_broken_ones_are_not(part):
    m, smiles = perceive_bonds(part.molecules[:100])
    m = m[torch.tensor([s is not None for s in smiles])]
    assert chemistry(m, generated=True).valid == 1
    hydrogen = (m.numbers == 1).int().argmax(1)
    rows = torch.arange(len(m))
    cut = m.bonds.clone()
    cut[rows, hydrogen] = 0
    cut[rows, :, hydrogen] = 0
    found = chemistry(m.with_(bonds=cut), generated=True)
    assert found.valid == 0
    assert found.problems["FragmentsError"] > 90  # the hydrogen floats alone
    more = torch.where(m.bonds == 1, 2, m.bonds)
    assert chemistry(m.with_(bonds=more), generated=True).valid < 0.1
    with pytest.raises(ValueError, match="have no bonds"):
        chemistry(part.molecules[:2], generated=True)


def test_an_atom_that_lacks_a_bond_is_no_valid_graph():
    methyl = Molecules.from_list([[[0.0, 0, 0], [1.08, 0, 0], [-0.54, 0.93, 0], [-0.54, -0.93, 0]]], [[6, 1, 1, 1]])
    bonds = torch.zeros(1, 4, 4, dtype=torch.long)
    bonds[0, 0, 1:] = bonds[0, 1:, 0] = 1
    found = chemistry(methyl.with_(bonds=bonds, charges=torch.zeros_like(methyl.types)), generated=True)
    assert found.problems == {"RadicalError": 1}
    assert chemistry(methyl).valid == 1  # EDM's protocol fills it with a hydrogen
