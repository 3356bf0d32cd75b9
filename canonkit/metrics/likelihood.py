r"""Likelihood of data in any pose under a model of canonical poses.

    p(x) = E_{R ~ Haar} p_slice(R^-1 x) = E_{R ~ q} p_slice(R^-1 x) / q(R)

is the density of samples that a random rotation turned. p_slice(R^-1 x) is large near R = h(x) alone, so R is drawn
there, and with a small probability anywhere:

    R = h(x) exp([v]),   v ~ N(0, s^2 I) in R^3, |v| < pi;   else, with probability u, R ~ Haar
    q(R) = u + (1 - u) N(v; 0, s^2) / P(|v| < pi) * 4 pi^2 |v|^2 / (1 - cos |v|)   with respect to Haar, R = h exp([v])

Where only a bound is known, -log p_slice <= E nll, Jensen's inequality gives another, which one draw estimates without
bias:

    -log p(x) <= E_{R ~ q} [nll(R^-1 x) + log q(R)]

Densities are of positions in Å with the centroid removed, given the order of the atoms; logarithms in nats. The nll of
an equivariant network, such as EDM's, does not depend on R: q = Haar then gives the network's own bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from canonkit.groups import act, haar_rotations, inverse
from canonkit.model import OrbitModel
from canonkit.molecules import Molecules
from canonkit.randomness import Draws, Source, normal, uniform

ANYWHERE = 0.02  # u
WIDTHS = (0.003, 0.01, 0.03, 0.1, 0.3)  # radians, of which `likelihood` chooses


@dataclass(frozen=True)
class Near:
    """q: rotations near given ones.

    Args:
        width: s, radians.
        anywhere: u, the probability of a Haar rotation; 1 for Haar's measure itself.
    """

    width: float
    anywhere: float = ANYWHERE

    def draw(self, h: Tensor, generator: Source | None = None) -> tuple[Tensor, Tensor]:
        """R (B, 3, 3) and log q(R) (B,), in float64, for the rotations h (B, 3, 3) that they lie near."""
        everywhere = haar_rotations(len(h), generator=generator, dtype=torch.float64)
        chance = uniform((len(h),), generator, "cpu", torch.float64)
        v = self.width * normal((len(h), 3), generator, "cpu", torch.float64)
        while (far := v.norm(dim=1) >= torch.pi).any():
            v = torch.where(far[:, None], self.width * normal((len(h), 3), generator, "cpu", torch.float64), v)
        near = h.double().cpu() @ torch.linalg.matrix_exp(_skew(v))
        R = torch.where((chance < self.anywhere)[:, None, None], everywhere, near)
        return R.to(h.device), self.log_density(h.double().cpu(), R).to(h.device)

    def log_density(self, h: Tensor, R: Tensor) -> Tensor:
        """log q(R) with respect to Haar's measure, (B,)."""
        from scipy.stats import chi

        angle = _angle(inverse(h) @ R)
        within = float(chi(3).cdf(torch.pi / self.width))
        gauss = torch.exp(-0.5 * (angle / self.width) ** 2) / ((2 * torch.pi) ** 1.5 * self.width**3 * within)
        # 1 - cos a = 2 sin^2(a / 2), which is exact for small angles
        volume = 2 * (torch.sinc(angle / (2 * torch.pi)) / 2) ** 2 / (4 * torch.pi**2)
        return (self.anywhere + (1 - self.anywhere) * gauss / volume).log()


HAAR = Near(WIDTHS[0], anywhere=1.0)


def _skew(v: Tensor) -> Tensor:
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(*v.shape[:-1], 3, 3)


def _angle(R: Tensor) -> Tensor:
    """Of rotations (B, 3, 3), in [0, pi], (B,); exact also for small ones."""
    axis = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], -1)
    return torch.atan2(axis.norm(dim=1), R.diagonal(dim1=1, dim2=2).sum(1) - 1)


def importance_nll(
    nll: Callable[[Molecules], Tensor],
    x: Molecules,
    h: Tensor,
    near: Near,
    *,
    draws: int = 64,
    generator: Source | None = None,
) -> Tensor:
    """-log p(x), (B,), where `nll` is exact: -log of the mean of p_slice(R^-1 x) / q(R) over draws of R.

    Args:
        nll: -log p_slice(x) of centred molecules, (B,).
        x: centred molecules.
        h: where to draw, such as a canonicalizer's h(x), (B, 3, 3).
        near: q.
        draws: of each molecule; the error falls as one over their root.
        generator: for repeatable draws.
    """
    logs = []
    for _ in range(draws):
        R, log_q = near.draw(h, generator)
        logs.append(-nll(turned_back(x, R)) - log_q.to(x.positions.dtype))
    return -(torch.stack(logs).logsumexp(0) - torch.tensor(float(draws)).log())


def turned_back(x: Molecules, R: Tensor) -> Molecules:
    """R^-1 x."""
    return x.with_(positions=act(inverse(R).to(x.positions.dtype), x.positions))


@dataclass(frozen=True)
class Likelihood:
    """Means over molecules, in nats, with standard errors over molecules.

    Args:
        slice: bound on -log p_slice(c(x)) - log p(n), of canonical poses.
        slice_error: its standard error.
        invariant: bound on -log p(x) - log p(n), of poses as they come.
        invariant_error: its standard error.
        width: s in radians that was chosen; infinite where the network is equivariant.
        molecules: how many.
        passes: draws of time, noise and rotation for each.
        each: both bounds of every molecule, (2, molecules): to compare models on the same ones.
    """

    slice: float
    slice_error: float
    invariant: float
    invariant_error: float
    width: float
    molecules: int
    passes: int
    each: Tensor = field(repr=False, compare=False)


def likelihood(
    model: OrbitModel,
    x: Molecules,
    *,
    choose_on: Molecules | None = None,
    equivariant: bool = False,
    passes: int = 4,
    batch_size: int = 250,
    seed: int = 0,
    progress: bool = False,
) -> Likelihood:
    """Bounds on the likelihood of molecules under a diffusion: of its slice, and of all poses; see the module's text.

    Args:
        model: with a diffusion and a canonicalizer; with the identity, rotations are drawn near the poses as stored.
        x: molecules to be judged.
        choose_on: molecules on which the width of q is chosen, among `WIDTHS`; by default the first 250 of `x`.
        equivariant: the network is: nothing is to be turned.
        passes: draws for each molecule.
        batch_size: molecules at a time.
        seed: of times, noises and rotations, which do not depend on batch_size.
        progress: show a bar.

    Raises:
        ValueError: the process has no likelihood.
    """
    from tqdm.auto import tqdm

    was_training = model.training
    model.eval()
    widths = (float("inf"),) if equivariant else WIDTHS
    few = x[:250] if choose_on is None else choose_on

    def means(some: Molecules, width: float, times: int, bar) -> tuple[Tensor, Tensor]:
        near = HAAR if equivariant else Near(width)
        own, all_poses = torch.zeros(len(some), dtype=torch.float64), torch.zeros(len(some), dtype=torch.float64)
        order = torch.argsort(some.sizes.cpu(), stable=True)
        with torch.no_grad():
            for k in range(times):
                for rows in order.split(batch_size):
                    c = model.canonicalizer(some[rows].trim().to(model.size_counts.device)).x
                    # Three streams per pass: how often a rotation is drawn again depends on the batch.
                    slices, turns, poses = (Draws(seed, rows, 3 * k + j) for j in range(3))
                    own[rows] += model.canonical_nll(c, slices).double().cpu() / times
                    one = torch.eye(3, dtype=torch.float64, device=c.device).expand(len(c), 3, 3)
                    R, log_q = near.draw(one, turns)
                    turned = model.canonical_nll(turned_back(c, R), poses).double()
                    all_poses[rows] += (turned + log_q).cpu() / times
                    bar.update(len(rows))
        return own, all_poses

    total = (len(widths) > 1) * len(widths) * len(few) + passes * len(x)
    with tqdm(total=total, desc="likelihood", unit="mol", disable=not progress, leave=False) as bar:
        width = widths[0]
        if len(widths) > 1:
            width = min(widths, key=lambda w: float(means(few, w, 1, bar)[1].mean()))
        own, all_poses = means(x, width, passes, bar)
    model.train(was_training)

    return Likelihood(*mean_error(own), *mean_error(all_poses), width, len(x), passes, torch.stack([own, all_poses]))


def mean_error(values: Tensor) -> tuple[float, float]:
    """The mean of values (B,) and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
