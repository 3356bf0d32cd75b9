"""Flow matching of molecules, its priors and coupling, and the network Canon."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import COUNTS, SMALL, lively

import canonkit as ck
from canonkit.canonicalizers import canonicalizer
from canonkit.chemistry.bonds import perceive_bonds
from canonkit.groups import haar_orthogonal
from canonkit.metrics import velocity_variance
from canonkit.molecules import ELEMENTS, Molecules
from canonkit.networks import Canon, GraphEGNN
from canonkit.networks.canon import order_features
from canonkit.processes import AlignedPrior, FlowMatching, Gaussian, MaskedMoleculeSpace
from canonkit.processes.flow import transport
from canonkit.recipes.names import SYSTEMS, recipe
from canonkit.recipes.run import load_run
from canonkit.trainer import train_recipe

SPACE = MaskedMoleculeSpace(ELEMENTS)


def perfect(x):
    """The network that knows x_1 and the types."""
    z, _ = SPACE.encode(x)
    answer = torch.cat([z[..., :3], 50 * z[..., 3:]], -1)
    return lambda z_t, t, mask: answer.expand_as(z_t)


# -- the process ------------------------------------------------------------------------------------------------------


def test_a_molecule_becomes_z_and_back(sample):
    x = sample[:10].trim().centred()
    z, mask = SPACE.encode(x)
    assert z.shape[-1] == SPACE.features == 9
    assert not z[..., -1].any()
    back = SPACE.decode(z, mask)
    assert back.types.equal(x.types)
    assert (back.positions - x.positions).abs().max() < 1e-5


def test_the_network_meets_straight_ways_and_masked_types(sample):
    x = sample[:64].trim().centred()
    process, seen = FlowMatching(SPACE, Gaussian()), []
    draw = process.draw(x, torch.Generator().manual_seed(0))
    loss = process.loss(lambda z, t, mask: seen.append((z, t)) or torch.zeros_like(z), x, draw)
    ((z, t),) = seen
    expected = (1 - t)[:, None, None] * draw.start + t[:, None, None] * x.positions
    assert (z[..., :3] - expected).abs().max() < 1e-5
    masked = z[..., -1].bool()
    assert masked.equal(x.mask & (draw.u >= t[:, None]))
    assert (z[..., 3:].sum(-1) == x.mask).all()
    # A network that says nothing: the error is that of zero, the surprise log 5.
    size = x.positions.square().sum((1, 2)) / (3 * x.sizes)
    assert float(loss.terms["positions"]) == pytest.approx(float(size.mean()), rel=1e-5)
    assert float(loss.terms["kinds"]) == pytest.approx(0.2 * np.log(5), rel=1e-5)


def test_times_have_the_density_2t_and_atoms_are_known_with_probability_t(sample):
    process = FlowMatching(SPACE, Gaussian())
    x = sample[[0] * 4000].trim()
    draw = process.draw(x, torch.Generator().manual_seed(0))
    assert float(draw.t.mean()) == pytest.approx(2 / 3, abs=4 * (1 / 18 / 4000) ** 0.5)
    known = (draw.u < draw.t[:, None]).float().mean()
    assert float(known) == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize("heun", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_with_a_network_that_knows_the_answer_any_number_of_steps_gives_it(sample, steps, heun):
    x = sample[sample.sizes == 18][:4].trim().centred()
    process, left = FlowMatching(SPACE, Gaussian()), []
    count = []

    def network(z, t, mask):
        count.append(float(t[0]))
        return perfect(x)(z, t, mask)

    made = process.sample(network, x.sizes, steps, heun=heun, on_step=lambda k, z: left.append(k))
    assert (made.positions - x.positions).abs().max() < 1e-5
    assert made.types.equal(x.types)
    assert len(count) <= steps
    assert len(count) >= steps - 1
    assert max(count) < 1
    assert left == sorted(left, reverse=True)


def test_a_linear_field_is_followed_to_the_order_of_the_method():
    """x_1^ = x_t + (1 - t) A x_t makes dx/dt = A x: the errors of Euler and Heun at t = 1 fall as 1/n and 1/n^2."""
    process = FlowMatching(SPACE, Gaussian())
    errors = {}
    for heun in (False, True):
        for n in (20, 40):
            generator = torch.Generator().manual_seed(0)

            def network(z, t, mask):
                out = torch.zeros_like(z)
                out[..., :3] = z[..., :3] * (1 + 0.7 * (1 - t[:, None, None]))
                return out

            seen = []
            steps = 2 * n - 1 if heun else n
            sizes = torch.tensor([4, 4])
            process.sample(
                network, sizes, steps, generator, heun, power=1.0, on_step=lambda k, x, seen=seen: seen.append(x)
            )
            start = process._start(*process.space.blank(sizes), torch.Generator().manual_seed(0))
            # The last step goes to x_1^ in both: compare the step before.
            t = (n - 1) / n
            errors[heun, n] = float((seen[-2] - start * np.exp(0.7 * t)).norm() / start.norm())
    assert errors[False, 20] / errors[False, 40] == pytest.approx(2, rel=0.15)
    assert errors[True, 20] / errors[True, 40] == pytest.approx(4, rel=0.15)


def saying(logits, seen=None):
    """A network that gives those logits of types, (5,) or (N, 5), whatever it is asked."""

    def network(z, t, mask):
        if seen is not None:
            seen.append((z, float(t[0])))
        out = torch.zeros_like(z)
        out[..., 3:8] = logits
        return out

    return network


def test_times_are_denser_near_the_data_and_cold_kinds_are_the_likeliest():
    process, seen = FlowMatching(SPACE, Gaussian()), []
    network = saying(torch.tensor([0.1, 0.3, 0.2, 0.0, 0.0]), seen)
    made = process.sample(network, torch.tensor([20] * 20), 4, power=2.0, temperature=1e-3)
    assert [t for _, t in seen] == pytest.approx([0, 7 / 16, 3 / 4, 15 / 16])
    assert (made.types == 1).all()
    warm = process.sample(network, torch.tensor([20] * 20), 4, torch.Generator().manual_seed(0))
    assert warm.types.unique().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("choice", "low", "high"), [(1e-3, 0.96, 1.04), (0.5, 0.5, 1), (torch.inf, 0.21, 0.29)])
def test_at_time_t_a_share_t_of_the_atoms_is_known_and_the_surest_come_first(choice, low, high):
    process, seen, sure = FlowMatching(SPACE, Gaussian()), [], [1, 4, 6, 7, 9]
    sizes, generator = torch.tensor([20] * 400), torch.Generator().manual_seed(0)
    logits = torch.zeros(20, 5)
    logits[sure, 0] = 20.0  # surely of the first type; the others of any
    process.sample(saying(logits, seen), sizes, 4, generator, power=1.0, choice_temperature=choice)
    known = torch.stack([z[..., 8] == 0 for z, _ in seen])  # (4, B, 20)
    assert known.sum(-1).eq(torch.tensor([0, 5, 10, 15])[:, None]).all()
    assert (known[1:] | ~known[:-1]).all()  # what is known stays known
    assert low < float(known[1][:, sure].float().mean()) < high


def test_remasking_keeps_the_share_and_mends_what_early_steps_got_wrong():
    process, sizes, wrong = FlowMatching(SPACE, Gaussian()), torch.tensor([20] * 200), {}
    for remask in (0.0, 0.7):
        seen = []

        def network(z, t, mask, seen=seen):  # it finds the right type, 1, from t = 1/2 on
            seen.append(z[..., 8] == 0)
            out = torch.zeros_like(z)
            out[..., 3 + int(t[0] >= 0.5)] = 50.0
            return out

        made = process.sample(network, sizes, 8, torch.Generator().manual_seed(0), power=1.0, remask=remask)
        known = torch.stack(seen)  # (8, B, 20)
        assert known.sum(-1).eq((torch.arange(8) * 2.5).round()[:, None]).all()
        assert bool((known[1:] | ~known[:-1]).all()) == (remask == 0)  # whether what is known stays known
        wrong[remask] = float((made.types != 1).float().mean())
    assert wrong[0.0] == pytest.approx(0.5)
    assert 0 < wrong[0.7] < 0.3


def test_in_an_order_left_to_chance_types_follow_the_network_s_probabilities():
    process, p = FlowMatching(SPACE, Gaussian()), torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    network, found = saying(p.clamp(min=1e-9).log()), {}
    for choice in (torch.inf, 0.5):
        generator = torch.Generator().manual_seed(0)
        made = process.sample(network, torch.tensor([20] * 1000), 5, generator, choice_temperature=choice)
        found[choice] = made.types.flatten().bincount(minlength=5) / made.types.numel()
    assert (found[torch.inf] - p).abs().max() < 4 * 0.5 / 20_000**0.5
    assert found[0.5][0] > 0.6  # likely ones are preferred


def test_samples_repeat_with_a_seed_and_bad_steps_are_refused():
    model = lively(recipe("CanonFlow").build(COUNTS), 0.05)
    a, b, c = (model.sample(3, 4, seed=s).positions for s in (0, 0, 1))
    assert a.equal(b)
    assert a.shape != c.shape or not a.equal(c)
    with pytest.raises(ValueError, match="steps 0"):
        model.sample(1, 0)
    for option in ("power", "temperature", "choice_temperature"):
        with pytest.raises(ValueError, match=f"{option} 0 is not above 0"):
            model.sample(1, 2, **{option: 0})
    for remask in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=f"remask {remask} is not a share"):
            model.sample(1, 2, remask=remask)


# -- molecular graphs -------------------------------------------------------------------------------------------------

GRAPHS = MaskedMoleculeSpace(ELEMENTS, graphs=True)


@pytest.fixture(scope="module")
def graphs(sample):
    """Molecules of 15 to 19 atoms with bonds and charges, some of them charged here."""
    x = sample[(sample.sizes >= 15) & (sample.sizes < 20)][:40].trim()
    x = perceive_bonds(x)[0].centred()
    charges = torch.randint(-1, 2, x.types.shape, generator=torch.Generator().manual_seed(0)) * x.mask
    return x.with_(charges=charges, bonds=x.bonds.long())


def knowing(x, seen=None):
    """The network that knows the answer of graphs."""
    z, _ = GRAPHS.encode(x)
    answer = torch.cat([z[..., :3], 50 * z[..., 3:]], -1)
    logits = 50 * torch.nn.functional.one_hot(x.bonds, 5).float()

    def network(z_t, t, mask, bonds):
        if seen is not None:
            seen.append((z_t, t, bonds))
        return answer, logits

    return network


def test_a_graph_becomes_kinds_and_back(graphs):
    kinds = GRAPHS.kinds_of(graphs)
    assert int(kinds.max()) < GRAPHS.kinds == 15
    back = GRAPHS.assemble(graphs.positions, kinds, graphs.bonds, graphs.mask)
    for name in ("types", "charges", "bonds", "mask"):
        assert getattr(back, name).equal(getattr(graphs, name))
    with pytest.raises(ValueError, match="no bonds and charges"):
        GRAPHS.encode(graphs.with_(bonds=None))
    with pytest.raises(ValueError, match="formal charge 2"):
        GRAPHS.encode(graphs.with_(charges=2 * graphs.mask))


def test_for_an_equivariant_network_no_pose_and_no_order_changes_the_loss(graphs):
    """The noise has the same law in all of them, so canonical form changes nothing of what such a network learns."""
    x = graphs[graphs.sizes == graphs.sizes.mode().values].trim()
    x = x.with_(positions=x.positions.double())
    process = FlowMatching(GRAPHS, Gaussian(), distance_weight=1.0, correction=0.2)
    net = lively(GraphEGNN(GRAPHS.features, 16, 2, bonds=GRAPHS.ORDERS)).double()
    draw = process.draw(x, torch.Generator().manual_seed(0))
    (g,), order = haar_orthogonal(1, dtype=torch.float64), torch.randperm(x.mask.shape[1])
    moved = x.act(g.expand(len(x), 3, 3)).permute(order.expand(len(x), -1))
    same = replace(
        draw,
        start=(draw.start @ g.mT)[:, order],
        push=(draw.push @ g.mT)[:, order],
        u=draw.u[:, order],
        v=draw.v[:, order][:, :, order],
    )
    expected, found = process.loss(net, x, draw).terms, process.loss(net, moved, same).terms
    assert expected.keys() == {"positions", "kinds", "bonds", "distances"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)
    plain = lively(Canon(GRAPHS.features, **SMALL, bonds=GRAPHS.ORDERS)).double()
    assert abs(process.loss(plain, x, draw).total - process.loss(plain, moved, same).total) > 1e-3


@pytest.mark.parametrize("steps", [1, 7, 50])  # at 50 kinds and bonds are masked again
def test_a_network_that_knows_the_graph_gives_it_and_has_no_loss(graphs, steps):
    process = FlowMatching(GRAPHS, Gaussian())
    made = process.sample(knowing(graphs), graphs.sizes, steps, torch.Generator().manual_seed(0))
    for name in ("types", "charges", "bonds", "mask"):
        assert getattr(made, name).equal(getattr(graphs, name)), name
    assert (made.positions - graphs.positions).abs().max() < 1e-5
    assert float(process.loss(knowing(graphs), graphs).total) < 1e-6


def test_the_loss_of_distances_is_zero_at_the_truth_and_in_angstrom_elsewhere(graphs):
    process, plain = FlowMatching(GRAPHS, Gaussian(), distance_weight=3.0), FlowMatching(GRAPHS, Gaussian())
    draw = process.draw(graphs, torch.Generator().manual_seed(0))
    assert float(process.loss(knowing(graphs), graphs, draw).terms["distances"]) < 1e-3
    stretched = knowing(graphs.with_(positions=1.1 * graphs.positions))
    found = process.loss(stretched, graphs, draw)
    d = graphs.distances()
    near = (d < 2.7) & (d > 0) & graphs.mask[:, :, None] & graphs.mask[:, None]
    error = (0.1 * d * draw.t.square()[:, None, None])[near].mean()
    assert float(found.terms["distances"]) == pytest.approx(3 * float(error), rel=1e-3)
    assert float(found.total - found.terms["distances"]) == pytest.approx(
        float(plain.loss(stretched, graphs, draw).total), rel=1e-6
    )


def test_the_gradient_of_the_loss_of_distances_is_finite_where_atoms_coincide(graphs):
    places = torch.zeros(graphs.positions.shape, requires_grad=True)
    process = FlowMatching(GRAPHS, Gaussian(), distance_weight=1.0)

    def network(z_t, t, mask, bonds):
        rest = torch.zeros(*z_t.shape[:2], z_t.shape[2] - 3)
        return torch.cat([places, rest], -1), torch.zeros(*bonds.shape, 5)

    process.loss(network, graphs).total.backward()
    assert places.grad.isfinite().all()


def test_self_correction_pushes_some_late_atoms_and_changes_no_other_draw(graphs):
    x = graphs[torch.arange(40).repeat(25)]
    plain, pushing = (FlowMatching(GRAPHS, Gaussian(), correction=c) for c in (0.0, 0.2))
    a, b = (p.draw(x, torch.Generator().manual_seed(0)) for p in (plain, pushing))
    assert a.push is None
    for name in ("t", "start", "u", "v"):
        assert getattr(a, name).equal(getattr(b, name))
    moved = b.push.norm(dim=-1) > 0
    assert not moved[b.t <= 0.25].any()
    late = b.t > 0.25
    some = moved[late].any(1)
    assert abs(float(some.double().mean()) - 0.5) < 0.06
    share = (moved[late].sum(1) / x.sizes[late])[some].mean()
    assert abs(float(share) - 0.5) < 0.05
    assert float(b.push[late][moved[late]].std()) < 0.2


def test_an_unrolled_step_goes_from_an_earlier_time_by_the_network_s_own_prediction(graphs):
    space, seen = MaskedMoleculeSpace(ELEMENTS, graphs=True, self_conditioning=True), []
    process = FlowMatching(space, Gaussian(), unrolled=True)
    draws = [process.draw(graphs, torch.Generator().manual_seed(k)) for k in range(20)]
    assert {d.earlier is not None for d in draws} == {True, False}
    draw = next(d for d in draws if d.earlier is not None)
    assert draw.twice
    assert (draw.earlier < draw.t).all()
    assert (1 - draw.earlier <= 3 * (1 - draw.t) + 1e-6).all()
    constant = torch.ones(3) * graphs.mask[..., None]
    constant = space.project(
        constant + torch.arange(graphs.mask.shape[1])[:, None] * graphs.mask[..., None], graphs.mask
    )

    def network(z_t, t, mask, bonds):
        seen.append((z_t, t))
        return torch.cat([constant, torch.zeros(*z_t.shape[:2], z_t.shape[2] - 3)], -1), torch.zeros(*bonds.shape, 5)

    process.loss(network, graphs, draw)
    (before, s), (after, t) = seen
    assert s.equal(draw.earlier)
    assert t.equal(draw.t)
    share = ((t - s) / (1 - s))[:, None, None]
    expected = before[..., :3] + share * (constant - before[..., :3])
    assert (after[..., :3] - expected).abs().max() < 1e-5
    guess = slice(space.plain, space.plain + 3)
    assert not before[..., guess].any()
    assert (after[..., guess] - constant).abs().max() < 1e-6


@pytest.mark.parametrize("distances", [True, False])
def test_pairs_are_linear_in_coordinates_unless_they_see_distances(distances, monkeypatch):
    monkeypatch.setattr("canonkit.networks.canon.silu", lambda x, inplace=False: x)
    network = lively(Canon(9, **SMALL, distances=distances))
    network.pairs = torch.nn.Identity()
    z = torch.zeros(1, 3, 9)
    z[0, :, 0] = torch.tensor([0.0, 1, 2])
    p = network._pairs(z, torch.zeros(1, SMALL["width"]), None)[0]
    assert torch.allclose(p[2, 0], 2 * p[1, 0], atol=1e-5) != distances


def test_bonds_are_masked_in_pairs_with_probability_1_minus_t(graphs):
    process, seen = FlowMatching(GRAPHS, Gaussian()), []
    x = graphs[[0] * 500].trim()
    draw = process.draw(x, torch.Generator().manual_seed(0))
    process.loss(knowing(x, seen), x, draw)
    ((_, t, bonds),) = seen
    masked = bonds == 5
    assert masked.equal(masked.mT)
    assert not masked.diagonal(dim1=1, dim2=2).any()
    n = int(x.sizes[0])
    share = masked.sum((1, 2)) / (n * (n - 1))
    assert float((share - (1 - t)).mean()) == pytest.approx(0, abs=0.01)
    assert torch.where(masked, x.bonds, bonds).equal(x.bonds)


def test_generated_bonds_are_symmetric_and_stay_among_real_atoms():
    model = recipe("CanonFlow").build(COUNTS)
    made = model.sample(6, 3, seed=0, randomize=True)
    assert made.bonds.equal(made.bonds.mT)
    assert int(made.bonds.max()) <= 4
    assert not made.bonds.diagonal(dim1=1, dim2=2).any()
    assert not made.bonds[~made.mask].any()
    assert made.bonds.any()


def test_a_guess_is_what_was_predicted_before_and_no_gradient_flows_through_it(sample):
    space = MaskedMoleculeSpace(ELEMENTS, self_conditioning=True)
    x = sample[sample.sizes == 18][:4].trim().centred()
    process, seen = FlowMatching(space, Gaussian()), []
    weight = torch.ones((), requires_grad=True)

    def network(z, t, mask):
        seen.append(z.detach())
        return weight * (len(seen) + torch.zeros_like(z)).index_fill(-1, torch.arange(3), 0) + 0 * z

    draw = process.draw(x, torch.Generator().manual_seed(0))
    process.loss(network, x, replace(draw, twice=True)).total.backward()
    assert len(seen) == 2
    assert not seen[0][..., space.plain :].any()
    assert (seen[1][..., space.plain + 3 :] == 1 / 5).all()  # equal logits
    assert seen[1][..., : space.plain].equal(seen[0][..., : space.plain])
    seen.clear()
    process.loss(network, x, replace(draw, twice=False))
    assert len(seen) == 1
    seen.clear()
    process.sample(network, x.sizes, 3, torch.Generator().manual_seed(0))
    assert [bool(z[..., space.plain :].any()) for z in seen] == [False, True, True]
    coins = [process.draw(x[:1], torch.Generator().manual_seed(k)).twice for k in range(200)]
    assert 70 < sum(coins) < 130


def test_canon_sees_the_distances_of_a_guess():
    net = lively(Canon(17, **SMALL, guess=9)).double()
    z, t = torch.randn(2, 5, 17).double(), torch.rand(2).double()
    net.atoms.weight.data[:, 9:] = 0  # tokens do not see it
    other = z.clone()
    other[..., 9:12] += torch.randn(3).double()
    assert (net(other, t) - net(z, t)).abs().max() < 1e-12  # a shift changes no distance
    other[..., 9:12] *= 1.3
    assert (net(other, t) - net(z, t)).abs().max() > 1e-3


@pytest.mark.parametrize("bonds", [0, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_an_evaluation_in_parts_and_in_place_is_that_of_training(monkeypatch, bonds, masked):
    monkeypatch.setattr("canonkit.networks.canon.AT_ONCE", 6**2)  # molecule by molecule, for each thread
    net = lively(Canon(17, **SMALL, guess=9, bonds=bonds)).double()
    z, t = torch.randn(5, 6, 17).double(), torch.rand(5).double()
    mask = torch.arange(6) < torch.tensor([6, 5, 4, 3, 6])[:, None] if masked else None
    orders = torch.randint(0, 6, (5, 6, 6)) if bonds else None
    given = z.clone()
    whole = net(z, t, mask, orders)
    with torch.no_grad():
        parts = net(z, t, mask, orders)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=1e-12)
    assert z.equal(given)


def test_canon_s_bond_logits_are_symmetric_and_do_not_feel_padding():
    net = lively(Canon(9, **SMALL, bonds=5)).double()
    z, t, bonds = torch.randn(2, 5, 9).double(), torch.rand(2).double(), torch.randint(0, 6, (2, 5, 5))
    bonds = bonds.triu(1) + bonds.triu(1).mT
    out, logits = net(z, t, None, bonds)
    assert (logits - logits.transpose(1, 2)).abs().max() < 1e-12
    assert (net(z, t, None, torch.zeros_like(bonds))[0] - out).abs().max() > 1e-3
    pad = torch.nn.functional.pad
    mask = torch.arange(8).expand(2, 8) < 5
    padded = net(pad(z, (0, 0, 0, 3)), t, mask, pad(bonds, (0, 3, 0, 3)))
    assert (padded[0][:, :5] - out).abs().max() < 1e-12
    assert (padded[1][:, :5, :5] - logits).abs().max() < 1e-12


# -- priors and coupling ----------------------------------------------------------------------------------------------


def test_the_aligned_prior_has_the_moments_of_the_ranks():
    generator = torch.Generator().manual_seed(0)
    places = torch.linspace(-6, 6, 7)[:, None] * torch.tensor([1.0, 0.3, 0])
    x = places + 0.5 * torch.randn(5000, 7, 3, generator=generator)
    molecules = Molecules(x, torch.zeros(5000, 7, dtype=torch.long), torch.ones(5000, 7, dtype=torch.bool))
    prior = AlignedPrior(29)
    prior.fit(molecules)
    # Smoothing over half a rank draws the ends in a little and widens what varies along the chain.
    assert (prior.mean[7, :7] - places).abs().max() < 0.6
    assert prior.sd[7, :7, 2].mean() == pytest.approx(0.5 * (6 / 7) ** 0.5, rel=0.05)
    noise = torch.randn(4000, 7, 3, generator=generator)
    drawn = prior(noise, None)
    assert (drawn.mean(0) - prior.mean[7, :7]).abs().max() < 5 * float(prior.sd.max()) / 4000**0.5
    # A number of atoms far from any that was seen takes what is nearest, not a point.
    assert prior.mean[29, 0, 0] < 0.9 * places[0, 0]
    assert prior.mean[29, 28, 0] > 0.9 * places[-1, 0]
    flat = molecules.with_(positions=places.expand(5000, 7, 3) * 1e-3)
    prior.fit(flat)
    assert prior.sd[7, :7].min() == pytest.approx(0.3)
    assert prior.mean[7].sum(0).abs().max() < 1e-5
    with pytest.raises(ValueError, match="has 7 atoms, the prior was made for at most 5"):
        AlignedPrior(5).fit(molecules)


def test_noise_of_the_aligned_prior_lies_nearer_to_canonical_molecules(sample):
    c = canonicalizer("spectral")(sample).x
    prior = AlignedPrior(29)
    prior.fit(c)
    gaps = {}
    for name, p in (("aligned", prior), ("gaussian", Gaussian())):
        draw = FlowMatching(SPACE, p).draw(c, torch.Generator().manual_seed(0))
        gaps[name] = float(((draw.start - c.positions).square().sum(-1) * c.mask).sum() / c.mask.sum())
    assert gaps["aligned"] < 0.8 * gaps["gaussian"]


def test_coupling_finds_the_cheapest_assignment_among_molecules_of_one_size():
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.randn(7, 4, 3, generator=generator) for _ in range(2))
    sizes = torch.tensor([4, 3, 4, 4, 3, 4, 2])
    order = transport(start, end, sizes)
    assert sizes[order].equal(sizes)
    assert order.sort().values.equal(torch.arange(7))
    for n in (4, 3):
        rows = (sizes == n).nonzero()[:, 0].tolist()
        cost = {
            p: sum(float((start[i] - end[j]).square().sum()) for i, j in zip(p, rows, strict=True))
            for p in itertools.permutations(rows)
        }
        assert tuple(order[rows].tolist()) == min(cost, key=cost.get)


def test_coupling_shortens_the_way_and_keeps_the_noise(sample):
    x = sample[sample.sizes == 18][:64].trim().centred()
    processes = [FlowMatching(SPACE, Gaussian(), coupling) for coupling in (False, True)]
    draws = [process.draw(x, torch.Generator().manual_seed(0)) for process in processes]
    plain, dealt = (d.start.flatten(1) for d in draws)
    assert sorted(plain.sum(1).tolist()) == pytest.approx(sorted(dealt.sum(1).tolist()))
    ways = [float((d.start - x.positions).square().sum()) for d in draws]
    assert ways[1] < 0.97 * ways[0]


# -- the network ------------------------------------------------------------------------------------------------------


def test_padding_changes_nothing():
    net = lively(Canon(9, **SMALL)).double()
    z, t = torch.randn(2, 5, 9).double(), torch.rand(2).double()
    padded = torch.cat([z, torch.randn(2, 3, 9).double()], 1)
    mask = torch.arange(8).expand(2, 8) < 5
    out = net(padded, t, mask)
    assert (out[:, :5] - net(z, t)).abs().max() < 1e-12
    assert not out[:, 5:].any()


@pytest.mark.parametrize("ordered", [True, False])
def test_the_order_of_atoms_means_something_only_where_it_is_told(ordered):
    net = lively(Canon(9, **SMALL, ordered=ordered)).double()
    z, t, order = torch.randn(2, 6, 9).double(), torch.rand(2).double(), torch.tensor([3, 0, 5, 1, 4, 2])
    gap = float((net(z[:, order], t) - net(z, t)[:, order]).detach().abs().max())
    assert (gap < 1e-11) != ordered


def test_order_features_are_those_of_the_relative_rank():
    found = order_features(torch.tensor([[True, True, True, False]]), torch.zeros(1, 4, 9, dtype=torch.float64))
    for r in range(3):
        place = (r + 0.5) / 3
        assert float(found[0, r, 0]) == pytest.approx(np.sin(np.pi * place))
        assert float(found[0, r, 15]) == pytest.approx(np.cos(8 * np.pi * place))


def test_the_output_begins_at_zero_and_every_weight_learns():
    torch.manual_seed(0)
    net = Canon(9, **SMALL)
    z, t = torch.randn(3, 6, 9), torch.rand(3)
    assert not net(z, t).any()
    lively(net)(z, t).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_bfloat16_stays_within_its_rounding():
    z, t = torch.randn(3, 6, 9), torch.rand(3)
    net = lively(Canon(9, 256, 2, 8), 0.05)
    plain = net(z, t).detach()
    net.fast_dtype = torch.bfloat16
    fast = net(z, t).detach()
    assert fast.dtype == torch.float32
    assert 1e-6 < float((fast - plain).norm() / plain.norm()) < 0.05


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width 30 is not a multiple of 4"):
        Canon(9, 30, 2, 4)


# -- recipes ----------------------------------------------------------------------------------------------------------


def _inputs(system):
    return system.network, system.data, system.flow.get("graphs"), system.flow.get("self_conditioning")


@pytest.mark.parametrize("name", [name for name, s in SYSTEMS.items() if s.flow])
def test_recipes_of_flows_share_their_network_s_first_weights(name):
    model = recipe(name).build(COUNTS)
    like = [n for n, s in SYSTEMS.items() if s.flow and _inputs(s) == _inputs(SYSTEMS[name])]
    same = recipe(like[0]).build(COUNTS).network.state_dict()
    assert all(v.equal(same[k]) for k, v in model.network.state_dict().items())
    assert model.sample(2, 2, seed=0).mask.any()


@pytest.mark.slow
def test_a_flow_is_trained_resumed_and_sampled(tmp_path, qm9):
    options = {"data": qm9, "progress": False, "validate_every": 3, "samples": 4}
    run = train_recipe("Flow+transport", tmp_path, steps=3, **options)
    assert run.model.process.prior.sd[18, :18].max() > 0.3
    assert run.log[-1]["kind"] in ("valid", "sample")
    assert {"positions", "kinds"} <= run.log[0].keys()
    assert not any("nll" in entry for entry in run.log)
    again = train_recipe("Flow+transport", tmp_path, steps=4, resume=True, **options)
    assert again.step == 4
    assert again.sample(2, 3, seed=0).mask.any()


# -- what the velocity leaves open ------------------------------------------------------------------------------------


def test_runs_that_call_self_conditioning_by_its_old_name_are_loaded_and_resumed(tmp_path, qm9):
    options = {"data": qm9, "progress": False, "batch_size": 8, "sample_every": 0, "validate_every": 0}
    train_recipe("CanonFlow-heavy", tmp_path, steps=1, **options)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("self_conditioning", "guessing"))
    assert load_run(tmp_path).model.process.space.self_conditioning
    assert train_recipe("CanonFlow-heavy", tmp_path, steps=2, resume=True, **options).step == 2


def gaussians(count, n, sd):
    """Molecules of n atoms with Gaussian positions, centred."""
    x = sd * torch.randn(count, n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    real = torch.ones(count, n, dtype=torch.bool)
    return Molecules(x, torch.zeros(count, n, dtype=torch.long), real).centred()


def test_of_gaussian_data_the_velocity_s_variance_has_a_closed_form():
    """Var(x_1 - x_0 | x_t) = s^2 / ((1 - t)^2 + t^2 s^2) for x_1 ~ N(0, s^2), x_0 ~ N(0, 1)."""
    s, times = 2.0, (0.0, 0.3, 0.8)
    found = velocity_variance(FlowMatching(SPACE, Gaussian()), gaussians(6000, 4, s), times)
    freedom = 3 / 4  # the mean is fixed
    for t, variance in zip(times, found.tolist(), strict=True):
        assert variance == pytest.approx(freedom * s**2 / ((1 - t) ** 2 + t**2 * s**2), rel=0.03)


def test_order_and_coupling_leave_less_of_the_velocity_open(qm9):
    x = qm9.molecules[(qm9.molecules.sizes == 18).nonzero()[:2000, 0]]
    open_ = {}
    for name in ("Flow-aug", "Flow+order", "Flow+transport"):
        model = recipe(name).prepare(ck.OwnMolecules(qm9.molecules[:5000])).model
        y = model.process.space.randomize(x, torch.Generator().manual_seed(0)) if name == "Flow-aug" else x
        open_[name] = velocity_variance(model.process, model.canonical(y), (0.0, 0.5))
    assert (open_["Flow+order"] < 0.7 * open_["Flow-aug"]).all()
    assert (open_["Flow+transport"] < 0.9 * open_["Flow+order"]).all()
    with pytest.raises(ValueError, match="molecules of one size"):
        velocity_variance(model.process, qm9.molecules[:10])
    with pytest.raises(ValueError, match="100 molecules are too few"):
        velocity_variance(model.process, x[:100])


# -- trajectories -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CanonFlow", "canon+GDM"])
def test_a_trajectory_goes_from_noise_to_the_samples_and_changes_nothing(name):
    model = recipe(name, "laptop").build(COUNTS)
    plain = model.sample(5, 6, seed=3, batch_size=2)
    path = model.sample(5, 6, seed=3, batch_size=2, trajectory=True)
    assert path.samples.positions.equal(plain.positions)
    assert path.samples.types.equal(plain.types)
    assert len(path) == 5
    assert len(path.frames) == 7  # every state before an evaluation, and the samples
    assert all(frame.mask.equal(plain.mask) for frame in path.frames)
    moved = [(a.positions - b.positions).abs().amax((1, 2)).min() for a, b in itertools.pairwise(path.frames)]
    assert min(map(float, moved)) > 0
    two = path[[4, 1]].thinned(3)
    assert [len(frame) for frame in two.frames] == [2, 2, 2]
    assert two.frames[1].positions.equal(path.frames[3].positions[[4, 1]])
    with pytest.raises(ValueError, match="leave out randomize"):
        model.sample(2, 3, trajectory=True, randomize=True)


def test_the_same_sizes_and_seed_start_two_models_from_the_same_noise():
    one, other = (lively(recipe("canon+GDM", "laptop").build(COUNTS), scale) for scale in (0.01, 0.02))
    a, b = (m.sample(3, 5, sizes=[5, 6, 5], seed=1, trajectory=True) for m in (one, other))
    assert a.frames[0].positions.equal(b.frames[0].positions)
    assert not a.samples.positions.equal(b.samples.positions)
