"""Random numbers that belong to a sample: their law, and that samples do not depend on their company."""

import math

import pytest
import torch
from conftest import lively

from canonkit.metrics.likelihood import likelihood
from canonkit.molecules import Molecules
from canonkit.randomness import Draws, choose, for_batch, repeatable
from canonkit.recipes.names import SYSTEMS, recipe

COUNTS = torch.cat([torch.zeros(2), torch.ones(11)])  # 2 to 12 atoms


def test_a_draw_is_the_same_in_any_batch_padding_dtype_and_company():
    whole = Draws(7, 50)
    few = Draws(7, torch.tensor([3, 40, 11]))
    assert whole.normal((50, 9, 3))[[3, 40, 11], :4].equal(few.normal((3, 4, 3)))
    assert whole.uniform((50, 9, 9))[[3, 40, 11], :4, :4].equal(few.uniform((3, 4, 4)))
    assert whole[torch.tensor([11])].uniform((1,)).equal(Draws(7, 50).uniform((50,))[11:12])
    for other in (Draws(8, 50), Draws(7, 50, stream=1), Draws(-7, 50)):
        assert not (other.uniform((50, 4)) == Draws(7, 50).uniform((50, 4))).any()
    again = Draws(7, 50)
    assert not (again.uniform((50, 4)) == again.uniform((50, 4))).any()


def test_what_no_draw_can_be_made_for_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) cannot be drawn for 4 samples"):
        Draws(0, 4).normal((3, 2))
    with pytest.raises(ValueError, match="70000"):
        Draws(0, 4).normal((4, 70_000))
    with pytest.raises(ValueError, match="more than 64 bits"):
        Draws(2**64, 4)


def uncorrelated(x):
    """Whether the correlation of neighbours along each axis of (A, B, C) is no larger than chance makes it."""
    x = (x - x.mean()) / x.std()
    ways = [x[1:] * x[:-1], x[:, 1:] * x[:, :-1], x[:, :, 1:] * x[:, :, :-1]]
    return all(abs(float(w.mean())) < 4 / w.numel() ** 0.5 for w in ways)


def test_numbers_have_their_law_and_neighbours_are_independent():
    """Over samples, draws and places; Kolmogorov and Smirnov's distance exceeds 1.95 / sqrt(n) once in a thousand."""
    draws = Draws(0, 300)
    numbers = torch.stack([draws.uniform((300, 40)) for _ in range(40)], 1).double()
    normals = torch.stack([draws.normal((300, 40)) for _ in range(40)], 1).double()
    n = numbers.numel()
    empirical = (torch.arange(n) + 0.5) / n
    assert 0 < float(numbers.min()) < 1e-4 < 0.9999 < float(numbers.max()) < 1
    for law in (numbers, torch.special.ndtr(normals)):
        assert float((law.flatten().sort().values - empirical).abs().max()) < 1.95 / n**0.5
        assert uncorrelated(law)
        assert uncorrelated(law.square())
        assert uncorrelated((law * 64).floor() % 2)  # and of their sixth bit
    seeds = torch.stack([Draws(s, 20).uniform((20, 20)) for s in range(200)]).double()
    assert uncorrelated(seeds)
    assert abs(float((normals**4).mean()) - 3) < 4 * math.sqrt(96 / n)


def test_choices_follow_their_probabilities_and_never_take_what_has_none():
    p = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0])
    found = choose(p, 20_000, Draws(0, 20_000)).bincount(minlength=5)
    assert found[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(float(found[1]) / 20_000 - 0.75) < 4 * (0.75 * 0.25 / 20_000) ** 0.5


def test_networks_draw_from_the_source_within_and_from_torch_outside():
    def draw(length, source):
        return torch.rand(length) if source is None else source.uniform((length,))

    with repeatable(Draws(3, 4)):
        one, dropout = for_batch(draw, 4), torch.rand(2)
    with repeatable(Draws(3, 4)):
        assert for_batch(draw, 4).equal(one)
        assert torch.rand(2).equal(dropout)
    assert one.equal(Draws(3, 4).uniform((4,)))
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    assert for_batch(draw, 4).equal(expected)


# Heavy forms differ in sizes alone but for the flows of graphs; SymDiff* is SymDiff, larger.
EACH = [n for n in SYSTEMS if n != "SymDiff*" and (not n.endswith("-heavy") or n.startswith("CanonFlow"))]


@pytest.fixture
def small():
    """Makes models in float64, in which they also sample: rounding is not to decide what is drawn."""

    def make(name):
        counts = COUNTS[:10] if name.endswith("-heavy") else COUNTS
        model = lively(recipe(name, "laptop").build(counts).double(), 0.05).eval()
        torch.set_default_dtype(torch.float64)
        return model

    yield make
    torch.set_default_dtype(torch.float32)


def states(path):
    """All tensors of a trajectory's states."""
    for frame in path.frames:
        if isinstance(frame, Molecules):
            yield from (frame.positions, frame.types, frame.mask)
            yield from (x for x in (frame.bonds, frame.charges) if x is not None)
        else:
            yield frame


@pytest.mark.parametrize("name", EACH)
def test_a_sample_is_a_function_of_its_seed_and_number(name, small, monkeypatch):
    """Whatever is made with it: to 1e-9 in float64, and types and bonds exactly; on the way as at its end."""
    model = small(name)
    steps = 5
    whole = model.sample(7, steps, seed=5, batch_size=7, trajectory=True)
    more = model.sample(11, steps, seed=5, batch_size=3, trajectory=True)[torch.arange(7)]
    monkeypatch.setattr("canonkit.model.SAMPLING_MEMORY", 1)
    alone = model.sample(7, steps, seed=5, trajectory=True)
    for other in (more, alone):
        for a, b in zip(states(whole), states(other), strict=True):
            if a.ndim > 1 and a.shape != b.shape:  # padded for a longer one
                b = b[tuple(slice(0, s) for s in a.shape)]
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9 if a.is_floating_point() else 0)
    turned = [model.sample(7, steps, seed=5, batch_size=b, randomize=True) for b in (7, 2)]
    for a, b in zip(*([x.positions if isinstance(x, Molecules) else x] for x in turned), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_the_sampler_s_own_settings_keep_the_rule(small):
    model = small("CanonFlow")
    for options in ({"heun": True}, {"choice_temperature": torch.inf}, {"choice_temperature": 1e-3, "power": 1.0}):
        one, two = (model.sample(9, 6, seed=1, batch_size=b, **options) for b in (9, 2))
        torch.testing.assert_close(one.positions, two.positions, rtol=0, atol=1e-9)
        assert one.bonds.equal(two.bonds)
        assert one.types.equal(two.types)
    torch.set_default_dtype(torch.float32)
    model = small("SymDiff")
    for eta in (0.0, 0.5):
        one, two = (model.sample(9, 6, seed=1, batch_size=b, eta=eta).positions for b in (9, 2))
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["canon+GDM", "SymDiff"])
def test_a_bound_on_the_likelihood_does_not_depend_on_the_size_of_its_batches(name, small, sample):
    model, x = small(name), sample[sample.sizes <= 12][:9].trim().to(torch.float64)
    one, two = (
        likelihood(model, x, choose_on=x[:3], equivariant=False, passes=2, batch_size=b, seed=2) for b in (9, 2)
    )
    assert (one.width, one.passes) == (two.width, two.passes)
    assert math.isfinite(one.slice)
    assert one.slice == pytest.approx(two.slice, rel=1e-9)
    assert one.invariant == pytest.approx(two.invariant, rel=1e-9)
    alone = torch.cat([model.nll(x[b : b + 1].trim(), Draws(4, torch.tensor([b]))) for b in range(9)])
    torch.testing.assert_close(model.nll(x, Draws(4, 9)), alone, rtol=1e-9, atol=0)


def test_sizes_that_no_model_makes_are_refused_in_one_line(small):
    with pytest.raises(ValueError, match="^a molecule of 30 atoms is longer than the model's longest, 29$"):
        small("CanonFlow").sample(sizes=torch.tensor([5, 30]), steps=2)
    with pytest.raises(ValueError, match="^a size of 0: give each molecule one atom or more$"):
        small("GDM").sample(sizes=torch.tensor([5, 0]), steps=2)
