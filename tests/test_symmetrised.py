"""SymDiff: a transformer without symmetry, made equivariant in law by chance, and the test that tells."""

import math

import pytest
import torch
from conftest import COUNTS, SMALL, lively
from scipy.stats import kstest
from torch import nn

from canonkit.canonicalizers import canonicalizer
from canonkit.certificates import certify, certify_law, certify_samples
from canonkit.groups import act, gram_schmidt, haar_orthogonal, haar_rotations, random_permutations
from canonkit.metrics import objective_variance
from canonkit.molecules import Molecules
from canonkit.networks import EGNN, DiT, Haar, Recursive, Symmetrised, Turn
from canonkit.networks.dit import DISTANCES, FARTHEST, distance_features
from canonkit.networks.symmetrised import turn
from canonkit.processes import MoleculeSpace
from canonkit.recipes.names import recipe


def dit(dtype=torch.float64, **sizes):
    return lively(DiT(9, **(SMALL | sizes))).to(dtype)


def molecules(count=8, atoms=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    positions = 2 * torch.randn(count, atoms, 3, generator=generator).to(dtype)
    types = torch.randint(0, 5, (count, atoms), generator=generator)
    return Molecules(positions, types, torch.ones(count, atoms, dtype=torch.bool))


# -- the network ------------------------------------------------------------------------------------------------------


def test_distance_features_are_the_mean_gaussians_of_the_other_atoms_distances():
    x = 3 * torch.randn(2, 5, 3, dtype=torch.float64)
    found = distance_features(x, torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))
    step = FARTHEST / (DISTANCES - 1)
    for b, n in enumerate((5, 3)):
        for i in range(n):
            for k in (0, 7, DISTANCES - 1):
                terms = [
                    math.exp(-0.5 * ((float((x[b, i] - x[b, j]).norm()) - k * step) / step) ** 2)
                    for j in range(n)
                    if j != i
                ]
                assert float(found[b, i, k]) == pytest.approx(sum(terms) / len(terms), abs=1e-9)
    assert not distance_features(x[:, :1], None).any()


def test_padding_changes_nothing():
    net = dit()
    z, t = torch.randn(2, 5, 9).double(), torch.rand(2).double()
    padded = torch.cat([z, torch.randn(2, 3, 9).double()], 1)
    mask = torch.arange(8).expand(2, 8) < 5
    out = net(padded, t, mask)
    assert (out[:, :5] - net(z, t)).abs().max() < 1e-12
    assert not out[:, 5:].any()


def test_it_is_equivariant_under_permutations_and_not_under_rotations():
    net = dit()
    z, t, order = torch.randn(2, 6, 9).double(), torch.rand(2).double(), torch.randperm(6)
    assert (net(z[:, order], t) - net(z, t)[:, order]).abs().max() < 1e-12
    g = haar_orthogonal(2, dtype=torch.float64)
    assert (net(turn(g, z), t) - turn(g, net(z, t))).abs().max() > 0.1


def test_blocks_begin_as_identities_and_the_output_as_zero():
    torch.manual_seed(0)
    net = DiT(9, **SMALL)
    z, t = torch.randn(3, 6, 9), torch.rand(3)
    assert not net(z, t).any()
    h = torch.randn(3, 6, 32)
    for block in net.transformer.blocks:
        assert block(h, torch.randn(3, 32), None).equal(h)


def test_bfloat16_stays_within_its_rounding_and_is_used_from_width_256_on():
    z, t = torch.randn(3, 6, 9), torch.rand(3)
    for width, low, high in ((32, -1, 1e-12), (256, 1e-6, 0.05)):
        torch.manual_seed(0)
        net = DiT(9, width, 2, 4)
        nn.init.normal_(net.out.weight)
        plain = net(z, t).detach()
        net.fast_dtype = torch.bfloat16
        fast = net(z, t).detach()
        assert fast.dtype == torch.float32
        assert low < float((fast - plain).norm() / plain.norm()) < high


@pytest.mark.parametrize(("width", "heads"), [(30, 4), (33, 3)])
def test_a_width_that_heads_cannot_share_is_refused(width, heads):
    with pytest.raises(ValueError, match=f"width {width} is not an even multiple of {heads}"):
        DiT(9, width, 2, heads)


# -- the kernels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reflections", [True, False])
def test_a_turn_is_in_its_group_and_begins_as_the_identity(reflections):
    torch.manual_seed(0)
    r = Turn(9, 16, 1, 2, reflections).double()
    z, t = torch.randn(64, 5, 9).double(), torch.rand(64).double()
    eye = torch.eye(3, dtype=torch.float64)
    assert (r(z, t) - eye).abs().max() < 1e-14
    lively(r, scale=1.0)
    g = r(z, t)
    assert (g.mT @ g - eye).abs().max() < 1e-12
    determinants = torch.linalg.det(g).round()
    assert set(determinants.tolist()) == ({-1.0, 1.0} if reflections else {1.0})
    assert (g - r(z, t)).abs().max() > 1e-3  # eta is new at every call


def test_a_turn_is_the_q_of_a_qr_decomposition_and_passes_gradients_on():
    torch.manual_seed(0)
    r = lively(Turn(9, 16, 1, 2), scale=1.0).double()
    z, t = torch.randn(16, 5, 9).double(), torch.rand(16).double()
    outputs = []
    r.out.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    g = r(z, t)
    q, upper = torch.linalg.qr(torch.eye(3, dtype=torch.float64) + outputs[0].mean(1).view(-1, 3, 3))
    q = q * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    assert (g - q).abs().max() < 1e-9
    (g * torch.randn_like(g)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in r.parameters())


def test_padding_does_not_change_the_law_of_a_turn():
    """With the noise switched off, not even its value."""
    torch.manual_seed(0)
    r = lively(Turn(9, 16, 1, 2)).double()
    with torch.no_grad():
        r.transformer.atoms.weight[:, -3:] = 0
    z, t = torch.randn(2, 5, 9).double(), torch.rand(2).double()
    padded = torch.cat([z, torch.randn(2, 3, 9).double()], 1)
    mask = torch.arange(8).expand(2, 8) < 5
    assert (r(padded, t, mask) - r(z, t)).abs().max() < 1e-12


def test_the_recursive_kernel_with_a_constant_turn_is_haar_and_its_mean_is_zero():
    R = Recursive(Turn(9, 16, 1, 2))(torch.randn(4000, 3, 9), torch.rand(4000))
    assert R.mean(0).abs().max() < 4 / math.sqrt(3 * 4000)  # entries of a Haar matrix have variance 1/3
    assert (R.square().mean(0) - 1 / 3).abs().max() < 4 * math.sqrt(4 / 45 / 4000)


# -- equivariance in law ----------------------------------------------------------------------------------------------


class Looking(nn.Module):
    """A turn that, unlike one with random weights, depends on z more than on chance."""

    def forward(self, z, t, mask=None):
        return gram_schmidt(*(z[:, k, :3] + 0.3 * torch.randn(len(z), 3) for k in (0, 1)))


def symdiff(as_released=False):
    return Symmetrised(dit(torch.float32), Recursive(Looking(), as_released=as_released))


SYSTEMS = {
    "SymDiff-H": (lambda: Symmetrised(dit(torch.float32), Haar()), True),
    "SymDiff": (lambda: Symmetrised(dit(torch.float32), Recursive(lively(Turn(9, **SMALL)))), True),
    "SymDiff, a turn that looks": (symdiff, True),
    "EDM": (lambda: EGNN(9, 32, 2), True),
    "DiT": (lambda: dit(torch.float32), False),
    "SymDiff, order as released": (lambda: symdiff(as_released=True), False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_law_test_accepts_what_is_equivariant_in_law_and_rejects_the_rest(name):
    """At the level 1 %, eight times over: one rejection at most (more come by chance once in 370), or eight."""
    build, equivariant = SYSTEMS[name]
    f, x = build(), molecules(16)
    p = [certify_law(f, x, draws=48, exchanges=199, seed=seed).p_value for seed in range(8)]
    rejected = sum(value <= 0.01 for value in p)
    assert rejected <= 1 if equivariant else rejected == 8


def test_p_values_are_uniform_where_the_laws_agree():
    f, x = Symmetrised(dit(torch.float32), Haar()), molecules(4)
    p = torch.tensor([certify_law(f, x, draws=8, exchanges=99, seed=seed).p_value for seed in range(60)])
    assert abs(float(p.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 60)


def test_the_mean_mismatch_is_what_chance_makes_of_it_or_much_more():
    x = molecules(16)
    right = certify_law(symdiff(), x, draws=64, exchanges=9)
    wrong = certify_law(symdiff(as_released=True), x, draws=64, exchanges=9)
    assert 0.7 < right.mismatch / right.mismatch_error < 1.4
    assert wrong.mismatch > 1.5 * wrong.mismatch_error
    assert "p value" in str(right)
    assert "mismatch" in right._repr_html_()


def test_certify_takes_denoisers_too():
    x = molecules(4)
    assert certify(EGNN(9, 16, 1), x, draws=4).p_value == 1
    assert certify(dit(), x, draws=16).p_value == 0.001
    with pytest.raises(ValueError, match="DiT is for molecules, and these are images"):
        certify(dit(), torch.zeros(2, 1, 28, 28))


def test_the_law_test_says_what_is_wrong_with_its_arguments():
    with pytest.raises(ValueError, match="no molecules"):
        certify_law(dit(), molecules(0))
    with pytest.raises(ValueError, match="draws 1"):
        certify_law(dit(), molecules(1), draws=1)


def test_the_law_test_leaves_the_global_random_numbers_alone():
    f, x = symdiff(), molecules(1)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    certify_law(f, x, draws=2, exchanges=1)
    assert torch.rand(1).equal(expected)


# -- as a model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DiT", "DiT-Aug", "SymDiff-H", "SymDiff", "canon+DiT"])
def test_recipes_share_the_first_weights_of_their_network(name):
    model, plain = recipe(name).build(COUNTS), recipe("DiT").build(COUNTS)
    network = model.network.network if isinstance(model.network, Symmetrised) else model.network
    theirs = plain.network.state_dict()
    assert all(value.equal(theirs[key]) for key, value in network.state_dict().items())


def test_at_paper_scale_sizes_and_settings_are_the_published_ones():
    chosen = recipe("SymDiff", "paper")
    assert chosen.network_settings == {"width": 384, "depth": 12, "heads": 6}
    assert chosen.kernel_settings == {"width": 128, "depth": 8, "heads": 4}
    s = chosen.settings
    assert (s.batch_size, s.lr, s.ema, s.clip) == (256, 2e-4, 0.9999, 2.0)
    large = recipe("SymDiff*", "paper")
    assert (large.network_settings["width"], large.kernel_settings["width"], large.settings.lr) == (768, 216, 1e-4)
    with pytest.raises(ValueError, match="SymDiff\\* has no laptop scale: choose paper or published"):
        recipe("SymDiff*")


def test_sampling_and_the_bound_repeat_themselves_with_a_seed():
    model = recipe("SymDiff").build(COUNTS)
    lively(model.network, 0.05)
    first, second, other = (model.sample(2, 3, sizes=[5, 6], seed=s).positions for s in (0, 0, 1))
    assert first.equal(second)
    assert not first.equal(other)
    x = molecules(2)
    bounds = [model.nll(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert bounds[0].equal(bounds[1])
    assert not bounds[0].equal(bounds[2])


def test_the_loss_of_symdiff_h_has_the_same_law_in_every_pose():
    torch.manual_seed(0)
    model, x = recipe("SymDiff-H").build(COUNTS), molecules(1)
    lively(model.network, 0.1)
    many = x[[0] * 600]
    turned = many.with_(positions=act(haar_orthogonal(1), many.positions))
    generator = torch.Generator().manual_seed(0)
    losses = []
    for y in (many, turned):
        draw = model.process.draw(y, generator)
        losses.append(model.process.squared_error(model.network, y, draw).detach())
    gap = losses[0].mean() - losses[1].mean()
    assert abs(gap) < 4 * math.sqrt(sum(float(v.var()) for v in losses) / 600)


# -- the noise of the objective ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_a_random_symmetry_adds_to_the_objective_s_variance():
    x = molecules(8)
    found = {}
    for name in ("DiT", "SymDiff-H", "canon+DiT"):
        model = recipe(name).build(COUNTS)
        lively(model.network, 0.05)
        found[name] = objective_variance(model, x, draws=4)
    assert 0.01 < found["SymDiff-H"].loss_share < 1
    assert 0.01 < found["SymDiff-H"].gradient_share < 1
    for name in ("DiT", "canon+DiT"):
        assert found[name].loss_share < 1e-9
        assert found[name].gradient_share < 1e-6
        assert found[name].loss_variance > 0
    assert "gradient noise" in str(found["DiT"])
    with pytest.raises(ValueError, match="draws 1"):
        objective_variance(model, x, draws=1)


class Scaled(nn.Module):
    """eps_hat = w R-dependent: a loss whose variance is known."""

    def __init__(self, spread):
        super().__init__()
        self.w, self.spread = nn.Parameter(torch.zeros(1)), spread

    def forward(self, z, t, mask=None):
        return self.w * z + self.spread * torch.randn(len(z), 1, 1).sign() * torch.ones_like(z)


def test_the_shares_are_those_of_a_loss_whose_variance_is_known():
    """eps_hat = +-s changes sum (eps - eps_hat)^2 by -+ 2 s sum eps, whose variance given eps is 4 s^2 per entry."""
    model = recipe("DiT").build(COUNTS)
    model.network = Scaled(0.5)
    found = objective_variance(model, molecules(200), draws=30)
    model.network = Scaled(0.0)
    assert objective_variance(model, molecules(200), draws=30).loss_share == 0
    # Positions have 3 (N - 1) free directions: their sum over atoms is zero, so types and numbers alone contribute.
    n, size = 6, model.process.space.size
    by_sign = 4 * 0.25 * (6 * n) / size**2
    assert found.loss_share * found.loss_variance == pytest.approx(by_sign, rel=0.1)


def test_the_law_of_randomized_samples_is_invariant_that_of_canonical_ones_is_not(sample):
    c = canonicalizer("spectral")(sample[:400]).x
    space = MoleculeSpace(c.elements)
    assert certify_samples(c, exchanges=199).p_value == 1 / 200
    turned = c.act(haar_rotations(len(c), generator=torch.Generator().manual_seed(0)))
    assert certify_samples(turned, exchanges=199).p_value == 1 / 200  # the order still tells
    shuffled = c.permute(random_permutations(c.mask, generator=torch.Generator().manual_seed(0)))
    assert certify_samples(shuffled, exchanges=199).p_value == 1 / 200  # the pose still tells
    generators = (torch.Generator().manual_seed(k) for k in range(24))
    p = [certify_samples(space.randomize(c, g), exchanges=99, seed=k).p_value for k, g in enumerate(generators)]
    assert kstest(p, "uniform").pvalue > 1e-3
    with pytest.raises(ValueError, match="3 molecules are too few"):
        certify_samples(c[:3])
