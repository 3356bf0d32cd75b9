import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import chisquare, kstest

from canonkit.groups import act, compose, haar_orthogonal, haar_rotations, inverse, random_permutations

DRAWS = 20_000
seeds = st.integers(0, 2**31)
both = pytest.mark.parametrize("haar", [haar_orthogonal, haar_rotations])


def draws(haar, seed=0, batch=DRAWS):
    return haar(batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angles(g):
    """Rotation angles of g, (B,), in [0, pi]."""
    return torch.arccos(((g.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))


def haar_angle_cdf(t):
    return (t - torch.sin(torch.as_tensor(t)).numpy()) / torch.pi  # of the density (1 - cos t) / pi


@both
def test_haar_elements_are_orthogonal(haar):
    g = draws(haar)
    assert (g @ g.mT - torch.eye(3)).abs().max() < 1e-13


def test_rotations_have_determinant_one():
    assert (torch.linalg.det(draws(haar_rotations)) - 1).abs().max() < 1e-13


def test_half_of_orthogonal_elements_are_reflections():
    det = torch.linalg.det(draws(haar_orthogonal))
    assert (det.abs() - 1).abs().max() < 1e-13
    assert abs(float((det > 0).double().mean()) - 0.5) < 4 * 0.5 / DRAWS**0.5


@both
def test_haar_draws_repeat_with_the_generator(haar):
    assert torch.equal(draws(haar, seed=3, batch=5), draws(haar, seed=3, batch=5))
    assert not torch.allclose(draws(haar, seed=3, batch=5), draws(haar, seed=4, batch=5))


@both
def test_single_and_double_precision_draw_the_same_elements(haar):
    single = haar(7, generator=torch.Generator().manual_seed(1))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), draws(haar, seed=1, batch=7), atol=1e-6, rtol=0)


@both
def test_haar_moments(haar):
    g = draws(haar).flatten(1)
    # E R_ij = 0 with variance 1/3; E R_ij R_kl = (1/3) [ij = kl], each product of variance below 1/4.
    assert g.mean(0).abs().max() < 5 * (1 / 3 / DRAWS) ** 0.5
    assert (g.mT @ g / DRAWS - torch.eye(9) / 3).abs().max() < 5 * 0.5 / DRAWS**0.5


def test_haar_angles_have_density_one_minus_cos():
    assert kstest(angles(draws(haar_rotations)).numpy(), haar_angle_cdf).pvalue > 0.01


def test_three_uniform_euler_angles_are_not_haar():
    euler = 2 * torch.pi * torch.rand(DRAWS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = torch.from_numpy(Rotation.from_euler("xyz", euler.numpy()).as_matrix())
    assert kstest(angles(g).numpy(), haar_angle_cdf).pvalue < 1e-6


def test_haar_measure_is_invariant_under_the_group():
    turned = compose(draws(haar_rotations, 1, 1), draws(haar_rotations))
    assert kstest(angles(turned).numpy(), haar_angle_cdf).pvalue > 0.01


@given(seeds)
def test_composition_acts_as_the_second_then_the_first(seed):
    g1, g2 = draws(haar_orthogonal, seed, 8).split(4)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(act(compose(g1, g2), x), act(g1, act(g2, x)), atol=1e-12, rtol=0)


@given(seeds)
def test_inverse_undoes_the_action(seed):
    g = draws(haar_orthogonal, seed, 4)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(act(inverse(g), act(g, x)), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(compose(g, inverse(g)), torch.eye(3, dtype=g.dtype).expand(4, 3, 3), atol=1e-12, rtol=0)


def test_quarter_turn_about_z_takes_x_to_y():
    turn = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    assert act(turn, torch.tensor([[[1.0, 0, 0]]])).tolist() == [[[0, 1, 0]]]


def test_permutations_are_uniform_and_leave_padding_last():
    mask = torch.tensor([[True, True, True, False, False]]).expand(6_000, 5)
    order = random_permutations(mask, generator=torch.Generator().manual_seed(0))
    assert (order[:, 3:] == torch.tensor([3, 4])).all()
    counts = order[:, :3].unique(dim=0, return_counts=True)[1].double()
    assert len(counts) == 6
    assert chisquare(counts.numpy()).pvalue > 1e-3
