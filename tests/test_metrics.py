import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from canonkit.canonicalizers import Identity, Inertial
from canonkit.certificates import nearest_jump
from canonkit.chemistry.formats import from_rdkit
from canonkit.groups import haar_rotations
from canonkit.metrics import (
    bond_orders,
    chemistry,
    coulomb_spectrum,
    evaluate,
    known_smiles,
    pose_statistics,
    properties,
    rank_spread,
    sliced_wasserstein,
    smiles_of,
    stability,
)
from canonkit.molecules import Molecules

# -- EDM's rule, written down once more --

B1 = "HH74 HC109 HN101 HO96 HF92 CC154 CN147 CO143 CF135 NN145 NO140 NF136 OO148 OF142 FF142"
B2 = "CC134 CN129 CO120 NN125 NO121 OO121"
B3 = "CC120 CN116 CO113 NN110"
VALENCE = {"H": 1, "C": 4, "N": 3, "O": 2, "F": 1}


def lengths(table):
    pairs = {(entry[0], entry[1]): int(entry[2:]) for entry in table.split()}
    return pairs | {(b, a): d for (a, b), d in pairs.items()}


B1, B2, B3 = map(lengths, (B1, B2, B3))


def order_by_hand(a, b, d):
    if d >= B1.get((a, b), -99) + 10:
        return 0
    if d >= B2.get((a, b), -99) + 5:
        return 1
    return 2 if d >= B3.get((a, b), -99) + 3 else 3


def pair(a, b, distance):
    return one(a + b, [[0, 0, 0], [0, 0, distance]])


def one(symbols, positions):
    numbers = [Chem.GetPeriodicTable().GetAtomicNumber(s) for s in symbols]
    return Molecules.from_list([np.array(positions, dtype=np.float64)], [numbers])


def embedded(smiles, seed=0):
    """A molecule with its MMFF geometry."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    AllChem.MMFFOptimizeMolecule(mol, maxIters=2000)
    return from_rdkit([mol])


@pytest.mark.slow
def test_qm9_is_stable_as_published(qm9):
    x = qm9.molecules
    atoms = molecules = 0
    for n in x.sizes.unique().tolist():  # by length, to be quick
        part = stability(x[x.sizes == n].trim())
        atoms, molecules = atoms + int(part.atoms.sum()), molecules + int(part.molecules.sum())
    assert f"{molecules / len(x):.2%}" == "95.28%"
    assert f"{atoms / int(x.sizes.sum()):.2%}" == "99.36%"


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_bond_orders_agree_with_the_rule_by_hand(sample, generator, noise):
    x = sample[:100].to(torch.float64)
    x = x.with_(
        positions=x.positions + noise * torch.randn(x.positions.shape, generator=generator, dtype=torch.float64)
    )
    orders, scored = bond_orders(x), stability(x)
    for b, n in enumerate(x.sizes.tolist()):
        symbols = [x.elements[k] for k in x.types[b, :n].tolist()]
        sums = [0] * n
        for i in range(n):
            for j in range(n):
                if i != j:
                    d = 100 * float((x.positions[b, i] - x.positions[b, j]).norm())
                    by_hand = order_by_hand(symbols[i], symbols[j], d)
                    assert orders[b, i, j] == by_hand
                    sums[i] += by_hand
        stable = [total == VALENCE[s] for total, s in zip(sums, symbols, strict=True)]
        assert scored.atoms[b, :n].tolist() == stable
        assert scored.molecules[b] == all(stable)
    assert not orders[~(x.mask[:, :, None] & x.mask[:, None])].any()
    assert not scored.atoms[~x.mask].any()


def angstroms(picometres):
    """The distance x for which 100 x is that many pm to the last bit; where rounding skips it, the next above."""
    around = picometres / 100 * (1 + np.arange(-4, 5) * 2.0**-52)
    return min(x for x in around if 100 * x >= picometres)


@pytest.mark.parametrize(
    ("a", "b", "threshold", "order"),
    [(*p, d + m, k) for k, (t, m) in enumerate(((B1, 10), (B2, 5), (B3, 3)), 1) for p, d in t.items()],
)
def test_thresholds_are_strict(a, b, threshold, order):
    at, below = (bond_orders(pair(a, b, d))[0, 0, 1] for d in (angstroms(threshold), angstroms(threshold) - 1e-9))
    assert (at, below) == (order - 1, order)


def test_most_thresholds_are_met_to_the_last_bit():
    thresholds = [d + m for t, m in ((B1, 10), (B2, 5), (B3, 3)) for d in t.values()]
    assert sum(100 * angstroms(t) == t for t in thresholds) > 0.8 * len(thresholds)


def test_an_element_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="knows H, C, N, O, F, not Cl"):
        stability(one(["H", "Cl"], [[0, 0, 0], [0, 0, 1.27]]))


def test_nothing_cannot_be_scored(sample):
    for score in (stability, chemistry, evaluate):
        with pytest.raises(ValueError, match="no molecules given"):
            score(sample[:0])


def test_mmff_benzene_is_unstable_yet_valid():
    benzene = embedded("c1ccccc1")
    scored = stability(benzene)
    assert scored.atoms[0].tolist() == [False] * 6 + [True] * 6
    assert scored.molecule_stable == 0
    assert scored.atom_stable == 0.5
    # C-C of 139.5 pm is no double bond to the rule; RDKit then fills in hydrogens: cyclohexane.
    (smiles,), problems = smiles_of(benzene)
    assert Chem.CanonSmiles(smiles) == "C1CCCCC1"
    assert not problems


def test_nitromethane_is_unstable():
    assert stability(embedded("C[N+](=O)[O-]")).molecule_stable == 0


def test_coordinates_must_be_right_to_two_hundredths_of_an_angstrom(sample, generator):
    noise = torch.randn(sample.positions.shape, generator=generator)
    shares = [
        stability(sample.with_(positions=sample.positions + s * noise)).molecule_stable for s in (0.02, 0.05, 0.1)
    ]
    assert shares == pytest.approx([0.76, 0.07, 0.0], abs=0.03)


# -- chemistry --

METHANE = [[0, 0, 0], [0.63, 0.63, 0.63], [0.63, -0.63, -0.63], [-0.63, 0.63, -0.63], [-0.63, -0.63, 0.63]]
WATER = [[0, 0, 0], [0.76, 0.58, 0], [-0.76, 0.58, 0]]
CROWD = [[0, 0, 0], [1.09, 0, 0], [-1.09, 0, 0], [0, 1.09, 0], [0, -1.09, 0], [0, 0, 1.09]]  # CH5


def by_hand():
    return Molecules.cat([one("CHHHH", METHANE), one("CHHHH", METHANE), one("OHH", WATER), one("CHHHHH", CROWD)])


def test_2000_molecules_of_qm9_are_valid_as_published(sample):
    scored = chemistry(sample)
    assert scored.valid == pytest.approx(0.977, abs=0.01)
    assert sum(s is None for s in scored.smiles) == sum(scored.problems.values())


def test_uniqueness_is_of_the_valid_and_novelty_of_the_unique():
    scored = chemistry(by_hand(), known=smiles_of(one("OHH", WATER))[0])
    assert (scored.valid, scored.unique, scored.novel) == (3 / 4, 2 / 3, 1 / 2)
    assert chemistry(by_hand()).novel is None
    assert [s and Chem.CanonSmiles(s) for s in scored.smiles] == ["C", "C", "O", None]


def test_the_largest_fragment_counts():
    apart = [*METHANE, [9, 9, 9], [9.74, 9, 9]]
    assert smiles_of(one("CHHHHHH", apart))[0] == smiles_of(one("CHHHH", METHANE))[0]


def test_rdkits_complaints_are_counted_and_not_printed(capfd):
    scored = chemistry(by_hand(), progress=False)
    assert scored.problems == {"AtomValenceException": 1}
    assert capfd.readouterr() == ("", "")


def test_nothing_valid_is_zero_not_a_crash():
    scored = chemistry(one("CHHHHH", CROWD), known=["C"])
    assert (scored.valid, scored.unique, scored.novel) == (0, 0, 0)


def test_known_smiles_are_built_once(sample, cache, monkeypatch):
    first = known_smiles(sample[:30], progress=False)
    assert first == {s for s in smiles_of(sample[:30])[0] if s}
    monkeypatch.setattr(Chem, "SanitizeMol", None)
    assert known_smiles(sample[:30], progress=False) == first


def test_known_smiles_of_different_molecules_are_kept_apart(sample, cache):
    first, second = (known_smiles(part, progress=False) for part in (sample[:30], sample[30:60]))
    assert second == {s for s in smiles_of(sample[30:60])[0] if s}
    assert first != second


def test_a_damaged_cache_of_smiles_is_made_anew(sample, cache):
    first = known_smiles(sample[:30], progress=False)
    (path,) = cache.iterdir()
    path.write_text(path.read_text()[:-20])
    assert known_smiles(sample[:30], progress=False) == first


def test_evaluation_gathers_all_metrics():
    scored = evaluate(by_hand(), known=[])
    assert (scored.molecules, scored.molecule_stable, scored.atom_stable) == (4, 3 / 4, pytest.approx(18 / 19))
    assert (scored.valid, scored.unique, scored.novel) == (3 / 4, 2 / 3, 1)
    assert "molecule stable: 75.00%" in str(scored)
    assert "RDKit refused: 1 x AtomValenceException" in str(scored)
    assert "66.67%" in scored._repr_html_()


# -- poses --


def test_planar_molecules_laid_in_xy_have_no_height():
    ring = one("OHHH", [[0, 0, 0], [1, 0, 0], [0, 2, 0], [-1, -1, 0]]).translate(torch.tensor([[0.0, 0, 7]]).double())
    scored = pose_statistics(ring)
    assert scored.planar_share == 1
    assert scored.planar_rms_z < 1e-12
    assert scored.rms[2] < 1e-12
    turned = pose_statistics(ring.act(torch.tensor([[[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]]).double()))
    assert turned.planar_share == 1
    assert turned.planar_rms_z == pytest.approx(scored.rms[0])


def test_rms_along_the_axes_by_hand():
    scored = pose_statistics(one("HHHH", [[3, 0, 0], [-3, 0, 0], [0, 2, 1], [0, -2, -1]]))
    assert scored.rms == pytest.approx(((18 / 4) ** 0.5, (8 / 4) ** 0.5, (2 / 4) ** 0.5))
    assert scored.long_axis == pytest.approx(1)


def test_long_axes_of_random_poses_are_half_along_x(sample, generator):
    turned = pose_statistics(sample.act(haar_rotations(len(sample), generator=generator)))
    # |cos| is uniform on [0, 1]: mean 1/2, variance 1/12.
    assert abs(turned.long_axis - 0.5) < 4 * (1 / 12 / len(sample)) ** 0.5
    assert turned.rms == pytest.approx([np.mean(turned.rms)] * 3, rel=0.05)


def test_pose_statistics_do_not_see_translations_or_padding(sample):
    x = sample[:50]
    moved = pose_statistics(x.pad(40).translate(torch.full((50, 3), 3.0)))
    assert moved.rms == pytest.approx(pose_statistics(x).rms, abs=1e-4)


def test_molecules_of_two_atoms_have_no_pose_to_speak_of():
    with pytest.raises(ValueError, match="three atoms"):
        pose_statistics(pair("H", "H", 0.74))


def test_rank_spread_is_zero_for_copies_and_the_scatter_otherwise(sample):
    x = sample[:1].trim()
    copies = x[[0] * 5]
    assert float(rank_spread(copies).max()) < 1e-6
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(4000, *x.positions.shape[1:], generator=generator)
    many = x[[0] * 4000]
    n = x.mask.shape[1]
    scatter = rank_spread(many.with_(positions=many.positions + noise))
    assert float(scatter.mean()) == pytest.approx(0.1 * (3 * (1 - 1 / n)) ** 0.5, rel=0.02)
    assert torch.isnan(rank_spread(sample[:1].trim())).all()


def test_sliced_wasserstein_sees_a_turn_and_is_zero_for_the_same(sample):
    long = Inertial()(sample[:300]).x
    assert sliced_wasserstein(long, long) == 0
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).expand(300, 3, 3)
    turned = long.act(quarter)
    assert sliced_wasserstein(long, turned) > 0.2
    assert sliced_wasserstein(long, turned) == pytest.approx(sliced_wasserstein(turned, long))
    halves = sliced_wasserstein(long[:150], long[150:])
    assert halves < 0.15 < sliced_wasserstein(long, turned)


def test_sliced_wasserstein_of_a_shifted_cloud_is_its_mean_shift():
    """One direction at a time a shift by v moves quantiles by |v . u|, whose mean over the sphere is |v| / 2."""
    x = torch.zeros(1, 400, 3, dtype=torch.float64)
    x[0, :, 0] = torch.linspace(-3, 3, 400)
    types = torch.ones(1, 400, dtype=torch.long)
    line = Molecules(x, types, types > 0)
    found = sliced_wasserstein(line, line.with_(positions=2 * x), directions=4000)
    assert found == pytest.approx(0.5 * 1.5, rel=0.03)  # mean |x| is 1.5


def test_properties_know_planar_long_and_known_molecules(sample, qm9):
    found = properties(sample[:40], train=sample[10:60], known={smiles_of(sample[:1])[0][0]})
    assert torch.equal(found["atoms"], sample[:40].sizes.double())
    assert (found["distance to training set"][10:] < 1e-5).all()
    assert found["nearest training molecule"][10:].tolist() == list(range(30))
    assert (found["distance to training set"][:10] > 0.01).any()
    assert float(found["novel"][0]) == 0
    ring = found["thickness (Å)"]
    assert (ring >= 0).all()
    assert (found["elongation"] >= 1).all()


def test_coulomb_spectrum_does_not_see_pose_order_or_padding(sample, generator):
    x = sample[:20].to(torch.float64)
    spectrum = coulomb_spectrum(x)
    turned = x.act(haar_rotations(20, generator=generator, dtype=torch.float64)).translate(torch.ones(20, 3).double())
    assert (coulomb_spectrum(turned) - spectrum).abs().max() < 1e-8
    padded = coulomb_spectrum(x.pad(40))
    assert (padded[:, : spectrum.shape[1]] - spectrum).abs().max() < 1e-8
    assert padded[:, spectrum.shape[1] :].abs().max() == 0
    # Hydrogen: 0.5 on the diagonal, 1 / (0.74 Å in bohr) off it.
    off = 0.529177 / 0.74
    assert coulomb_spectrum(pair("H", "H", 0.74).to(torch.float64))[0].tolist() == pytest.approx([0.5 + off, 0.5 - off])


def test_nearest_jump_is_small_where_the_pose_is_about_to_flip(qm9):
    """A molecule stretched until two principal axes all but agree."""
    inertial = Inertial()
    x = qm9.molecules[5000:5001].trim().to(torch.float64)
    assert nearest_jump(Identity(), x) == float("inf")
    c = inertial(x).x
    spread = c.positions.square().sum(1).sqrt()[0]
    even = c.with_(positions=c.positions * (spread.mean() / spread))
    assert nearest_jump(inertial, even) <= nearest_jump(inertial, x)
    assert nearest_jump(inertial, even) < 0.1
