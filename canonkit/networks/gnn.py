r"""GDM's network: a graph network on all pairs of atoms, with no symmetry except that of permutations.

    h_i = Linear [z_i, t]
    m_ij = MLP2(h_i, h_j),   a_ij = sigmoid(Linear m_ij),   h_i <- h_i + MLP2(h_i, sum_{j != i} a_ij m_ij)   per layer
    eps_i = Linear h_i

Hoogeboom et al. 2022 (EDM). In their released GDM the sum runs over all j of a molecule padded to the longest, itself
included; here padding and j = i are left out, unless `padded` says otherwise.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from canonkit.networks.layers import MLP2, PairMLP, attend, neighbours


class AttentiveLayer(nn.Module):
    """One layer: messages on pairs, weighted by attention, summed, added to the node. h (B, N, W) -> (B, N, W)."""

    def __init__(self, width: int, edge_features: int = 0):
        super().__init__()
        self.message = PairMLP(width, edge_features)
        self.attention = nn.Linear(width, 1)
        self.node = MLP2(2 * width, width)

    def forward(self, h: Tensor, near: Tensor, e: Tensor | None, dtype: torch.dtype) -> Tensor:
        parameters = (self.attention.weight, self.attention.bias)
        (summed,) = self.message(h, e, attend, (near,), parameters, dtype)
        return h + self.node(torch.cat([h, summed.to(h.dtype)], dim=-1), dtype)


class GNN(nn.Module):
    """GDM's network (z_t, t) -> eps_hat; `paper` scale is width 256, 9 layers, 3,555,859 parameters.

    Args:
        features: entries per atom, 3 coordinates and the rest (QM9: 9).
        width, layers: size.
        padded: as released: so many atoms send messages to each, itself and those of padding among them, whose
            features are zero from the second layer on; 0 for the other real atoms alone.

    Set `fast_dtype` to torch.bfloat16 to compute the layers' inner products in that precision; what they are added to
    stays as it is.
    """

    fast_dtype: torch.dtype | None = None

    def __init__(self, features: int = 9, width: int = 256, layers: int = 9, padded: int = 0):
        super().__init__()
        self.padded = padded
        self.embed = nn.Linear(features + 1, width)
        self.layers = nn.ModuleList(AttentiveLayer(width) for _ in range(layers))
        # The published network also emits a value for the time channel, which nothing reads.
        self.out = nn.Linear(width, features + 1)

    def sampling_bytes(self, atoms: int) -> int:
        """An upper estimate of the memory that one molecule needs in an evaluation: four tensors on its pairs."""
        return 4 * 4 * atoms**2 * self.out.in_features

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, N, F), t (B,) in [0, 1], mask (B, N) bool or None where nothing is padded -> (B, N, F)."""
        N, near, real = z.shape[1], neighbours(z, mask), None
        if self.padded:
            z, near, real = with_padding(z, mask, self.padded)
        h = self.embed(torch.cat([z, t.to(z.dtype)[:, None, None].expand(*z.shape[:2], 1)], dim=-1))
        for layer in self.layers:
            h = layer(h, near, None, self.fast_dtype or h.dtype)
            h = h if real is None else h * real[..., None]
        eps = self.out(h[:, :N])[..., :-1].to(z.dtype)
        return eps if mask is None else eps * mask[..., None]


def with_padding(z: Tensor, mask: Tensor | None, atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """z with an atom of zeros more, (B, N + 1, F); how often each atom's message counts, (B, N + 1, N + 1); real ones.

    The last atom stands for all that it takes to pad a molecule to `atoms`: their messages are the same.
    """
    real = z.new_ones(z.shape[:2]) if mask is None else mask.to(z.dtype)
    counts = torch.cat([real, (atoms - real.sum(1, keepdim=True)).clamp(min=0)], dim=1)
    near = counts[:, None].expand(-1, counts.shape[1], -1)
    return pad(z * real[..., None], (0, 0, 0, 1)), near, pad(real, (0, 1))
