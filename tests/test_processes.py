import math

import pytest
import torch

from canonkit.molecules import ELEMENTS, Molecules
from canonkit.processes import (
    Diffusion,
    Euclidean,
    FlowMatching,
    Gaussian,
    ImageSpace,
    MaskedMoleculeSpace,
    MoleculeSpace,
    cosine_schedule,
    polynomial_schedule,
)


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
    for steps, message in ((1, "steps 1 is below 2"), (1002, "steps 1002 is above 1001")):
        with pytest.raises(ValueError, match=message):
            process.sample(lambda z, t, mask: z, torch.ones(1), steps=steps)


@pytest.mark.parametrize("steps", [2, 7, None])
def test_steps_are_network_evaluations_of_every_process(steps):
    asked = []

    def network(z, t, mask):
        asked.append(len(z))
        return torch.zeros_like(z)

    for process in (Diffusion(MoleculeSpace()), FlowMatching(MaskedMoleculeSpace(ELEMENTS), Gaussian())):
        asked.clear()
        process.sample(network, torch.tensor([3, 5]), steps)
        assert len(asked) == process.evaluations(steps) == (steps or process.default)


def test_a_flow_says_in_one_line_that_it_has_no_likelihood():
    process = FlowMatching(MaskedMoleculeSpace(ELEMENTS), Gaussian())
    assert not process.has_nll
    with pytest.raises(ValueError, match="^FlowMatching has no likelihood: train a diffusion for an NLL bound$"):
        process.nll(None, None)


def test_molecules_of_other_elements_are_refused():
    x = Molecules.from_arrays(torch.zeros(1, 2, 3), torch.tensor([[15, 1]]))
    with pytest.raises(ValueError, match="'P'"):
        MoleculeSpace().encode(x)


def test_cosine_schedule_has_its_published_shape():
    gamma = cosine_schedule()
    alpha2 = torch.sigmoid(-gamma)
    assert len(gamma) == 1001
    assert (gamma.diff() > 0).all()

    def f(t):
        return math.cos((t / 1001 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 250, 500, 900):
        assert float(alpha2[t]) == pytest.approx(f(t + 1) / f(0), rel=1e-9)
    assert float(torch.sigmoid(gamma[0]).sqrt()) == pytest.approx(0.0064, abs=5e-5)
    assert float(alpha2[-1] / alpha2[-2]) == pytest.approx(1e-3)  # betas are at most 0.999


def test_ddim_follows_the_flow_and_its_error_is_of_first_order():
    scale, sizes = 0.5, torch.ones(2000, dtype=torch.long)
    process = Diffusion(Euclidean((1,)))
    network = gaussian_denoiser(process, scale)

    def spread(steps):
        """Standard deviation of samples, over that of the noise they began with."""
        generator = torch.Generator().manual_seed(0)
        first = process.space.noise(torch.zeros(2000, 1), None, torch.Generator().manual_seed(0)).double().std()
        return float(process.sample(network, sizes, steps, generator, eta=0.0).double().std() / first)

    errors = [abs(spread(steps) - scale) for steps in (25, 50, 100)]
    assert errors[2] < 0.02
    assert 1.6 < errors[0] / errors[1] < 2.5
    assert 1.6 < errors[1] / errors[2] < 2.5


def test_ddim_adds_no_noise_after_the_first():
    process = Diffusion(Euclidean((3,)))
    network = gaussian_denoiser(process, 1.0)
    sizes = torch.ones(4, dtype=torch.long)

    samples = []
    for later in (0, 1):  # other noise after the first draw
        generator = torch.Generator().manual_seed(0)

        def reseed(t, z, generator=generator, later=later):
            generator.manual_seed(later)

        samples.append(process.sample(network, sizes, 10, generator, eta=0.0, on_step=reseed))
    assert torch.equal(*samples)
    with pytest.raises(ValueError, match="eta 2"):
        process.sample(network, sizes, 10, eta=2)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_images_stay_within_their_range_whatever_the_network_says(eta):
    process = Diffusion(ImageSpace((1, 4, 4)), cosine_schedule())
    x = process.sample(lambda z, t, mask: torch.zeros_like(z), torch.ones(8, dtype=torch.long), 20, eta=eta)
    assert x.shape == (8, 1, 4, 4)
    assert torch.isfinite(x).all()
    assert (float(x.min()) >= 0, float(x.max()) <= 1) == (True, True)


def test_image_space_encodes_to_minus_one_and_one_and_back():
    space, x = ImageSpace((1, 4, 4)), torch.rand(3, 1, 4, 4)
    z, mask = space.encode(x)
    assert (mask, space.size) == (None, 16)
    assert (space.decode(z, mask) - x).abs().max() < 1e-6
    assert torch.equal(space.encode(torch.zeros(1, 1, 4, 4))[0], -torch.ones(1, 1, 4, 4))


def test_random_turns_keep_an_image_s_ink_and_are_repeatable():
    space = ImageSpace((1, 28, 28))
    place = torch.linspace(-1, 1, 28)
    blob = torch.exp(-8 * ((place[:, None] - 0.3) ** 2 + place**2)).expand(50, 1, 28, 28)
    turned = space.randomize(blob, torch.Generator().manual_seed(0))
    assert torch.equal(turned, space.randomize(blob, torch.Generator().manual_seed(0)))
    assert (turned.sum((1, 2, 3)) / blob.sum((1, 2, 3)) - 1).abs().max() < 0.02
    centre = (turned * place).sum((1, 2, 3)) / turned.sum((1, 2, 3))
    assert centre.std() > 0.1


def test_squared_error_is_the_loss_without_its_half():
    process = Diffusion(ImageSpace((1, 4, 4)), cosine_schedule())
    x, generator = torch.rand(6, 1, 4, 4), torch.Generator().manual_seed(0)
    draw = process.draw(x, generator)
    network = gaussian_denoiser(process, 1.0)
    error = process.squared_error(network, x, draw)
    assert error.shape == (6,)
    assert float(error.mean()) == pytest.approx(2 * float(process.loss(network, x, draw).total), rel=1e-5)
