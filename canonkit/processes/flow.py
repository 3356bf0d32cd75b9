r"""Flow matching of molecules: a straight way for positions, a masked one for element types.

    x_t = (1 - t) x_0 + t x_1,   x_0 ~ prior, x_1 data;      type a_i is known at t with probability t, else masked
    the network predicts x_1 and the types from (x_t, a_t, t)
    loss:      w_x |x_1 - x_1^|^2 / 3 n  +  w_a mean over masked atoms of -log p(a_i),      t = sqrt(U), U uniform
    sampling:  dx/dt = (x_1^ - x_t) / (1 - t) by Euler or Heun steps;  masked atoms get a type at the rate 1 / (1 - t)
    coupling:  among molecules of one size in a batch, x_0 are dealt out so that sum |x_0 - x_1|^2 is least; nothing is
               turned or permuted within a molecule

The conditional velocity x_1 - x_0 varies less where x_0 lies near x_1: that is what canonical order, aligned prior and
optimal transport are for (canonical diffusion 2026). Weights and the law of t are those of SemlaFlow (Irwin et al.
2024); it defines no likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from canonkit.molecules import Molecules
from canonkit.processes.diffusion import Loss, Network
from canonkit.processes.spaces import MoleculeSpace

POSITIONS, TYPES = 1.0, 0.2  # weights of the loss
STEPS = 100  # network evaluations where nothing else is said


class MaskedMoleculeSpace(MoleculeSpace):
    """Molecules as z (B, N, 3 + K + 1): positions in Å with the mean removed, one-hot type, or a one for masked."""

    def __init__(self, elements, atoms: int = 29):
        super().__init__(elements, atoms)
        self.parts = {"positions": slice(0, 3), "types": slice(3, 3 + len(self.elements))}
        self.discrete = ("types",)

    def _entries(self, x: Molecules) -> Tensor:
        return torch.cat([x.positions, one_hot(x.types, len(self.elements) + 1).to(x.positions)], -1)


@dataclass(frozen=True, eq=False)
class FlowDraw:
    """The randomness of one training step: times t (B,) in [0, 1], x_0 (B, N, 3), uniform u (B, N) that masks types."""

    t: Tensor
    start: Tensor
    u: Tensor

    def __getitem__(self, rows) -> FlowDraw:
        return FlowDraw(self.t[rows], self.start[rows], self.u[rows])


class FlowMatching(nn.Module):
    """The process: loss and sampler for any network on z.

    Args:
        space: of the molecules.
        prior: of x_0.
        coupling: deal x_0 out by optimal transport.
    """

    T = STEPS

    def __init__(self, space: MaskedMoleculeSpace, prior: nn.Module, coupling: bool = False):
        super().__init__()
        self.space, self.prior, self.coupling = space, prior, coupling

    def _start(self, z: Tensor, mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        noise = self.space.noise(z[..., :3], mask, generator)
        return self.space.project(self.prior(noise, mask), mask)

    # -- training -----------------------------------------------------------------------------------------------------

    def draw(self, x: Molecules, generator: torch.Generator | None = None) -> FlowDraw:
        """Times, x_0 and what is masked, for a batch in canonical pose."""
        z, mask = self.space.encode(x)
        home = generator.device if generator is not None else z.device
        t = torch.rand(len(z), generator=generator, device=home).sqrt().to(z)
        start = self._start(z, mask, generator)
        if self.coupling:
            start = start[transport(start, z[..., :3], x.sizes)]
        u = torch.rand(z.shape[:2], generator=generator, device=home).to(z)
        return FlowDraw(t, start, u)

    def loss(self, network: Network, x: Molecules, draw: FlowDraw | None = None) -> Loss:
        """The training loss of a batch; `x` is taken as it is (canonicalize it before)."""
        draw = draw or self.draw(x)
        z, mask = self.space.encode(x)
        real = x.mask
        t = draw.t[:, None, None]
        hidden = real & (draw.u >= draw.t[:, None])
        x_t = (1 - t) * draw.start + t * z[..., :3]
        places, logits = self._predict(network, x_t, x.types, hidden, draw.t, mask)
        square = (places - z[..., :3]).square().sum((1, 2)) / (3 * x.sizes.clamp(min=1))
        surprise = cross_entropy(logits.mT, x.types, reduction="none") * hidden
        terms = {
            "positions": POSITIONS * square.mean(),
            "types": TYPES * surprise.sum() / hidden.sum().clamp(min=1),
        }
        return Loss(sum(terms.values()), terms)

    def _predict(self, network: Network, x_t: Tensor, types: Tensor, hidden: Tensor, t: Tensor, mask: Tensor | None):
        """x_1^ (B, N, 3) and logits of types (B, N, K)."""
        K = len(self.space.elements)
        z_t = torch.cat([x_t, one_hot(torch.where(hidden, K, types), K + 1).to(x_t)], -1)
        if mask is not None:
            z_t = z_t * mask[..., None]
        out = network(z_t, t, mask).to(x_t.dtype)
        return self.space.project(out[..., :3], mask), out[..., 3 : 3 + K]

    # -- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        network: Network,
        sizes: Tensor,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        heun: bool = False,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Molecules:
        """Molecules of the given sizes (B,).

        Args:
            network: predicts x_1 and types.
            sizes: atoms per molecule; its device is the device used.
            steps: network evaluations, evenly spaced.
            generator: for repeatable samples.
            heun: correct each step by the velocity at its end: two evaluations for all steps but the last.
            on_step: called as on_step(evaluations left, x_t).
        """
        steps = self.T if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps {steps} is below 1")
        z, mask = self.space.blank(sizes)
        real = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if mask is None else mask
        x, hidden = self._start(z, mask, generator), real.clone()
        types = torch.zeros(z.shape[:2], dtype=torch.long, device=z.device)
        count, left = (steps + 1) // 2 if heun else steps, steps
        times = torch.linspace(0, 1, count + 1).tolist()

        def velocity(x: Tensor, t: float):
            places, logits = self._predict(network, x, types, hidden, torch.full((len(x),), t, device=x.device), mask)
            return (places - x) / (1 - t), logits

        for t, s in zip(times, times[1:], strict=False):
            v, logits = velocity(x, t)
            moved = x + (s - t) * v
            left -= 1
            if heun and s < 1 and left > 0:
                moved = x + 0.5 * (s - t) * (v + velocity(moved, s)[0])
                left -= 1
            x = moved
            home = generator.device if generator is not None else z.device
            shown = torch.rand(hidden.shape, generator=generator, device=home).to(x.device) < (s - t) / (1 - t)
            chosen = torch.multinomial(
                logits.softmax(-1).flatten(0, 1).to(home), 1, replacement=True, generator=generator
            )
            reveal = hidden & (shown | (s == 1))
            types = torch.where(reveal, chosen.view_as(types).to(types.device), types)
            hidden = hidden & ~reveal
            if on_step is not None:
                on_step(left, x)
        return Molecules(x * real[..., None], types * real, real, self.space.elements)


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
