r"""A diffusion transformer for molecules: atoms are tokens; it has no symmetry except that of permutations.

    h_i = [Linear z_i;  Linear mean_{j != i} phi(d_ij)],     phi_k(d) = exp(-(d - mu_k)^2 / 2 s^2),   k = 1..K
    h <- h + a1 Attention((1 + c1) Norm(h) + b1),   h <- h + a2 SwiGLU((1 + c2) Norm(h) + b2)             per layer
    eps_i = Linear((1 + c) Norm(h_i) + b),          a, b, c = Linear(SiLU(e)),   e = MLP(sinusoids of t)

The network of SymDiff (Zhang et al. 2024), after DiT (Peebles and Xie 2023). Every a, b and c and the last layer begin
at zero, so that each block begins as the identity. The mean over j is taken before the linear layer: the same number,
at a K-th of the cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention, silu

from canonkit.networks.egnn import squared_distances
from canonkit.networks.layers import neighbours
from canonkit.networks.time import time_features

DISTANCES = 64  # Gaussians of a distance, K
FARTHEST = 12.0  # Å, the last one's centre; no two atoms of QM9 are farther apart
TIME_WIDTH = 256  # sinusoids of t
FAINTEST = -60.0  # exponent of a Gaussian: exp of less is nearly zero; near 1e-38 its products are ten times as slow
CACHED = 2**18  # entries of the tensor of Gaussians worked on at a time, so that it stays in the processor's cache
FAST_WIDTH = 256  # below, without features of pairs, bfloat16 was measured slower than float32 on CPUs


def distance_features(x: Tensor, mask: Tensor | None) -> Tensor:
    """mean_{j != i} phi(d_ij) of positions x (B, N, 3): (B, N, K), zero for a single atom."""
    N = x.shape[1]
    near = neighbours(x, mask)  # (B, N, N)
    centres = torch.linspace(0, FARTHEST, DISTANCES, dtype=x.dtype, device=x.device)
    # The exponent is [d^2, d, 1] times this: the one large tensor is written by a product of matrices and read twice.
    c = torch.stack([-torch.ones_like(centres), 2 * centres, -centres.square()]) / (2 * centres[1] ** 2)  # (3, K)
    parts = []
    for y, n in zip(x.split(size := max(1, CACHED // (N * N * DISTANCES))), near.split(size), strict=True):
        squared = squared_distances(y)
        d = (squared + 1e-12).sqrt()  # 1e-12 Å^2: the root's slope is infinite at 0
        exponent = torch.stack([squared, d, torch.ones_like(d)], dim=-1) @ c
        phi = exponent.clamp(min=FAINTEST).exp()
        parts.append((n[:, :, None] @ phi).squeeze(2) / n.sum(-1, keepdim=True).clamp(min=1))
    return torch.cat(parts)


def modulate(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(1 + scale) Norm(h) + shift."""
    return layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Attention among a molecule's atoms, then SwiGLU on each, both scaled, shifted and gated by the time e.

    `channels` of pairs are for subclasses whose attention has more to mix. `inner` is SwiGLU's width.
    """

    def __init__(self, width: int, heads: int, channels: int = 0, inner: int | None = None):
        super().__init__()
        self.heads = heads
        inner = inner or 8 * round(width / 3)  # as many weights as an ordinary MLP of four times the width
        self.modulation = nn.Linear(width, 6 * width)
        self.inputs = nn.Linear(width, 3 * width)
        if channels:
            self.bias = nn.Linear(channels, heads, bias=False)
        self.output = nn.Linear(width + heads * channels, width)
        self.up, self.down = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None) -> Tensor:
        """What every atom gathers from the others, (B, N, W), of q, k, v (B, H, N, W / H)."""
        return scaled_dot_product_attention(q, k, v, keys).transpose(1, 2).flatten(2)

    def forward(self, h: Tensor, e: Tensor, keys: Tensor | None, *pairs: Tensor) -> Tensor:
        """h (B, N, W); keys (B, 1, 1, N), the atoms that may be attended to, or None for all."""
        B, N, W = h.shape
        c1, b1, a1, c2, b2, a2 = self.modulation(e)[:, None].chunk(6, dim=-1)
        q, k, v = self.inputs(modulate(h, c1, b1)).view(B, N, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        h = h + a1 * self.output(self.mix(q, k, v, keys, *pairs))
        gate, value = self.up(modulate(h, c2, b2)).chunk(2, dim=-1)
        return h + a2 * self.down(silu(gate) * value)


class Transformer(nn.Module):
    """The DiT without its last layer: (z, t, mask) -> normalised features (B, N, W).

    Args:
        features: entries per atom, the first three its coordinates.
        width, depth, heads: size; the heads share the width.

    Raises:
        ValueError: a width that is odd or no multiple of the heads.
    """

    def __init__(self, features: int, width: int, depth: int, heads: int):
        super().__init__()
        if width % heads or width % 2:
            raise ValueError(f"width {width} is not an even multiple of {heads} heads")
        self.width = width
        self.atoms, self.distances = nn.Linear(features, width // 2), nn.Linear(DISTANCES, width // 2)
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None, fast: torch.dtype | None) -> Tensor:
        """Features of z (B, N, F) at times t (B,); products are computed in `fast` where it is given."""
        distances = distance_features(z[..., :3], mask)  # in full precision
        keys = None if mask is None else mask[:, None, None]
        with torch.autocast(z.device.type, dtype=fast, enabled=fast is not None and self.width >= FAST_WIDTH):
            e = self.time(time_features(t.to(z.dtype), TIME_WIDTH).to(z.dtype))
            h = torch.cat([self.atoms(z), self.distances(distances)], dim=-1).to(z.dtype)
            for block in self.blocks:
                h = block(h, e, keys)
            scale, shift = self.modulation(e)[:, None].chunk(2, dim=-1)
            return modulate(h, scale, shift).to(z.dtype)


class DiT(nn.Module):
    """SymDiff's network (z_t, t) -> eps_hat; `paper` scale is width 384, depth 12, 6 heads.

    Args:
        features: entries per atom, 3 coordinates and the rest (QM9: 9).
        width, depth, heads: size.

    Set `fast_dtype` to torch.bfloat16 to compute products in that precision, from width 256 on; sums of blocks,
    normalisation, distances and output stay as they are.
    """

    fast_dtype: torch.dtype | None = None

    def __init__(self, features: int = 9, width: int = 384, depth: int = 12, heads: int = 6):
        super().__init__()
        self.transformer = Transformer(features, width, depth, heads)
        self.out = nn.Linear(width, features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def sampling_bytes(self, atoms: int) -> int:
        """An upper estimate of the memory that one molecule needs in an evaluation: its distances, its features."""
        return 4 * (3 * atoms**2 * DISTANCES + 16 * atoms * self.transformer.width)

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, N, F), t (B,) in [0, 1], mask (B, N) bool or None where nothing is padded -> (B, N, F)."""
        eps = self.out(self.transformer(z, t, mask, self.fast_dtype))
        return eps if mask is None else eps * mask[..., None]
