import math

import pytest
import torch

from canonkit.molecules import Molecules
from canonkit.processes import Diffusion, Euclidean, MoleculeSpace, polynomial_schedule


def gaussian_denoiser(process, scale):
    """The optimal eps_hat for x ~ N(0, scale^2): sigma_t z / (alpha_t^2 scale^2 + sigma_t^2)."""

    def network(z, t, mask):
        gamma = process.gamma[(t * process.T).round().long()]
        alpha2, sigma2 = (torch.sigmoid(s * gamma).to(z).view(-1, *[1] * (z.ndim - 1)) for s in (-1, 1))
        return sigma2.sqrt() * z / (alpha2 * scale**2 + sigma2)

    return network


def molecules_denoiser(process, scale, one):
    """The same for centred Gaussian positions, and exact for features that are always those of `one`."""
    coordinates = gaussian_denoiser(process, scale)
    features = process.space.encode(one)[0][..., 3:]

    def network(z, t, mask):
        gamma = process.gamma[(t * process.T).round().long()]
        alpha, sigma = (torch.sigmoid(s * gamma).sqrt().to(z)[:, None, None] for s in (-1, 1))
        return torch.cat([coordinates(z[..., :3], t, mask), (z[..., 3:] - alpha * features) / sigma], -1)

    return network


def test_schedule_has_the_published_end_points():
    gamma = polynomial_schedule()
    assert len(gamma) == 1001
    assert f"{gamma[0]:.5f}" == "-11.51292"
    assert f"{gamma[-1]:.5f}" == "11.51252"
    assert f"{torch.sigmoid(gamma[0]).sqrt():.8f}" == "0.00316228"
    assert f"{torch.sigmoid(-gamma[-1]).sqrt():.8f}" == "0.00316291"
    assert (gamma.diff() > 0).all()


def gaussian_bound(process, scale):
    """The mean bound in closed form, nats per dimension, for x ~ N(0, scale^2) and the optimal denoiser."""
    gamma = process.gamma
    alpha2, sigma2 = torch.sigmoid(-gamma), torch.sigmoid(gamma)
    error = alpha2 * scale**2 / (alpha2 * scale**2 + sigma2)  # E |eps - eps_hat|^2
    prior = 0.5 * (alpha2[-1] * scale**2 + sigma2[-1] - 1 - sigma2[-1].log())
    diffusion = (0.5 * torch.expm1(gamma.diff()) * error[1:]).sum()
    return float(prior + diffusion + 0.5 * error[0] + 0.5 * gamma[0] + 0.5 * math.log(2 * math.pi))


def entropy(scale):
    return 0.5 + math.log(scale) + 0.5 * math.log(2 * math.pi)


def test_bound_of_gaussian_data_with_the_optimal_denoiser_is_its_true_nll():
    torch.manual_seed(0)
    scale, dims, count = 1.7, 3, 60_000
    process = Diffusion(Euclidean((dims,)), polynomial_schedule(20_000))  # fine enough that the bound is tight
    x = scale * torch.randn(count, dims)
    truth = 0.5 * (x / scale).square().sum(1) + dims * (entropy(scale) - 0.5)
    gap = process.nll(gaussian_denoiser(process, scale), x) - truth
    error = float(gap.std() / count**0.5)
    assert error < 0.2
    assert abs(float(gap.mean())) < 4 * error


def test_a_thousand_steps_cost_the_bound_four_tenths_of_a_nat_per_dimension():
    gaps = [
        gaussian_bound(Diffusion(Euclidean((1,)), polynomial_schedule(T)), 1.7) - entropy(1.7) for T in (10**3, 10**5)
    ]
    assert gaps[0] == pytest.approx(0.384, abs=0.001)
    assert 0 < gaps[1] < 0.005


def test_bound_of_molecules_counts_the_degrees_of_freedom_of_centred_positions():
    torch.manual_seed(0)
    scale, n, count = 0.8, 4, 40_000
    process = Diffusion(MoleculeSpace())
    x = scale * torch.randn(count, n, 3)
    x = Molecules.from_arrays(x - x.mean(1, keepdim=True), torch.tensor([[6, 1, 8, 9]]).expand(count, n))
    nll = process.nll(molecules_denoiser(process, scale, x[0]), x)
    error = float(nll.std() / count**0.5)
    assert error < 0.5
    assert abs(float(nll.mean()) - 3 * (n - 1) * gaussian_bound(process, scale)) < 4 * error


def test_bound_does_not_depend_on_padding():
    process = Diffusion(MoleculeSpace())
    x = Molecules.from_arrays(torch.randn(50, 3, 3), torch.tensor([[6, 1, 8]]).expand(50, 3)).centred()
    network = gaussian_denoiser(process, 1.0)
    plain = process.nll(network, x, torch.Generator().manual_seed(0)).mean()
    repeats = [process.nll(network, x.pad(7), torch.Generator().manual_seed(s)).mean() for s in range(40)]
    repeats = torch.stack(repeats)
    assert abs(plain - repeats.mean()) < 4 * repeats.std()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_sampler_reproduces_the_moments_of_gaussian_data(scale):
    process = Diffusion(Euclidean((4,)))
    generator = torch.Generator().manual_seed(0)
    x = process.sample(gaussian_denoiser(process, scale), torch.ones(2_000), generator=generator)
    assert abs(float(x.mean())) < 4 * scale / 8_000**0.5
    assert float(x.std()) == pytest.approx(scale, rel=0.03)


def test_sampling_error_falls_with_the_number_of_steps():
    process = Diffusion(Euclidean((4,)))
    network = gaussian_denoiser(process, 2.0)
    errors = []
    for steps in (10, 40, 160):
        x = process.sample(network, torch.ones(10_000), steps, torch.Generator().manual_seed(0))
        errors.append(abs(float(x.std()) - 2.0))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_sampled_molecules_are_centred_have_their_sizes_and_known_types():
    process = Diffusion(MoleculeSpace())
    sizes = torch.tensor([3, 9, 5])
    one = Molecules.from_arrays(torch.zeros(1, 9, 3), torch.full((1, 9), 8))
    x = process.sample(molecules_denoiser(process, 1.0, one), sizes, 20, torch.Generator().manual_seed(0))
    assert x.sizes.tolist() == [3, 9, 5]
    assert x.centroid().abs().max() < 1e-5
    assert (x.numbers[x.mask] == 8).all()
    assert (x.positions[~x.mask] == 0).all()


def test_training_loss_is_the_squared_error_over_its_size():
    process = Diffusion(Euclidean((2, 3)))
    x = torch.randn(500, 2, 3)
    draw = process.draw(x, torch.Generator().manual_seed(0))
    loss = process.loss(lambda z, t, mask: torch.zeros_like(z), x, draw)
    assert float(loss.total) == pytest.approx(0.5 * float(draw.eps.square().mean()), rel=1e-5)
    assert set(loss.terms) == {"coordinates", "reconstruction"}


def test_discrete_likelihood_is_certain_of_the_right_type_and_appalled_by_another():
    space = MoleculeSpace()
    x = Molecules.from_arrays(torch.zeros(2, 3, 3), torch.tensor([[6, 1, 8], [6, 0, 0]]))
    z, mask = space.encode(x)
    sigma = torch.full((2, 1, 1), 0.00316)
    right = space.discrete_log_likelihood(z, z, sigma, mask)
    assert right.abs().max() < 1e-6
    wrong = space.discrete_log_likelihood(z, space.encode(x.with_(types=(x.types + 1) % 5))[0], sigma, mask)
    assert (wrong < -20).all()


def test_times_cover_all_steps_and_steps_out_of_range_are_refused():
    process = Diffusion(Euclidean((1,)))
    t = process.draw(torch.zeros(200_000, 1)).t
    assert (t.min(), t.max()) == (0, 1000)
    with pytest.raises(ValueError, match="steps 1001"):
        process.sample(lambda z, t, mask: z, torch.ones(1), steps=1001)


def test_molecules_of_other_elements_are_refused():
    x = Molecules.from_arrays(torch.zeros(1, 2, 3), torch.tensor([[15, 1]]))
    with pytest.raises(ValueError, match="'P'"):
        MoleculeSpace().encode(x)
