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
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from canonkit.groups import haar_orthogonal, haar_rotations
from canonkit.molecules import Molecules
from canonkit.networks.symmetrised import turn
from canonkit.processes.diffusion import Diffusion, Network, seeded
from canonkit.processes.spaces import MoleculeSpace
from canonkit.tables import Printed

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
        mismatch_error: what chance alone makes of it.
        exchanges: random exchanges of labels; the least p-value is 1 / (exchanges + 1).
    """

    molecules: int
    draws: int
    p_value: float
    energy: float
    mismatch: float
    mismatch_error: float
    exchanges: int

    def _rows(self):
        text = {k: f"{getattr(self, k):.4f}" for k in ("p_value", "energy", "mismatch", "mismatch_error")}
        return [(name, text.get(name, value)) for name, value in asdict(self).items()]


@torch.no_grad()
def certify_law(
    denoiser: Network,
    molecules: Molecules,
    *,
    draws: int = 64,
    reflections: bool = True,
    exchanges: int = 999,
    seed: int = 0,
    batch_size: int = 512,
) -> LawCertificate:
    """Tests that f(g z, t) = g f(z, t) in law, for one random g and one random time t per molecule.

    Its power depends on f. For a transformer with random weights, 16 molecules and 48 draws, at the level 5 %, it
    rejected the bare network and the wrong order of composition 20 times out of 20 (notebook 05).

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
        s = torch.ones(2 * draws, dtype=D.dtype, device=D.device)
        s[draws:] = -1
        energy = -(s @ D @ s) / draws**2  # (B,)
        as_large = 0
        for part in torch.arange(exchanges).split(max(1, LABELS // D[:, 0].numel())):
            # The labels of every molecule are exchanged on their own.
            other = s[torch.rand(len(z), len(part), 2 * draws, device=D.device).argsort(-1)]
            chance = -((other @ D) * other).sum((0, 2)) / draws**2
            as_large += int((chance >= energy.sum() - 1e-9).sum())
        gap = both[:, :draws].mean(1) - both[:, draws:].mean(1)
        spread = (both[:, :draws].var(1) + both[:, draws:].var(1)) / draws
    return LawCertificate(
        molecules=len(molecules),
        draws=draws,
        p_value=(as_large + 1) / (exchanges + 1),
        energy=float(energy.mean()),
        mismatch=float(gap.square().sum(-1).mean().sqrt() / size),
        mismatch_error=float(spread.sum(-1).mean().sqrt() / size),
        exchanges=exchanges,
    )


def _draw(denoiser: Network, z: Tensor, t: Tensor, mask: Tensor | None, draws: int, batch_size: int) -> Tensor:
    """f(z, t) `draws` times for each molecule, (B draws, N, F)."""
    rows = torch.arange(len(z), device=z.device).repeat_interleave(draws)
    return torch.cat([denoiser(z[r], t[r], None if mask is None else mask[r]) for r in rows.split(batch_size)])
