r"""SymDiff's networks as in the code released with the paper (Zhang et al. 2024), where they are not those of its text.

    d_i   = (1/n) sum_j Linear phi(d_ij), j = i included,   phi_k(d) = N(d; mu_k, (|s_k| + 0.01)^2) with mu, s learned
    k:      [Linear z_i; d_i] -> DiT blocks -> adaLN, Linear -> eps_i
    gamma:  Linear [x_i; eta_i; d_i] -> DiT blocks -> mean over atoms -> MLP -> 3 x 3 -> Gram-Schmidt of its rows

What differs from `DiT` and `Turn`: the learned Gaussians, which k and gamma share; SwiGLU's inner width, twice the
width; the time, which is embedded as it is, in [0, 1]; gamma sees positions and no types, and begins anywhere, not at
the identity; Xavier's initialisation. Parameters: DiT 28,965,553, SymDiff 31,195,834, SymDiff* 123,309,408.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from canonkit.groups import gram_schmidt
from canonkit.networks.dit import TIME_WIDTH, Block, modulate
from canonkit.networks.egnn import squared_distances
from canonkit.networks.symmetrised import NOISE, with_side
from canonkit.networks.time import time_features
from canonkit.randomness import for_batch, normal

PADDED = 29  # atoms that the released code pads molecules to where it samples


class Distances(nn.Module):
    """The mean over j of a linear layer of learned Gaussians of the distance d_ij, (B, N, width).

    In the released code each atom of padding adds the layer's bias. Sampling there pads all molecules to 29 atoms, so
    the bias counts 29/n times; so it does here, however a batch is padded.
    """

    def __init__(self, count: int, width: int):
        super().__init__()
        self.means, self.spreads = (nn.Parameter(3 * torch.rand(count)) for _ in range(2))
        self.linear = nn.Linear(count, width)
        xavier(self.linear)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        other = 1 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        # 1e-12 Å^2, for the root's slope is infinite at 0; the distance to itself is exactly 0.
        d = ((squared_distances(x) + 1e-12).sqrt() * other)[..., None]
        s = self.spreads.abs() + 0.01
        phi = torch.exp(-0.5 * ((d - self.means) / s).square()) / (math.sqrt(2 * math.pi) * s)  # (B, N, N, K)
        real = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        n = real.sum(1).clamp(min=1)[:, None, None]
        summed = (real[:, None, None] @ phi).squeeze(2)
        return summed / n @ self.linear.weight.T + self.linear.bias * (n.clamp(min=PADDED) / n)


class Trunk(nn.Module):
    """Time and blocks: h (B, N, W) -> h, and the time's features e (B, W)."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, heads, inner=2 * width) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
            xavier(linear)
        for layer in (self.time[0], self.time[2]):
            nn.init.normal_(layer.weight, std=0.02)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.modulation.weight)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.modulation.weight)
            with torch.no_grad():  # the values that SwiGLU gates begin as ones
                block.up.weight[2 * width :].normal_(std=1e-6)
                block.up.bias[2 * width :] = 1

    def forward(self, h: Tensor, t: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        e = self.time(time_features(t.to(h.dtype), TIME_WIDTH, 1.0).to(h.dtype))
        keys = None if mask is None else mask[:, None, None]
        for block in self.blocks:
            h = block(h, e, keys)
        return h, e


class GaussianDiT(nn.Module):
    """k as released, (z_t, t) -> eps_hat.

    Args:
        features: entries per atom, 3 coordinates and the rest (QM9: 9).
        width, depth, heads: size.
        gaussians: of a distance, and the width of the other half of an atom's features.
    """

    def __init__(self, features: int = 9, width: int = 384, depth: int = 12, heads: int = 6, gaussians: int = 184):
        super().__init__()
        self.atoms, self.distances = nn.Linear(features, gaussians), Distances(gaussians, width - gaussians)
        self.trunk, self.out = Trunk(width, depth, heads), nn.Linear(width, features)
        xavier(self.atoms)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def sampling_bytes(self, atoms: int) -> int:
        """An upper estimate of the memory that one molecule needs in an evaluation: its distances, its features."""
        return 4 * (4 * atoms**2 * self.atoms.out_features + 20 * atoms * self.out.in_features)

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, N, F), t (B,) in [0, 1], mask (B, N) bool or None where nothing is padded -> (B, N, F)."""
        h, e = self.trunk(torch.cat([self.atoms(z), self.distances(z[..., :3], mask)], dim=-1), t, mask)
        scale, shift = self.trunk.modulation(e)[:, None].chunk(2, dim=-1)
        eps = self.out(modulate(h, scale, shift))
        return eps if mask is None else eps * mask[..., None]


class PositionTurn(nn.Module):
    """gamma's f as released, (z, t, eta) -> (B, 3, 3) in O(3): the rows of the MLP's matrix, made orthonormal.

    Args:
        distances: k's features of distances, which it shares.
        width, depth, heads: size.
        hidden: of the MLP.
    """

    def __init__(self, distances: Distances, width: int = 128, depth: int = 8, heads: int = 4, hidden: int = 64):
        super().__init__()
        self.distances = distances
        self.atoms = nn.Linear(3 + NOISE + distances.linear.out_features, width)
        self.trunk = Trunk(width, depth, heads)
        # The released network has these weights too, which nothing reads.
        self.trunk.modulation.requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 9))
        for layer in (self.atoms, self.head[0], self.head[2]):
            xavier(layer)

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        x = z[..., :3]
        eta = for_batch(lambda B, source: normal((B, z.shape[1], NOISE), source, z.device, z.dtype), len(z))
        h, _ = self.trunk(self.atoms(torch.cat([x, eta, self.distances(x, mask)], dim=-1)), t, mask)
        real = h.new_ones(h.shape[:2]) if mask is None else mask.to(h.dtype)
        mean = (h * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        m = self.head(mean).view(-1, 3, 3).mT
        return with_side(gram_schmidt(m[:, :, 0], m[:, :, 1]), m).mT


def xavier(linear: nn.Module) -> None:
    """Uniform weights by Xavier's rule, no bias."""
    assert isinstance(linear, nn.Linear)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
