import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from canonkit.groups import haar_orthogonal
from canonkit.metrics import bond_orders
from canonkit.molecules import ELEMENTS, Molecules

seeds = st.integers(0, 2**31)
WATER = [[0.0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]
HF = [[0.0, 0, 0], [0, 0, 0.92]]


def water_and_hf():
    x = Molecules.from_list([np.array(WATER), np.array(HF)], [[8, 1, 1], [9, 1]])
    return x.with_(bonds=bond_orders(x), charges=torch.tensor([[-1, 1, 0], [2, -2, 0]]))


def random_molecules(seed, batch=4, atoms=6):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, atoms + 1, batch)
    numbers = [rng.choice([1, 6, 7, 8, 9], n) for n in sizes]
    return Molecules.from_list([3 * rng.normal(size=(n, 3)) for n in sizes], numbers)


# -- making ones --


def test_shorter_molecules_are_padded_with_zeros():
    x = water_and_hf()
    assert x.sizes.tolist() == [3, 2]
    assert x.mask.tolist() == [[True] * 3, [True, True, False]]
    assert x.positions[1, 2].tolist() == [0, 0, 0]
    assert x.elements == ELEMENTS


@given(st.lists(st.lists(st.sampled_from([1, 6, 7, 8, 9]), min_size=1, max_size=7), min_size=1, max_size=5))
def test_atomic_numbers_round_trip(numbers):
    x = Molecules.from_list([np.zeros((len(z), 3)) for z in numbers], numbers)
    assert [row[:n].tolist() for row, n in zip(x.numbers, x.sizes, strict=True)] == numbers
    assert (x.numbers == 0).equal(~x.mask)


def test_elements_outside_qm9_make_a_table_of_their_own():
    x = Molecules.from_list([np.eye(3)], [[17, 6, 53]])
    assert x.elements == ("C", "Cl", "I")
    assert x.numbers.tolist() == [[17, 6, 53]]


def test_another_table_of_elements_names_the_same_atoms():
    x = Molecules.from_list([np.eye(3), np.eye(3)[:2]], [[17, 6, 53], [6, 17]])
    wider = x.with_elements(("I", "C", "N", "Cl"))
    assert wider.numbers.equal(x.numbers)
    assert wider[1].with_elements(("Cl", "C")).types.tolist() == [[1, 0, 0]]
    with pytest.raises(ValueError, match=r"element I is not in the table \('C', 'Cl'\): leave such molecules out"):
        wider.with_elements(("C", "Cl"))


@pytest.mark.parametrize(
    ("positions", "numbers", "options", "message"),
    [
        (np.zeros((1, 3, 3)), np.ones((1, 2)), {}, r"\(1, 3, 3\) and numbers \(1, 2\) do not fit"),
        (np.zeros((1, 3, 2)), np.ones((1, 3)), {}, "do not fit"),
        (np.zeros((3, 3)), np.ones(3), {}, "do not fit"),
        (np.zeros((1, 2, 3)), [[6, 119]], {}, "atomic number 119"),
        (np.zeros((1, 2, 3)), [[6, -1]], {}, "atomic number -1"),
        (np.zeros((1, 2, 3)), [[6, 17]], {"elements": ELEMENTS}, "element Cl is not in the table"),
        (np.zeros((1, 2, 3)), [[6, 1]], {"elements": ("C", "Hx")}, "Hx"),
        (np.zeros((1, 3, 3)), [[6, 0, 1]], {}, "padding"),
        (np.zeros((1, 2, 3)), [[6, 1]], {"bonds": torch.zeros(1, 3, 3)}, "bonds"),
        (np.zeros((1, 2, 3)), [[6, 1]], {"charges": torch.zeros(1, 3)}, "charges"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(positions, numbers, options, message):
    with pytest.raises(ValueError, match=message):
        Molecules.from_arrays(positions, numbers, **options)


@pytest.mark.parametrize(
    ("positions", "numbers"),
    [
        ([], []),
        ([np.zeros((1, 3))], [[6, 1, 1]]),  # must not be broadcast
        ([np.zeros((3, 3))], [[6, 1]]),
        ([np.zeros((1, 3)), np.zeros((1, 3))], [[6]]),
    ],
)
def test_lists_that_do_not_fit_are_refused(positions, numbers):
    with pytest.raises(ValueError, match="molecule"):
        Molecules.from_list(positions, numbers)


def test_a_first_molecule_of_whole_numbers_does_not_round_the_others():
    x = Molecules.from_list([[[0, 0, 0]], [[0.5, 0, 0]]], [[1], [1]])
    assert x.positions[1, 0, 0] == 0.5


# -- choosing --


@pytest.mark.parametrize(
    ("index", "sizes"),
    [
        (1, [2]),
        (-1, [2]),
        (-2, [3]),
        (np.int64(1), [2]),
        (torch.tensor(1), [2]),
        (slice(0, 1), [3]),
        ([1, 0], [2, 3]),
        (torch.tensor([1, 1]), [2, 2]),
        (torch.tensor([True, False]), [3]),
    ],
)
def test_an_index_gives_a_batch(index, sizes):
    chosen = water_and_hf()[index]
    assert chosen.sizes.tolist() == sizes
    assert chosen.bonds.shape == (len(sizes), 3, 3)
    assert chosen.positions.ndim == 3


@pytest.mark.parametrize("index", [2, -3])
def test_an_index_out_of_range_is_an_error(index):
    with pytest.raises(IndexError):
        water_and_hf()[index]


def test_iteration_gives_trimmed_molecules_one_by_one():
    assert [m.positions.shape for m in water_and_hf()] == [(1, 3, 3), (1, 2, 3)]


# -- changing --


@given(seeds, st.integers(0, 4))
def test_trimming_undoes_padding(seed, more):
    x = random_molecules(seed).trim()
    x = x.with_(bonds=bond_orders(x))
    padded = x.pad(x.mask.shape[1] + more)
    assert padded.bonds.shape == (4, *[x.mask.shape[1] + more] * 2)
    assert not padded.positions[~padded.mask].any()
    for name in ("positions", "types", "mask", "bonds"):
        assert getattr(padded.trim(), name).equal(getattr(x, name))


def test_concatenation_keeps_every_molecule():
    x = water_and_hf()
    both = Molecules.cat([x[1:].trim(), x])
    assert both.sizes.tolist() == [2, 3, 2]
    assert both[1:].positions.equal(x.positions)
    assert both[1:].bonds.equal(x.bonds)
    assert both[0].charges.equal(x[1].charges)


def test_concatenation_refuses_what_does_not_belong_together():
    x = water_and_hf()
    with pytest.raises(ValueError, match="no molecules"):
        Molecules.cat([])
    with pytest.raises(ValueError, match="element tables differ"):
        Molecules.cat([x, Molecules.from_list([np.zeros((1, 3))], [[17]])])
    for mixed in ([x, x.with_(bonds=None)], [x.with_(bonds=None), x]):
        with pytest.raises(ValueError, match="bonds"):
            Molecules.cat(mixed)


@given(seeds)
def test_rotations_reflections_and_translations_keep_distances_and_padding(seed):
    x = random_molecules(seed)
    generator = torch.Generator().manual_seed(seed)
    moved = x.act(haar_orthogonal(4, generator=generator, dtype=torch.float64)).translate(
        torch.randn(4, 3, generator=generator, dtype=torch.float64)
    )
    pair = x.mask[:, :, None] & x.mask[:, None]
    assert (moved.distances() - x.distances())[pair].abs().max() < 1e-12
    assert not moved.positions[~x.mask].any()


@given(seeds)
def test_centring_removes_translations(seed):
    x = random_molecules(seed)
    v = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert x.centred().centroid().abs().max() < 1e-14
    torch.testing.assert_close(x.translate(v).centred().positions, x.centred().positions, atol=1e-13, rtol=0)
    torch.testing.assert_close(x.translate(v).centroid()[:, 0] - x.centroid()[:, 0], v, atol=1e-13, rtol=0)


def test_permutation_moves_atoms_with_their_bonds_and_charges():
    x = water_and_hf()
    y = x.permute(torch.tensor([[2, 0, 1], [1, 0, 2]]))
    assert y.numbers.tolist() == [[1, 8, 1], [1, 9, 0]]
    assert y.charges.tolist() == [[0, -1, 1], [-2, 2, 0]]
    assert y.mask.equal(x.mask)
    assert y.positions[0].equal(x.positions[0, [2, 0, 1]])
    assert y.bonds.equal(bond_orders(y))
    assert not y.bonds.equal(x.bonds)


def test_methods_leave_the_original_alone():
    x = water_and_hf()
    before = x.positions.clone()
    x.centred(), x.translate(torch.ones(2, 3)), x.act(-torch.eye(3, dtype=torch.float64).expand(2, 3, 3)), x.pad(9)
    assert x.positions.equal(before)


def test_a_dtype_changes_positions_only():
    x = water_and_hf().to(torch.float32)
    assert x.positions.dtype == torch.float32
    assert x.types.dtype == x.bonds.dtype == torch.int64


# -- checking --


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_coordinate_that_is_not_finite_is_named(bad):
    x = water_and_hf()
    x.positions[1, 0, 2] = bad
    with pytest.raises(ValueError, match="molecule 1 has a NaN or infinite"):
        x.check()


@pytest.mark.parametrize("molecule", [0, 4999])
def test_coinciding_atoms_are_named(molecule):
    x = Molecules.from_list([np.array(HF)] * 5000, [[9, 1]] * 5000)
    assert x.check() is x
    x.positions[molecule, 1, 2] = 0.05
    with pytest.raises(ValueError, match=f"atoms 0 and 1 of molecule {molecule} lie 0.050 Å apart"):
        x.check()


def test_padding_does_not_count_as_coinciding_atoms():
    assert water_and_hf().pad(9).check()
