r"""EDM's EGNN for a flow of molecular graphs: it predicts x_1, kinds and bonds, equivariant under O(3).

    e_ij = [d_ij^2, d_ij(0)^2, b_ij],   b_ij one-hot, one more for masked;   h and x by EDM's layers
    x_1^ = x,   kinds: Linear h_i
    bonds: logits_ij = symmetric part of Linear silu(A phi(d_ij) + B b_ij + D h_i + D h_j),   phi Canon's Gaussians

Turned or mirrored input gives turned or mirrored x_1^ and the same kinds and bonds, so its loss knows no pose.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from canonkit.networks.canon import DISTANCES, gaussians
from canonkit.networks.egnn import EquivariantLayer, squared_distances
from canonkit.networks.layers import neighbours


class GraphEGNN(nn.Module):
    """The network (z_t, t, bonds) -> x_1 and logits of kinds, and of bonds.

    Args:
        features: entries per atom, the first three its coordinates, the last whether its kind is masked.
        width, layers: size.
        channels: of pairs, where bonds are predicted.
        bonds: their orders.

    `fast_dtype` as in EGNN.
    """

    fast_dtype: torch.dtype | None = None

    def __init__(self, features: int, width: int = 256, layers: int = 9, channels: int = 48, bonds: int = 5):
        super().__init__()
        self.bonds = bonds
        self.embed = nn.Linear(features - 3 + 1, width)
        self.blocks = nn.ModuleList(EquivariantLayer(width, given=1 + bonds + 1) for _ in range(layers))
        self.out = nn.Linear(width, features - 3)
        self.bond_ends = nn.Linear(width, channels)
        self.bond_pairs = nn.Linear(DISTANCES + bonds + 1, channels, bias=False)
        self.bond_logits = nn.Linear(channels, bonds)
        for parameter in (*self.out.parameters(), *self.bond_logits.parameters()):
            nn.init.zeros_(parameter)

    def sampling_bytes(self, atoms: int) -> int:
        """An upper estimate of the memory that one molecule needs in an evaluation: four tensors on its pairs."""
        return 4 * 4 * atoms**2 * self.embed.out_features

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None, bonds: Tensor) -> tuple[Tensor, Tensor]:
        """x_1 and logits of kinds, (B, N, F), and those of bonds, (B, N, N, orders).

        Args:
            z: (B, N, F).
            t: (B,) in [0, 1].
            mask: (B, N) bool, or None where nothing is padded.
            bonds: orders, or their number for masked, (B, N, N).
        """
        x, near = z[..., :3], neighbours(z, mask)
        h = self.embed(torch.cat([z[..., 3:], t.to(z.dtype)[:, None, None].expand(*z.shape[:2], 1)], dim=-1))
        known = one_hot(bonds.long(), self.bonds + 1).to(z.dtype)
        given = torch.cat([squared_distances(x)[..., None], known], dim=-1)
        for block in self.blocks:
            h, x = block(h, x, near, given, self.fast_dtype or h.dtype)
        ends = self.bond_ends(h)
        pairs = self.bond_pairs(torch.cat([gaussians(x), known], dim=-1))
        logits = self.bond_logits(silu(ends[:, :, None] + ends[:, None] + pairs))
        out = torch.cat([x, self.out(h)], dim=-1).to(z.dtype)
        out = out if mask is None else out * mask[..., None]
        return out, 0.5 * (logits + logits.transpose(1, 2)).to(z.dtype)
