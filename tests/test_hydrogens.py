"""Heavy atoms as a representation: hydrogens come back as they were, what is refused counts."""

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

import canonkit as ck
from canonkit.chemistry.formats import from_rdkit, to_rdkit
from canonkit.chemistry.hydrogens import add_hydrogens, without_hydrogens
from canonkit.data.qm9 import HEAVY, MOST_HEAVY
from canonkit.metrics import chemistry, distribution_distances, evaluate, stability
from canonkit.recipes.names import SYSTEMS, recipe


@pytest.fixture(scope="module")
def graphs(qm9):
    return qm9.with_graphs(progress=False)


@pytest.fixture(scope="module")
def heavy(graphs):
    return graphs.without_hydrogens(progress=False)


@pytest.fixture(scope="module")
def methanol_and_five_bonds():
    """CH3OH without hydrogens, and a carbon with five neighbours."""
    positions = torch.tensor([[0.0, 0, 0], [1.43, 0, 0], [0, 1.4, 0], [0, -1.4, 0], [0, 0, 1.4], [0, 0, -1.4]])
    bonds = torch.zeros(2, 6, 6, dtype=torch.long)
    bonds[0, 0, 1] = bonds[0, 1, 0] = 1
    bonds[1, 0, 1:] = bonds[1, 1:, 0] = 1
    mask = torch.tensor([[True] * 2 + [False] * 4, [True] * 6])
    types = torch.tensor([[0, 2, 0, 0, 0, 0], [0, 3, 3, 3, 3, 3]])
    return ck.Molecules(positions.expand(2, 6, 3), types, mask, HEAVY, bonds=bonds, charges=torch.zeros_like(types))


def embedded(*smiles, hydrogens=False):
    mols = [Chem.AddHs(Chem.MolFromSmiles(s)) for s in smiles]
    for mol in mols:
        AllChem.EmbedMolecule(mol, randomSeed=0)
    return from_rdkit(mols if hydrogens else [Chem.RemoveHs(mol) for mol in mols])


def test_hydrogens_taken_off_and_put_back_are_the_same_graph(graphs):
    whole = graphs.part("test")[:300]
    again = add_hydrogens(without_hydrogens(whole))
    assert not again.refused.any()
    before, after = (chemistry(x, generated=True).smiles for x in (whole, again.molecules))
    known = [k for k, s in enumerate(before) if s is not None]
    assert len(known) > 290
    assert [before[k] for k in known] == [after[k] for k in known]


def test_real_molecules_with_hydrogens_by_rule_are_as_stable_as_published_for_the_data(heavy):
    made = add_hydrogens(heavy.part("test")[:2000])
    found = stability(made.molecules, made.refused)
    assert not made.refused.any()
    assert abs(found.molecule_stable - 0.953) < 0.015  # four standard errors
    assert abs(found.atom_stable - 0.993) < 0.003


def test_heavy_atoms_keep_their_places(graphs):
    whole = graphs.part("test")[:50]
    heavy = without_hydrogens(whole)
    for b in range(len(whole)):
        kept = whole.mask[b] & (whole.numbers[b] != 1)
        assert torch.equal(whole.positions[b][kept], heavy.positions[b][heavy.mask[b]])
        assert torch.equal(whole.numbers[b][kept], heavy.numbers[b][heavy.mask[b]])
    made = add_hydrogens(heavy).molecules
    for b in range(len(whole)):
        n = heavy.sizes[b]
        torch.testing.assert_close(made.positions[b, :n], heavy.positions[b, :n])
        assert (made.numbers[b, n : made.sizes[b]] == 1).all()


def test_qm9_of_heavy_atoms_has_the_same_split_and_at_most_nine_atoms(graphs, heavy):
    assert torch.equal(graphs.index, heavy.index)
    assert heavy.molecules.mask.shape[1] == MOST_HEAVY
    assert heavy.molecules.elements == HEAVY
    assert heavy.sha256 != graphs.sha256
    assert int(heavy.molecules.bonds.max()) <= 3  # Kekulé: no aromatic bonds
    row = int(heavy.known.nonzero()[1234])
    (mol,) = to_rdkit(without_hydrogens(graphs.molecules[[row]]))
    (cached,) = to_rdkit(heavy.molecules[[row]])
    assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(cached)


def test_a_refused_molecule_stays_and_counts_against_every_share(methanol_and_five_bonds):
    made = add_hydrogens(methanol_and_five_bonds)
    assert made.refused.tolist() == [False, True]
    assert made.molecules.sizes.tolist() == [6, 6]  # CH3OH; the other as it was
    found = evaluate(made.molecules, refused=made.refused)
    assert found.molecule_stable == found.valid == 0.5
    assert found.atom_stable == 0.5
    assert found.problems == {"no hydrogens": 1}


def test_molecules_without_bonds_or_heavy_atoms_are_refused(qm9, graphs):
    with pytest.raises(ValueError, match="no bonds"):
        without_hydrogens(qm9.part("test")[:2])
    with pytest.raises(ValueError, match="no bonds|have none"):
        add_hydrogens(qm9.part("test")[:2])
    dihydrogen = embedded("C", "[H][H]", hydrogens=True)
    with pytest.raises(ValueError, match="molecule 1 has no heavy atom"):
        without_hydrogens(dihydrogen)


def test_heavy_atoms_without_bonds_get_them_from_their_distances(heavy):
    test = heavy.part("test")[:1000]
    made = heavy.form.complete(test.with_(bonds=None, charges=None))
    assert made.refused.double().mean() < 0.03
    assert stability(made.molecules, made.refused).molecule_stable > 0.95
    apart = heavy.form.complete(test.with_(positions=3 * test.positions, bonds=None, charges=None)).molecules
    valence = sum(v * (apart.numbers == z).sum(1) for z, v in ((6, 4), (7, 3), (8, 2), (9, 1)))
    assert torch.equal((apart.numbers == 1).sum(1), valence)  # no bond is left between heavy atoms


def test_every_system_of_molecules_has_a_form_on_heavy_atoms():
    systems = {n for n, s in SYSTEMS.items() if s.data == "QM9"}
    assert {f"{n}-heavy" for n in systems} - SYSTEMS.keys() == {"Flow+bonds-heavy", "Flow-DiT-heavy", "SymDiff*-heavy"}
    for name in ("CanonFlow", "CanonFlow-aug"):
        whole, heavy = recipe(name), recipe(f"{name}-heavy")
        assert (whole.form.longest, heavy.form.longest) == (29, MOST_HEAVY)
        assert heavy.settings.distance_weight == whole.settings.distance_weight > 0


def test_distances_to_data_are_zero_for_itself_and_the_shift_of_stretched_bonds(heavy):
    data = heavy.part("test")[:400].to(torch.float64)
    assert set(distribution_distances(data, data).values()) == {0.0}
    far = distribution_distances(data.with_(positions=1.1 * data.positions), data)
    b, i, j = data.bonds.triu(1).nonzero().unbind(1)
    mean = (data.positions[b, i] - data.positions[b, j]).norm(dim=-1).mean()
    assert far["lengths"] == pytest.approx(0.1 * float(mean), rel=1e-6)
    assert max(far[k] for k in ("angles", "elements", "bonds", "rings", "sizes")) < 1e-6


def test_distances_to_data_see_rings_and_elements():
    far = distribution_distances(embedded("C1CC1", "CCC"), embedded("C1CC1", "C1CC1"))
    assert (far["rings"], far["elements"], far["sizes"]) == (0.5, 0, 0)
    ethers, alkanes = embedded("CO"), embedded("CC")
    assert distribution_distances(ethers, alkanes)["elements"] == 0.5
    with pytest.raises(ValueError, match="no bonds"):
        distribution_distances(ethers.with_(bonds=None), alkanes)
