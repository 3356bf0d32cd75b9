r"""Where a flow begins: distributions of noise positions x_0, (B, N, 3), centred.

    Gaussian        x_0i ~ N(0, s^2)
    AlignedPrior    x_0i ~ N(mu_{n r}, sd_{n r}^2) for the atom of rank r in a molecule of n atoms

The aligned prior is fitted to molecules in canonical pose and order, where rank r has its place: noise then lies near
data, and the flow's way is short. Moments are smoothed over neighbouring n and over relative ranks (r + 1/2) / n; a
number of atoms that no molecule has takes those of the nearest numbers that are there. sd is at least 0.3 Å. That
aligned priors help is canonical diffusion's claim; this form is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from canonkit.molecules import Molecules

LEAST = 0.3  # Å
SMOOTH_ATOMS, SMOOTH_RANKS = 1.0, 0.5  # widths of the smoothing, in atoms and in ranks of the molecule at hand


class Gaussian(nn.Module):
    """N(0, sd^2) for every coordinate, in Å."""

    def __init__(self, sd: float = 1.0):
        super().__init__()
        self.sd = sd

    def fit(self, canonical: Molecules) -> None:
        """Nothing to fit."""

    def forward(self, noise: Tensor, mask: Tensor | None) -> Tensor:
        """x_0 from standard normal noise (B, N, 3), not centred yet."""
        return self.sd * noise


class AlignedPrior(nn.Module):
    """A Gaussian per number of atoms and rank.

    Args:
        longest: atoms of the longest molecule.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, longest: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(longest + 1, longest, 3))
        self.register_buffer("sd", torch.ones(longest + 1, longest, 3))

    @torch.no_grad()
    def fit(self, canonical: Molecules) -> None:
        """Fits mean and sd to molecules in canonical pose and order.

        Raises:
            ValueError: molecules that are longer than the prior.
        """
        L = self.mean.shape[1]
        x, sizes = canonical.centred().positions.double(), canonical.sizes
        if int(sizes.max()) > L:
            raise ValueError(f"a molecule has {int(sizes.max())} atoms, the prior was made for at most {L}")
        x = torch.nn.functional.pad(x, (0, 0, 0, L - x.shape[1])) if x.shape[1] < L else x[:, :L]
        moments = torch.zeros(2, L + 1, L, 3, dtype=torch.float64, device=x.device)
        for k in (1, 2):
            moments[k - 1].index_add_(0, sizes, x**k)
        counts = torch.bincount(sizes, minlength=L + 1).double()
        n, r = torch.meshgrid(torch.arange(L + 1, device=x.device), torch.arange(L, device=x.device), indexing="ij")
        there = r < n
        n, place = n[there].double(), (r[there] + 0.5) / n[there]  # (M,) of all (n, r)
        first, second, weight = moments[0][there], moments[1][there], counts[n.long()]
        for atoms in range(1, L + 1):
            target = (torch.arange(atoms, device=x.device) + 0.5) / atoms
            apart = (n - atoms) ** 2
            near = torch.exp(-0.5 * (apart - apart[weight > 0].min()) / SMOOTH_ATOMS**2) * torch.exp(
                -0.5 * ((target[:, None] - place) * atoms / SMOOTH_RANKS) ** 2
            )  # (atoms, M)
            total = (near @ weight)[:, None].clamp(min=1e-12)
            mean = near @ first / total
            variance = (near @ second / total - mean**2).clamp(min=LEAST**2)
            self.mean[atoms, :atoms] = (mean - mean.mean(0)).to(self.mean)
            self.sd[atoms, :atoms] = variance.sqrt().to(self.sd)

    def forward(self, noise: Tensor, mask: Tensor | None) -> Tensor:
        """x_0 from standard normal noise (B, N, 3), not centred yet."""
        B, N, _ = noise.shape
        if self.mean.shape[1] < N:
            raise ValueError(f"a molecule of {N} atoms is longer than the model's longest, {self.mean.shape[1]}")
        sizes = torch.full((B,), N, device=noise.device) if mask is None else mask.sum(1)
        return self.mean[sizes, :N].to(noise) + self.sd[sizes, :N].to(noise) * noise
