r"""Is a random denoiser equivariant? In law: f(g z) and g f(z) must have the same distribution, not the same value.

For every molecule, noised to z at a time t: m draws A of f(g z) and m draws B of g f(z), all independent, as points
in R^(N F).

energy distance   E = 2 mean |A - B| - mean |A - A'| - mean |B - B'| >= 0, whose limit is zero only if the laws agree
p-value           share of random exchanges of A's and B's labels whose E, summed over molecules, is as large
mismatch          root mean square over molecules and entries of mean A - mean B; by chance alone it would be about
                  `mismatch_error` = sqrt((var A + var B) / m)

With s the labels, +1 for A and -1 for B, and D the 2 m x 2 m distances, E = -s^T D s / m^2: an exchange is another s.
Differences below 1e-4 of the outputs' size count as none: they are rounding, and a network that is equivariant without
any chance passes.

Is the law of a set of samples invariant? Then one half of them and the other half, every molecule of it acted on by a
random element of the group, have the same law: the same test, with one point per molecule.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from canonkit.groups import haar_orthogonal, haar_rotations
from canonkit.molecules import Molecules
from canonkit.networks.symmetrised import turn
from canonkit.processes import Diffusion, Network
from canonkit.processes.spaces import MoleculeSpace
from canonkit.randomness import seeded
from canonkit.tables import Printed

LEVEL = 0.001  # a law that holds is rejected for one seed in a thousand
ROUNDING = 1e-4  # of the outputs' root mean square norm
LABELS = 2**24  # entries of exchanged labels at a time


@dataclass(frozen=True)
class LawCertificate(Printed):
    """What `certify_law` measured.

    Args:
        molecules, draws: how many, and draws of either side for each.
        p_value: of the hypothesis that f(g z) and g f(z) have the same law.
        energy: energy distance, mean over molecules, over the root mean square of f's outputs' norms.
        mismatch: root mean square entry of the difference of their means, over that of f's outputs.
        mismatch_error: the mismatch that chance alone would give.
        exchanges: random exchanges of labels; the least p-value is 1 / (exchanges + 1).
        level: the p-value up to which the law is rejected, by which a law that holds is rejected by chance this often.
        rejected: whether it was.
    """

    molecules: int
    draws: int
    p_value: float
    energy: float
    mismatch: float
    mismatch_error: float
    exchanges: int
    level: float
    rejected: bool

    def _text(self) -> dict[str, str]:
        verdict = "yes: not equivariant in law" if self.rejected else "no: nothing speaks against equivariance in law"
        return super()._text() | {"level": f"{self.level:g}", "rejected": verdict}


@torch.no_grad()
def certify_law(
    denoiser: Network,
    molecules: Molecules,
    *,
    draws: int = 128,
    reflections: bool = True,
    exchanges: int = 999,
    seed: int = 0,
    batch_size: int = 512,
) -> LawCertificate:
    """Tests that f(g z, t) = g f(z, t) in law, for one random g and one random time t per molecule.

    It rejects at the level of 0.1 %, so that a law that holds is rejected for one seed in a thousand. Its power
    depends on f. With 16 molecules and 128 draws it rejected the trained DiT inside SymDiff for 6 seeds out of 6, and
    SymDiff for none. For random weights and 48 draws, at the level of 5 %, it rejected the bare network and the wrong
    order of composition 20 times out of 20 (notebook 05).

    Args:
        denoiser: f, called as f(z, t, mask), random or not.
        molecules: where to try it; they are noised as in training.
        draws: of f(g z) and of g f(z), each, per molecule.
        reflections: g from O(3), or from SO(3).
        exchanges: random exchanges of labels for the p-value.
        seed: of everything random.
        batch_size: evaluations at a time.

    Raises:
        ValueError: no molecules, or fewer than two draws.
    """
    if not len(molecules):
        raise ValueError("no molecules given to certify on")
    if draws < 2:
        raise ValueError(f"draws {draws} is below 2")
    with seeded(seed):
        process = Diffusion(MoleculeSpace(molecules.elements, molecules.mask.shape[1]))
        z, t, mask = process.noised(molecules.centred())
        draw_g = haar_orthogonal if reflections else haar_rotations
        g = draw_g(len(z), dtype=z.dtype, device=z.device)
        A = _draw(denoiser, turn(g, z), t, mask, draws, batch_size)
        B = turn(g.repeat_interleave(draws, 0), _draw(denoiser, z, t, mask, draws, batch_size))
        both = torch.cat([x.view(len(z), draws, -1) for x in (A, B)], 1).double()  # (B, 2 m, N F)
        size = both.square().sum(-1).mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        D = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist") / size
        D = torch.where(D < ROUNDING, 0.0, D)
        energy, p_value = _exchange_test(D, exchanges)
        gap = both[:, :draws].mean(1) - both[:, draws:].mean(1)
        spread = (both[:, :draws].var(1) + both[:, draws:].var(1)) / draws
    return LawCertificate(
        molecules=len(molecules),
        draws=draws,
        p_value=p_value,
        energy=float(energy.mean()),
        mismatch=float(gap.square().sum(-1).mean().sqrt() / size),
        mismatch_error=float(spread.sum(-1).mean().sqrt() / size),
        exchanges=exchanges,
        level=(level := max(LEVEL, 1 / (exchanges + 1))),
        rejected=p_value <= level,
    )


@dataclass(frozen=True)
class SampleLaw(Printed):
    """What `certify_samples` measured.

    Args:
        molecules: how many.
        p_value: of the hypothesis that their law is invariant.
        energy: energy distance of the two halves' features, each scaled to variance one.
        exchanges: random exchanges of labels.
    """

    molecules: int
    p_value: float
    energy: float
    exchanges: int


@torch.no_grad()
def certify_samples(molecules: Molecules, *, exchanges: int = 999, seed: int = 0) -> SampleLaw:
    """Tests that the law of molecules is invariant under S_n x SO(3).

    Each molecule is described by numbers that depend on its pose and order: the six second moments of its positions,
    and with r the place of an atom, rho = (r + 1/2) / n, the sums of x cos(pi k rho), k = 1, 2, and of Z cos(pi rho),
    over n.

    Args:
        molecules: samples, or data.
        exchanges: random exchanges of labels for the p-value.
        seed: of the halves, the group elements and the exchanges.

    Raises:
        ValueError: fewer than 20 molecules.
    """
    if len(molecules) < 20:
        raise ValueError(f"{len(molecules)} molecules are too few for a test of their law: give 20 or more")
    with seeded(seed):
        molecules = molecules.to("cpu").centred()[torch.randperm(len(molecules))]
        m = len(molecules) // 2
        space = MoleculeSpace(molecules.elements, molecules.mask.shape[1])
        both = torch.cat([_features(molecules[:m]), _features(space.randomize(molecules[m : 2 * m]))])
        both = (both - both.mean(0)) / both.std(0).clamp(min=1e-12)
        energy, p_value = _exchange_test(torch.cdist(both, both)[None], exchanges)
    return SampleLaw(2 * m, p_value, float(energy), exchanges)


def _features(molecules: Molecules) -> Tensor:
    """(B, 13) float64."""
    x, n = molecules.positions.double(), molecules.sizes[:, None].double()
    rho = (torch.arange(x.shape[1]) + 0.5) / n
    waves = torch.stack([(torch.pi * k * rho).cos() * molecules.mask for k in (1, 2)], 1)  # (B, 2, N)
    i, j = torch.triu_indices(3, 3)
    numbers = (molecules.numbers * waves[:, 0]).sum(1, keepdim=True)
    return torch.cat([(x.mT @ x)[:, i, j], (waves @ x).flatten(1), numbers], 1) / n


def _exchange_test(D: Tensor, exchanges: int) -> tuple[Tensor, float]:
    """Energy distances (B,) of the first half of 2 m points to the second by distances D (B, 2 m, 2 m), and p-value."""
    m = D.shape[1] // 2
    s = torch.ones(2 * m, dtype=D.dtype, device=D.device)
    s[m:] = -1
    energy = -(s @ D @ s) / m**2
    as_large = 0
    for part in torch.arange(exchanges).split(max(1, LABELS // D[:, 0].numel())):
        # The labels of every set of points are exchanged on their own.
        other = s[torch.rand(len(D), len(part), 2 * m, device=D.device).argsort(-1)]
        chance = -((other @ D) * other).sum((0, 2)) / m**2
        as_large += int((chance >= energy.sum() - 1e-9).sum())
    return energy, (as_large + 1) / (exchanges + 1)


def _draw(denoiser: Network, z: Tensor, t: Tensor, mask: Tensor | None, draws: int, batch_size: int) -> Tensor:
    """f(z, t) `draws` times for each molecule, (B draws, N, F)."""
    rows = torch.arange(len(z), device=z.device).repeat_interleave(draws)
    return torch.cat([denoiser(z[r], t[r], None if mask is None else mask[r]) for r in rows.split(batch_size)])
