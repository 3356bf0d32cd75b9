r"""Multi-channel EGNN: node features h_i and m vectors per node, equivariant under O(3) (Levy et al. 2023).

X_i in R^{3 x m} starts as m copies of x_i, h_i(0) as Linear(one-hot type).

    r_ij  = |column c of X_i - X_j|^2, c = 1..m
    m_ij  = MLP2(h_i, h_j, r_ij)
    A_ij  = diag(1 / (sqrt(r_ij) + 1)) tanh(reshape(MLP(m_ij))) in R^{m x m}
    X_i  <- X_i + (1/n) sum_{j != i} (X_i - X_j) A_ij
    h_i  <- h_i + MLP2(h_i, sum_{j != i} m_ij, h_i(0))

tanh and the division by the distance are EDM's; the published form has neither. Without them a layer's step grows with
the lengths it is given; training made the vectors longer by three to nine powers of ten, and so nearly parallel that
they no longer gave a frame. With them a layer moves no vector by more than m Å.

The sum over j is split, X_i sum_j A_ij - sum_j X_j A_ij, so that no tensor of all differences times A is formed.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from canonkit.networks.layers import MLP2, PairMLP, neighbours


def mix(m: Tensor, near: Tensor, r: Tensor, X: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """sum_j m_ij (B, N, W) and sum_j (X_i - X_j) A_ij (B, N, 3, C)."""
    B, N, _, C = X.shape
    share = near[..., None] / ((r + 1e-8).sqrt() + 1)  # (B, N, N, C); the root's slope is infinite at 0
    A = linear(silu(linear(m, w1, b1)), w2).tanh().unflatten(-1, (C, C)) * share[..., None]  # (B, N, N, C, C)
    # sum_j X_j A_ij as one matrix product per atom i: (3, N C) times (N C, C)
    flat = X.permute(0, 2, 1, 3).reshape(B, 1, 3, N * C)
    moved = X @ A.sum(2) - flat @ A.reshape(B, N, N * C, C)
    return (near.unsqueeze(-2) @ m).squeeze(-2), moved


class MCLayer(nn.Module):
    """One layer of the multi-channel EGNN."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.message = PairMLP(width, channels)
        first, last = nn.Linear(width, width), nn.Linear(width, channels * channels, bias=False)
        self.mix = nn.Sequential(first, nn.SiLU(), last)
        nn.init.xavier_uniform_(last.weight, gain=1e-3)
        self.node = MLP2(3 * width, width)

    def forward(self, h: Tensor, h0: Tensor, X: Tensor, near: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        r = (X[:, :, None] - X[:, None]).square().sum(-2)  # (B, N, N, C)
        parameters = (self.mix[0].weight, self.mix[0].bias, self.mix[2].weight)
        summed, moved = self.message(h, r, mix, (near, r, X), parameters, h.dtype)
        return h + self.node(torch.cat([h, summed, h0], dim=-1), h.dtype), X + moved / n


class MCEGNN(nn.Module):
    """h (B, N, F), x (B, N, 3) centred, mask (B, N) or None -> h (B, N, W), X (B, N, 3, C)."""

    def __init__(self, features: int, width: int, layers: int, channels: int):
        super().__init__()
        self.channels = channels
        self.embed = nn.Linear(features, width)
        self.layers = nn.ModuleList(MCLayer(width, channels) for _ in range(layers))

    def forward(self, h: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = h0 = self.embed(h)
        X = x[..., None].expand(*x.shape, self.channels)
        near = neighbours(h, mask)
        n = x.shape[1] if mask is None else mask.sum(1).clamp(min=1).to(x.dtype)[:, None, None, None]
        for layer in self.layers:
            h, X = layer(h, h0, X, near, n)
        return h, X
