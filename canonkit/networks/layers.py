r"""What the graph networks share: layers on pairs of atoms, without the pairs' concatenated features.

The first layer of an edge MLP is linear in its input, so

    W [h_i; h_j; e_ij] + b = (A h_i + b) + B h_j + C e_ij,        W = [A B C],

costs per atom what the plain form costs per pair. B batch, N atoms, W width, E edge features.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu


def linear_as(x: Tensor, layer: nn.Linear) -> Tensor:
    """The layer in x's dtype: weights are kept in full precision and rounded on the way."""
    return linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


class PairMLP(nn.Module):
    """m_ij = silu(Linear(silu(Linear [h_i; h_j; e_ij]))): h (B, N, W), e (B, N, N, E) or None -> (B, N, N, W).

    What is per atom is computed in h's dtype, what is per pair in `dtype`: bfloat16 halves the traffic of the N^2 part,
    while positions, which decide stability at 0.02 Å, never pass through 8 bits of mantissa as such.
    """

    def __init__(self, width: int, edge_features: int = 0):
        super().__init__()
        self.width = width
        self.first = nn.Linear(2 * width + edge_features, width)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, e: Tensor | None, dtype: torch.dtype) -> Tensor:
        w_i, w_j, w_e = self.first.weight.tensor_split([self.width, 2 * self.width], dim=1)
        y = linear(h, w_i, self.first.bias).to(dtype)[:, :, None] + linear(h, w_j).to(dtype)[:, None]
        if e is not None:
            y = y + linear(e, w_e).to(dtype)
        return silu(linear_as(silu(y), self.second))


def neighbours(h: Tensor, mask: Tensor | None) -> Tensor:
    """1 where j is a real atom other than i, (B, N, N) or, where nothing is padded, (1, N, N), in h's dtype."""
    other = 1 - torch.eye(h.shape[1], dtype=h.dtype, device=h.device)[None]
    return other if mask is None else other * mask[:, None]
