r"""EDM's network: an EGNN on all pairs of atoms, equivariant under O(3) and invariant under translations.

    h_i = Linear [type and charge features, t],   e_ij = [d_ij^2, d_ij(0)^2]
    h_i <- GDM's layer with e_ij                                                                     per layer
    x_i <- x_i + sum_{j != i} (x_i - x_j) / (d_ij + 1) * 15 tanh(MLP3(h_i, h_j, e_ij))               with the new h
    eps = [x - x(0), centred; Linear h]

Hoogeboom et al. 2022. The sum over j is split, x_i sum_j w_ij - sum_j w_ij x_j: no tensor of differences is formed.
"""

import torch
from torch import Tensor, nn

from canonkit.networks.gnn import AttentiveLayer
from canonkit.networks.layers import PairMLP, neighbours

RANGE = 15.0  # Å that a layer may move an atom per neighbour


def step_lengths(m: Tensor, near: Tensor, weight: Tensor) -> tuple[Tensor]:
    """15 tanh(w . m_ij), (B, N, N), zero on the diagonal and for padding, in near's dtype."""
    return (RANGE * torch.tanh((m @ weight[0].to(m.dtype)).to(near.dtype)) * near,)


class EquivariantLayer(nn.Module):
    """One layer of EDM's EGNN: (h, x) -> (h, x). Pairs have `given` features beside their present distance."""

    def __init__(self, width: int, given: int = 1):
        super().__init__()
        self.nodes = AttentiveLayer(width, edge_features=1 + given)
        self.pairs = PairMLP(width, edge_features=1 + given)
        self.length = nn.Linear(width, 1, bias=False)
        nn.init.xavier_uniform_(self.length.weight, gain=1e-3)

    def forward(self, h: Tensor, x: Tensor, near: Tensor, given: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        squared = squared_distances(x)
        e = torch.cat([squared[..., None], given], dim=-1)
        h = self.nodes(h, near, e, dtype)
        (length,) = self.pairs(h, e, step_lengths, (near,), (self.length.weight,), dtype)
        w = length / ((squared + 1e-8).sqrt() + 1)  # 1e-8 A^2: the root's derivative at zero
        return h, x + w.sum(-1, keepdim=True) * x - w @ x


def squared_distances(x: Tensor) -> Tensor:
    """|x_i - x_j|^2, (B, N, 3) -> (B, N, N)."""
    return (x[:, :, None] - x[:, None]).square().sum(-1)


class EGNN(nn.Module):
    """EDM's network (z_t, t) -> eps_hat; `paper` scale is width 256, 9 layers, 5,339,920 parameters.

    Args:
        features: entries per atom, 3 coordinates and the rest (QM9: 9).
        width, layers: size.

    `fast_dtype` as in GNN: positions, distances and their sums are never computed in it.
    """

    fast_dtype: torch.dtype | None = None

    def __init__(self, features: int = 9, width: int = 256, layers: int = 9):
        super().__init__()
        self.embed = nn.Linear(features - 3 + 1, width)
        self.layers = nn.ModuleList(EquivariantLayer(width) for _ in range(layers))
        # The published network also emits a value for the time channel, which nothing reads.
        self.out = nn.Linear(width, features - 3 + 1)

    def sampling_bytes(self, atoms: int) -> int:
        """An upper estimate of the memory that one molecule needs in an evaluation: four tensors on its pairs."""
        return 4 * 4 * atoms**2 * self.out.in_features

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, N, F), t (B,) in [0, 1], mask (B, N) bool or None where nothing is padded -> (B, N, F)."""
        B, N, _ = z.shape
        x = start = z[..., :3]
        h = self.embed(torch.cat([z[..., 3:], t.to(z.dtype)[:, None, None].expand(B, N, 1)], dim=-1))
        near = neighbours(h, mask)
        d_start = squared_distances(start)[..., None]
        for layer in self.layers:
            h, x = layer(h, x, near, d_start, self.fast_dtype or h.dtype)
        keep = 1.0 if mask is None else mask[..., None].to(z.dtype)
        moved = (x - start) * keep
        count = N if mask is None else mask.sum(1)[:, None, None].clamp(min=1)
        moved = moved - moved.sum(1, keepdim=True) / count
        return torch.cat([moved, self.out(h)[..., :-1]], dim=-1).to(z.dtype) * keep
