r"""Flow matching of molecules and molecular graphs: straight paths of positions, masks for what is discrete.

    x_t = (1 - t) x_0 + t x_1,   x_0 ~ prior, x_1 data;      kind a_i is known at t with probability t, else masked;
                                                             so is, of graphs, every bond b_ij
    the network predicts x_1, kinds and bonds from (x_t, a_t, b_t, t)
    loss:      w_x |x_1 - x_1^|^2 / 3 n  +  w_a mean over masked atoms of -log p(a_i)
               + w_b mean over masked pairs of -log p(b_ij)
               + w_d mean over near pairs of t^2 | |x_i^ - x_j^| - |x_i - x_j| |,          t = sqrt(U), U uniform
    sampling:  dx/dt = (x_1^ - x_t) / (1 - t) by Euler or Heun steps;  at t, a share t of each molecule's atoms and of
               its pairs is known: what is masked is drawn, and the surest draws are kept (Chang et al. 2022)
    near:      pairs of atoms closer than 2.7 Å in the data: bonds and angles
    self-conditioning: the network is also given what it predicted in the step before (Chen et al. 2022); in training,
               for half of the batches, what it predicts without
    self-correction: in training, half the atoms of half of the molecules are pushed from x_t at t > 1/4, so that the
               network learns to mend its own mistakes (as FlowMol3, Dunn and Koes 2025)
    unrolled:  where the network is asked twice, it may be asked first at an earlier time and move to x_t by itself, as
               in sampling: training for few steps
    coupling:  among molecules of one size in a batch, x_0 are assigned to x_1 so that sum |x_0 - x_1|^2 is least;
               nothing is turned or permuted within a molecule

The conditional velocity x_1 - x_0 varies less where x_0 lies near x_1: that is what canonical order, aligned prior and
optimal transport are for (canonical diffusion 2026). Weights and the law of t are those of SemlaFlow (Irwin et al.
2024); it defines no likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from canonkit.molecules import Molecules
from canonkit.processes.base import Loss, Network, Process
from canonkit.processes.spaces import MoleculeSpace
from canonkit.randomness import Source, uniform

POSITIONS, KINDS, BONDS = 1.0, 0.2, 0.5  # weights of the loss
NEAR = 2.7  # Å; pairs whose distances have a loss of their own
CORRECTED_FROM = 0.25  # the time from which atoms are pushed
LONGEST_STEP = 2.0  # an unrolled step begins with at most three times the way that is left at its end
STEPS = 100  # network evaluations where nothing else is said
REMASKED = 0.7  # by default of graphs, from
MANY = 50  # network evaluations on; with fewer what is hidden again comes back too late to be mended well


class MaskedMoleculeSpace(MoleculeSpace):
    """Molecules as z (B, N, 3 + K + 1): positions in Å with the mean removed, one-hot kind, or a one for masked.

    Args:
        elements, atoms: as of `MoleculeSpace`.
        graphs: a kind of atom is an element with a formal charge, -1, 0 or 1, and there are bonds beside z, of order
            0, none, to 4, aromatic; else kinds are elements and there are no bonds.
        self_conditioning: z holds 3 + K more entries per atom, what the network predicted before of x_1 and kinds;
            zeros where it has not been asked yet.
    """

    CHARGES, ORDERS = (-1, 0, 1), 5

    def __init__(self, elements, atoms: int = 29, graphs: bool = False, self_conditioning: bool = False):
        super().__init__(elements, atoms)
        self.graphs, self.self_conditioning = graphs, self_conditioning
        self.kinds = len(self.elements) * (len(self.CHARGES) if graphs else 1)
        self.plain = 3 + self.kinds + 1  # entries without those of a guess
        self.features = self.plain + (3 + self.kinds) * self_conditioning
        self.parts = {"positions": slice(0, 3), "kinds": slice(3, 3 + self.kinds)}
        self.discrete = ("kinds",)
        self.network_options = {"bonds": self.ORDERS} if graphs else {}
        if self_conditioning:
            self.network_options["guess"] = self.plain

    def kinds_of(self, x: Molecules) -> Tensor:
        """The kind of every atom, (B, N).

        Raises:
            ValueError: of graphs, where bonds or charges are not known, or a charge is beyond one.
        """
        if not self.graphs:
            return x.types
        charges = x.graph()[1]
        if (charges.abs() > 1).any():
            raise ValueError(f"formal charge {int(charges.abs().max())} is not -1, 0 or 1: leave such molecules out")
        return len(self.CHARGES) * x.types + torch.where(x.mask, charges.long() + 1, 0)

    def assemble(self, positions: Tensor, kinds: Tensor, bonds: Tensor | None, mask: Tensor) -> Molecules:
        """Molecules of those positions, kinds of atoms and, of graphs, bonds."""
        x = Molecules(positions * mask[..., None], kinds * mask, mask, self.elements)
        if not self.graphs:
            return x
        n = len(self.CHARGES)
        return x.with_(types=kinds // n * mask, charges=(kinds % n - 1) * mask, bonds=bonds)

    def _entries(self, x: Molecules) -> Tensor:
        return self.entries(x.positions, self.kinds_of(x))

    def entries(self, positions: Tensor, kinds: Tensor, guess: Tensor | None = None) -> Tensor:
        """z of positions and kinds, one more of these than there are for masked, and where there is one of a guess."""
        z = torch.cat([positions, one_hot(kinds, self.kinds + 1).to(positions)], -1)
        if not self.self_conditioning:
            return z
        return torch.cat([z, z.new_zeros(*z.shape[:2], 3 + self.kinds) if guess is None else guess], -1)

    def decode(self, z: Tensor, mask: Tensor | None) -> Molecules:
        """Positions and the likeliest kinds; no bonds, which are not in z."""
        mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if mask is None else mask
        return self.assemble(z[..., :3], z[..., 3 : 3 + self.kinds].argmax(-1), None, mask)


@dataclass(frozen=True, eq=False)
class FlowDraw:
    """The randomness of one training step.

    Args:
        t: times in [0, 1], (B,).
        start: x_0, (B, N, 3).
        u: uniform, (B, N): atoms with u >= t are masked.
        v: the same for pairs, symmetric, (B, N, N), of graphs.
        twice: whether the network is asked twice, the second time with its first guess.
        push: what is added to x_t in Å, (B, N, 3).
        earlier: times (B,), before t, from which the network moves to x_t by itself.
        whole: how many samples, hidden kinds, hidden pairs and near pairs a batch has that several processes share, so
            that the mean of their losses is that of the whole; None where there is one process.
    """

    t: Tensor
    start: Tensor
    u: Tensor
    v: Tensor | None = None
    twice: bool = False
    push: Tensor | None = None
    earlier: Tensor | None = None
    whole: tuple[int, Tensor, Tensor, Tensor] | None = None

    def __getitem__(self, rows) -> FlowDraw:
        v, push, earlier = (None if x is None else x[rows] for x in (self.v, self.push, self.earlier))
        return FlowDraw(self.t[rows], self.start[rows], self.u[rows], v, self.twice, push, earlier, self.whole)

    def hidden(self, x: Molecules, time: Tensor) -> Tensor:
        """Which atoms' kinds are not known then, (B, N)."""
        return x.mask & (self.u >= time[:, None])

    def unseen(self, x: Molecules, time: Tensor) -> Tensor:
        """Which bonds are not known then, (B, N, N)."""
        assert self.v is not None
        return _pairs(x.mask) & (self.v >= time[:, None, None])


def _pairs(mask: Tensor) -> Tensor:
    """The pairs of different real atoms, (B, N, N) bool."""
    eye = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return mask[:, :, None] & mask[:, None] & ~eye


def _symmetric(v: Tensor) -> Tensor:
    """v_ij for i < j in both halves."""
    return v.triu(1) + v.triu(1).mT


class FlowMatching(Process):
    """The process: loss and sampler for any network on z; of graphs, on z and bonds.

    Args:
        space: of the molecules.
        prior: of x_0.
        coupling: assign x_0 to molecules by optimal transport.
        distance_weight: w_d of the loss of distances.
        correction: largest standard deviation of a push in Å; 0 for none.
        unrolled: train on steps of the network's own.
    """

    def __init__(
        self,
        space: MaskedMoleculeSpace,
        prior: nn.Module,
        coupling: bool = False,
        distance_weight: float = 0.0,
        correction: float = 0.0,
        unrolled: bool = False,
    ):
        super().__init__(space, default=STEPS)
        self.prior, self.coupling = prior, coupling
        self.distance_weight, self.correction, self.unrolled = distance_weight, correction, unrolled

    def fit(self, canonical: Molecules) -> None:
        """Fits the prior."""
        self.prior.fit(canonical)

    def _start(self, z: Tensor, mask: Tensor | None, generator: Source | None) -> Tensor:
        noise = self.space.noise(z[..., :3], mask, generator)
        return self.space.project(self.prior(noise, mask), mask)

    # -- training -----------------------------------------------------------------------------------------------------

    def draw(self, x: Molecules, generator: Source | None = None) -> FlowDraw:
        """Times, x_0 and what is masked, for a batch in canonical pose."""
        z, mask = self.space.encode(x)

        def draw(*shape: int) -> Tensor:
            return uniform(shape, generator, z.device).to(z)

        B, N, _ = z.shape
        t = draw(B).sqrt()
        start = self._start(z, mask, generator)
        if self.coupling:
            start = start[transport(start, z[..., :3], x.sizes)]
        u, v = draw(B, N), _symmetric(draw(B, N, N)) if self.space.graphs else None
        twice, push = self.space.self_conditioning and bool(draw(1) < 0.5), None
        if self.correction:
            pushed = (draw(B, 1) < 0.5) & (draw(B, N) < 0.5) & (t > CORRECTED_FROM)[:, None]
            sd = self.correction * draw(B, 1) * pushed
            push = sd[..., None] * self.space.noise(z[..., :3], mask, generator)
        earlier = None
        if self.unrolled and twice:
            earlier = (1 - (1 - t) * (1 + LONGEST_STEP * draw(B))).clamp(min=0)
        return FlowDraw(t, start, u, v, twice, push, earlier)

    def loss(self, network: Network, x: Molecules, draw: FlowDraw | None = None) -> Loss:
        """The training loss of a batch; `x` is taken as it is (canonicalize it before)."""
        draw = draw or self.draw(x)
        z, mask = self.space.encode(x)
        kinds = self.space.kinds_of(x)

        def known(time: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
            """Kinds and bonds as they are known then, and where they are not."""
            hidden, bonds, unseen = draw.hidden(x, time), None, None
            if self.space.graphs:
                unseen = draw.unseen(x, time)
                bonds = torch.where(unseen, self.space.ORDERS, x.graph()[0].long())
            return torch.where(hidden, self.space.kinds, kinds), bonds, hidden, unseen

        def between(time: Tensor) -> Tensor:
            s = time[:, None, None]
            return (1 - s) * draw.start + s * z[..., :3]

        x_t, guess = between(draw.t), None
        if draw.earlier is not None:
            with torch.no_grad():
                before = between(draw.earlier)
                places, logits, _ = self._predict(network, before, *known(draw.earlier)[:2], draw.earlier, mask)
                share = ((draw.t - draw.earlier) / (1 - draw.earlier).clamp(min=1e-6))[:, None, None]
                x_t, guess = before + share * (places - before), _guess(places, logits)
        if draw.push is not None:
            x_t = self.space.project(x_t + draw.push, mask)
        *seen, hidden, unseen = known(draw.t)
        state = network, x_t, *seen, draw.t, mask
        if draw.twice and guess is None:
            with torch.no_grad():
                guess = _guess(*self._predict(*state)[:2])
        places, logits, pair_logits = self._predict(*state, guess)
        square = (places - z[..., :3]).square().sum((1, 2)) / (3 * x.sizes.clamp(min=1))
        counts: list[Tensor | None] = [None] * 3
        if draw.whole is not None:
            counts = [count.clamp(min=1).double() * (len(x) / draw.whole[0]) for count in draw.whole[1:]]
        of_kinds, of_bonds, of_near = counts
        found = masked_cross_entropy(logits, kinds, hidden, of_kinds)
        terms = {"positions": POSITIONS * square.mean(), "kinds": KINDS * found}
        if pair_logits is not None and unseen is not None:
            terms["bonds"] = BONDS * masked_cross_entropy(pair_logits, x.graph()[0].long(), unseen, of_bonds)
        if self.distance_weight:
            error = _distance_error(places, x, draw.t[:, None, None].square(), of_near)
            terms["distances"] = self.distance_weight * error
        return Loss.of(terms)

    def shared(self, x: Molecules, draw: FlowDraw) -> FlowDraw:
        """The draw of a batch that several processes are to share."""
        unseen = draw.unseen(x, draw.t).sum() if self.space.graphs else torch.zeros(())
        return replace(draw, whole=(len(x), draw.hidden(x, draw.t).sum(), unseen, _near(x, x.distances()).sum()))

    def _predict(
        self,
        network: Network,
        x_t: Tensor,
        kinds: Tensor,
        bonds: Tensor | None,
        t: Tensor,
        mask: Tensor | None,
        guess: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x_1^ (B, N, 3), logits of kinds (B, N, K) and of bonds (B, N, N, 5) or None.

        `kinds` and `bonds` hold one more value than there are, for masked.
        """
        K = self.space.kinds
        z_t = self.space.entries(x_t, kinds, guess)
        if mask is not None:
            z_t = z_t * mask[..., None]
        out, pair_logits = (network(z_t, t, mask), None) if bonds is None else network(z_t, t, mask, bonds)
        out = out.to(x_t.dtype)
        return self.space.project(out[..., :3], mask), out[..., 3 : 3 + K], pair_logits

    # -- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        network: Network,
        sizes: Tensor,
        steps: int | None = None,
        generator: Source | None = None,
        heun: bool = False,
        power: float = 3.0,
        temperature: float | None = None,
        choice_temperature: float = 0.5,
        kinds_choice_temperature: float | None = None,
        remask: float | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
        path: list | None = None,
    ) -> Molecules:
        """Molecules of the given sizes (B,).

        Args:
            network: predicts x_1 and types.
            sizes: atoms per molecule; its device is the device used.
            steps: network evaluations.
            generator: for repeatable samples; with `Draws` none depends on the others of its batch.
            heun: correct each step by the velocity at its end: two evaluations for all steps but the last.
            power: times are t = 1 - (1 - k / n)^power, k = 0..n: denser near the data than evenly spaced ones, power 1.
            temperature: of kinds and bonds, which are drawn from softmax(logits / temperature); below 1 likely ones
                are preferred, and the law is no longer the model's. By default 0.7 of graphs, else 1.
            choice_temperature: of which draws are kept, those with the largest log p + choice_temperature (1 - t) g,
                g ~ Gumbel. Infinite leaves it to chance, whose law in many small steps is the model's; 0.5 prefers
                what is likely and makes far more right molecules. (MaskGIT, Chang et al. 2022.)
            kinds_choice_temperature: the same for kinds. By default infinite of graphs without hydrogens, so that
                elements keep their shares, else as choice_temperature: with hydrogens chance was measured worse.
            remask: at every step this share of what should stay masked is drawn too, and as many known kinds and bonds,
                any of them, are masked again: later steps mend what early ones got wrong (remasking, ReMDM, Wang et al.
                2025). From 0, never, to below 1. By default 0.7 of graphs at 50 evaluations or more, else 0.
            on_step: called as on_step(evaluations left, x_t).
            path: the states are appended to it as molecules, masked kinds as the network guesses them, masked bonds
                left out; at last the samples.
        """
        steps = self.evaluations(steps)
        if temperature is None:
            temperature = 0.7 if self.space.graphs else 1.0
        if kinds_choice_temperature is None:
            kinds_choice_temperature = (
                inf if self.space.graphs and "H" not in self.space.elements else choice_temperature
            )
        if remask is None:
            remask = REMASKED if self.space.graphs and steps >= MANY else 0.0
        if not 0 <= remask < 1:
            raise ValueError(f"remask {remask} is not a share from 0 to below 1")
        positive = {"power": power, "temperature": temperature, "choice_temperature": choice_temperature}
        for name, value in (positive | {"kinds_choice_temperature": kinds_choice_temperature}).items():
            if not value > 0:
                raise ValueError(f"{name} {value} is not above 0")
        z, mask = self.space.blank(sizes)
        real = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if mask is None else mask
        x = self._start(z, mask, generator)
        kinds = torch.where(real, self.space.kinds, 0)
        bonds, guess = None, None
        upper = _pairs(real).triu(1)
        if self.space.graphs:
            bonds = _symmetric(torch.where(upper, self.space.ORDERS, 0))
        count, left = (steps + 1) // 2 if heun else steps, steps
        times = (1 - torch.linspace(1, 0, count + 1) ** power).tolist()

        def velocity(x: Tensor, t: float):
            nonlocal guess
            at = torch.full((len(x),), t, device=x.device)
            places, logits, pair_logits = self._predict(network, x, kinds, bonds, at, mask, guess)
            guess = _guess(places, logits)
            return (places - x) / (1 - t), logits, pair_logits

        for t, s in zip(times, times[1:], strict=False):
            v, logits, pair_logits = velocity(x, t)
            if path is not None:
                seen = torch.where(kinds == self.space.kinds, logits.argmax(-1), kinds)
                drawn = None if bonds is None else bonds.masked_fill(bonds == self.space.ORDERS, 0)
                path.append(self.space.assemble(x, seen, drawn, real))
            moved = x + (s - t) * v
            left -= 1
            if heun and s < 1 and left > 0:
                moved = x + 0.5 * (s - t) * (v + velocity(moved, s)[0])
                left -= 1
            x = moved
            how = (s, remask, temperature)
            kinds = renew(kinds, self.space.kinds, real, logits, *how, kinds_choice_temperature, generator)
            if bonds is not None and pair_logits is not None:
                drawn = renew(bonds, self.space.ORDERS, upper, pair_logits, *how, choice_temperature, generator)
                bonds = _symmetric(drawn)
            if on_step is not None:
                on_step(left, x)
        samples = self.space.assemble(x, kinds, bonds, real)
        if path is not None:
            path.append(samples)
        return samples


def _guess(places: Tensor, logits: Tensor) -> Tensor:
    """What a prediction looks like as an input of the next, (B, N, 3 + K)."""
    return torch.cat([places, logits.softmax(-1)], -1)


def masked_cross_entropy(logits: Tensor, target: Tensor, where: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean of -log p(target) where it is asked for; zero where nowhere. `count`: what to divide by instead."""
    found = cross_entropy(logits.movedim(-1, 1), target, reduction="none") * where
    return found.sum() / (where.sum().clamp(min=1) if count is None else count)


def _near(x: Molecules, distances: Tensor) -> Tensor:
    """Pairs of atoms near enough for the loss of distances, (B, N, N)."""
    return _pairs(x.mask) & (distances < NEAR)


def _distance_error(places: Tensor, x: Molecules, weight: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean over near pairs of weight * | |x_i^ - x_j^| - |x_i - x_j| |, Å; the gradient stays finite at distance 0."""
    d = x.distances()
    near = _near(x, d)
    found = ((places[:, :, None] - places[:, None]).square().sum(-1) + 1e-8).sqrt()
    total = ((found - d).abs() * near * weight).sum()
    return total / (near.sum().clamp(min=1) if count is None else count)


def unmask(
    tokens: Tensor,
    masked: int,
    places: Tensor,
    share: float,
    logits: Tensor,
    temperature: float,
    choice_temperature: float,
    generator: Source | None,
) -> Tensor:
    """Tokens of which, in every molecule, that share of those at `places` is not `masked`.

    All masked ones are drawn from softmax(logits / temperature); kept are those with the largest
    log p / choice_temperature + (1 - share) * Gumbel.
    """
    # Before anything is looked at: what is drawn for a molecule must not depend on the others.
    by_chance, of_order = (uniform(tuple(tokens.shape), generator, tokens.device).clamp(min=2**-24) for _ in range(2))
    hidden = places & (tokens == masked)
    inner = tuple(range(1, tokens.ndim))
    more = (share * places.sum(inner)).round() - (places & ~hidden).sum(inner)
    if not (more > 0).any():
        return tokens
    where = hidden.flatten().nonzero()[:, 0]
    by_chance, of_order = by_chance.flatten()[where], of_order.flatten()[where]
    # Values first: with few of them and many places this is faster.
    p = (logits.flatten(0, -2)[where].T.contiguous() / temperature).float().softmax(0)
    total = p.cumsum(0)
    drawn = (total < by_chance * total[-1]).sum(0)
    gumbel = -(-of_order.log()).log()
    score = p.gather(0, drawn[None])[0].log() / choice_temperature + (1 - share) * gumbel
    scores = score.new_full(tokens.shape, -torch.inf)
    scores.view(-1)[where] = score
    new = tokens.flatten().index_copy(0, where, drawn).view_as(tokens)
    return torch.where(_largest(scores, more) & hidden, new, tokens)


def _largest(scores: Tensor, count: Tensor) -> Tensor:
    """Where, in every molecule, the `count` (B,) largest of the scores (B, ...) are."""
    most, where = scores.flatten(1).topk(max(0, int(count.max())), sorted=True)
    rank = torch.arange(most.shape[1], device=most.device)
    found = torch.zeros_like(scores.flatten(1), dtype=torch.bool)
    return found.scatter_(1, where, rank < count[:, None]).view_as(scores)


def renew(
    tokens: Tensor,
    masked: int,
    places: Tensor,
    logits: Tensor,
    share: float,
    remask: float,
    temperature: float,
    choice_temperature: float,
    generator: Source | None,
) -> Tensor:
    """Tokens of which that share is not `masked`: `unmask`, of `remask` of the others too, then `mask_again`."""
    more = share + remask * (1 - share)
    tokens = unmask(tokens, masked, places, more, logits, temperature, choice_temperature, generator)
    return mask_again(tokens, masked, places, share, generator) if remask else tokens


def mask_again(tokens: Tensor, masked: int, places: Tensor, share: float, generator: Source | None) -> Tensor:
    """Tokens of which, in every molecule, that share of those at `places` is not `masked`: any of the known ones."""
    by_chance = uniform(tuple(tokens.shape), generator, tokens.device)
    known = places & (tokens != masked)
    inner = tuple(range(1, tokens.ndim))
    fewer = known.sum(inner) - (share * places.sum(inner)).round()
    return tokens.masked_fill(_largest((-by_chance).masked_fill(~known, -torch.inf), fewer) & known, masked)


def transport(start: Tensor, end: Tensor, sizes: Tensor) -> Tensor:
    """Which x_0 goes to which molecule, (B,): the least sum of squared distances among molecules of one size."""
    from scipy.optimize import linear_sum_assignment

    order = torch.arange(len(start))
    flat = [x.detach().flatten(1).double().cpu() for x in (start, end)]
    for n in sizes.cpu().unique():
        rows = (sizes.cpu() == n).nonzero()[:, 0]
        cost = torch.cdist(flat[1][rows], flat[0][rows]).square().numpy()
        order[rows] = rows[torch.from_numpy(linear_sum_assignment(cost)[1])]
    return order.to(start.device)
