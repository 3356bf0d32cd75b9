r"""Canon: a transformer on atoms in canonical pose and order, and on pairs of atoms.

    h_i = [Linear z_i;  Linear of sinusoids of (r_i + 1/2) / n],  r_i the place of atom i in its molecule
    p_ij = MLP [phi(d_ij), x_i - x_j, e, b_ij],  phi Gaussians of the distance, e the time, b the bond where there are
           any:  C channels, once for all layers
    a_ij = softmax_j(q_i . k_j / sqrt(W / H) + (B p_ij)),   out_i = O [sum_j a_ij v_j;  sum_j a_ij p_ij]      per head
    h <- h + gate out,  h <- h + gate SwiGLU(h),  scales, shifts and gates from the time, beginning at zero (as in DiT)
    bonds: logits_ij = symmetric part of Linear silu(A p_ij + D h_i + D h_j)

It need not be invariant, because the pose is canonical. Pairs come in as a bias of the attention and in the
sums themselves, which learns from fewer molecules than the bias alone. The name is canonical diffusion's; of its design
the abstract says no more than that order is encoded mildly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from canonkit.networks.dit import FAINTEST, TIME_WIDTH, Block, modulate
from canonkit.networks.egnn import squared_distances
from canonkit.networks.time import time_features

DISTANCES, FARTHEST = 24, 8.0  # Gaussians and the last one's centre in Å
ORDER = 16  # sinusoids of the relative rank
AT_ONCE = 30_000  # pairs for each thread that an evaluation on a CPU works on: with fewer, weights are read too often
ORDER_GAIN = 0.3  # mild: neighbours in rank need not be neighbours in the molecule


def order_features(mask: Tensor | None, like: Tensor) -> Tensor:
    """sin and cos of pi k (r + 1/2) / n, k = 1..8, (B, N, 16)."""
    B, N, _ = like.shape
    n = torch.full((B, 1), N, device=like.device) if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
    place = (torch.arange(N, device=like.device) + 0.5) / n
    angles = torch.pi * place[..., None] * torch.arange(1, ORDER // 2 + 1, device=like.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like)


def gaussians(*points: Tensor) -> Tensor:
    """phi of the distances between points (B, N, 3), of each set of points 24, (B, N, N, 24 sets)."""
    centres = torch.linspace(0, FARTHEST, DISTANCES, dtype=points[0].dtype, device=points[0].device)
    # The exponent is [d^2, d, ..., 1] times this, one product of matrices for all sets.
    one = torch.stack([-torch.ones_like(centres), 2 * centres], 0) / (2 * centres[1] ** 2)  # (2, 24)
    last = -centres.square().repeat(len(points)) / (2 * centres[1] ** 2)
    c = torch.cat([torch.block_diag(*[one] * len(points)), last[None]])
    columns = []
    for x in points:
        squared = squared_distances(x)
        columns += [squared, (squared + 1e-12).sqrt()]
    exponent = torch.stack([*columns, torch.ones_like(columns[0])], dim=-1) @ c
    return exponent.clamp_(min=FAINTEST).exp_()


def _linear(x: Tensor, weight: Tensor, add: Tensor) -> Tensor:
    """x W^T + add for pairs x (B, N, N, C), in one pass; in the place of `add` where no gradient is asked for."""
    if not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type):
        return add.flatten(0, 2).addmm_(x.flatten(0, 2), weight.mT).view_as(add)
    return torch.addmm(add.flatten(0, 2), x.flatten(0, 2), weight.mT).view_as(add)


class CanonBlock(Block):
    """DiT's block with pairs p (B, N, N, C) as a bias of the attention and in its sums."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, p: Tensor) -> Tensor:
        """(B, N, W + H C)."""
        B, H, N, D = q.shape
        # One row of memory per head: what is added to the scores must lie as they do.
        bias = (self.bias.weight.expand(B, -1, -1) @ p.flatten(1, 2).mT).view(B * H, N, N)
        add = torch.baddbmm if torch.is_grad_enabled() else Tensor.baddbmm_
        scores = add(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=D**-0.5).view(B, H, N, N)
        if keys is not None:
            scores = scores.masked_fill(~keys, -torch.inf)
        a = scores.softmax(-1).to(v.dtype)  # (B, H, N, N)
        pairs = a.permute(0, 2, 1, 3) @ p  # (B, N, H, C)
        return torch.cat([(a @ v).transpose(1, 2).flatten(2), pairs.flatten(2)], dim=-1)


class Canon(nn.Module):
    """CanonFlow's network: (z_t, t) -> x_1 and logits, or another target of z's shape.

    Args:
        features: entries per atom, the first three its coordinates.
        width, depth, heads: size; the heads share the width.
        channels: of pairs, C.
        ordered: whether the place of an atom in its molecule has a meaning.
        distances: whether pairs see their distance; without, as in DiT, only coordinates are seen.
        guess: where in z a guess of x_1 begins, whose distances are to be seen by pairs; 0 where there is none.
        bonds: orders of bonds, where the network is given and predicts those; 0 for points without bonds.

    `fast_dtype` as in DiT.

    Raises:
        ValueError: a width that is no multiple of the heads.
    """

    fast_dtype: torch.dtype | None = None

    def __init__(
        self,
        features: int = 9,
        width: int = 256,
        depth: int = 12,
        heads: int = 8,
        channels: int = 24,
        ordered: bool = True,
        distances: bool = True,
        guess: int = 0,
        bonds: int = 0,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.width, self.heads = width, heads
        self.atoms = nn.Linear(features, width)
        self.order = nn.Linear(ORDER, width, bias=False) if ordered else None
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.distances = nn.Linear(DISTANCES, 2 * channels) if distances else None
        self.vectors = nn.Linear(3, 2 * channels, bias=False)
        self.pair_time, self.pairs = nn.Linear(width, 2 * channels, bias=False), nn.Linear(2 * channels, channels)
        self.blocks = nn.ModuleList(CanonBlock(width, heads, channels) for _ in range(depth))
        self.modulation, self.out = nn.Linear(width, 2 * width), nn.Linear(width, features)
        for parameter in (*self.modulation.parameters(), *self.out.parameters()):
            nn.init.zeros_(parameter)
        self.guess, self.bonds = guess, bonds
        if guess and distances:
            self.guessed = nn.Linear(DISTANCES, 2 * channels, bias=False)
        if bonds:
            self.bond_input = nn.Embedding(bonds + 1, 2 * channels)  # one more for masked
            self.bond_ends, self.bond_pairs = nn.Linear(width, 2 * channels), nn.Linear(channels, 2 * channels)
            self.bond_logits = nn.Linear(2 * channels, bonds)
            nn.init.zeros_(self.bond_logits.weight)
            nn.init.zeros_(self.bond_logits.bias)

    def sampling_bytes(self, atoms: int) -> int:
        """An upper estimate of the memory that one molecule needs in an evaluation."""
        channels, heads = self.pairs.out_features, self.heads
        return 4 * (atoms**2 * (2 * DISTANCES + 7 * channels + 4 * heads) + 16 * atoms * self.width)

    def _pairs(self, z: Tensor, e: Tensor, bonds: Tensor | None) -> Tensor:
        """p_ij (B, N, N, C)."""
        v = self.vectors(z[..., :3])  # linear: of x_i - x_j the difference of two
        rows = v + self.pair_time(e)[:, None]
        if self.distances is not None:
            rows = rows + self.distances.bias
        hidden = rows[:, :, None] - v[:, None]
        if self.distances is not None:
            seen, weights = [z[..., :3]], [self.distances.weight]
            if self.guess:
                seen.append(z[..., self.guess : self.guess + 3])
                weights.append(self.guessed.weight)
            with torch.autocast(z.device.type, enabled=False):
                phi = gaussians(*seen)
            hidden = _linear(phi, torch.cat(weights, 1), hidden)
        if bonds is not None:
            known = one_hot(bonds.long(), self.bonds + 1).to(hidden.dtype)
            hidden = _linear(known, self.bond_input.weight.mT, hidden)
        return self.pairs(silu(hidden, inplace=not torch.is_grad_enabled()))

    def _bonds(self, h: Tensor, p: Tensor) -> Tensor:
        """Logits of the order of every bond, symmetric, (B, N, N, orders)."""
        ends = self.bond_ends(h)
        both = (ends + self.bond_pairs.bias)[:, :, None] + ends[:, None]
        hidden = _linear(p, self.bond_pairs.weight, both)
        logits = self.bond_logits(silu(hidden, inplace=not torch.is_grad_enabled()))
        return 0.5 * (logits + logits.transpose(1, 2))

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None, bonds: Tensor | None = None):
        """The prediction, (B, N, F), and where the network knows bonds their logits, (B, N, N, orders).

        Args:
            z: (B, N, F).
            t: (B,) in [0, 1].
            mask: (B, N) bool, or None where nothing is padded.
            bonds: orders, or their number for masked, (B, N, N).
        """
        count = max(1, AT_ONCE * torch.get_num_threads() // z.shape[1] ** 2)  # molecules
        if count < len(z) and z.device.type == "cpu" and not torch.is_grad_enabled():
            given = [(None,) * len(z) if x is None else x.split(count) for x in (z, t, mask, bonds)]
            parts = [self(*some) for some in zip(*given, strict=False)]
            return tuple(map(torch.cat, zip(*parts, strict=True))) if self.bonds else torch.cat(parts)
        fast = self.fast_dtype
        keys = None if mask is None else mask[:, None, None]
        with torch.autocast(z.device.type, dtype=fast, enabled=fast is not None):
            e = self.time(time_features(t.to(z.dtype), TIME_WIDTH).to(z.dtype))
            h = self.atoms(z).to(z.dtype)
            if self.order is not None:
                h = h + ORDER_GAIN * self.order(order_features(mask, z))
            p = self._pairs(z, e, bonds)
            for block in self.blocks:
                h = block(h, e, keys, p)
            scale, shift = self.modulation(e)[:, None].chunk(2, dim=-1)
            h = modulate(h, scale, shift)
            out = self.out(h).to(z.dtype)
            logits = self._bonds(h, p).to(z.dtype) if self.bonds else None
        out = out if mask is None else out * mask[..., None]
        return (out, logits) if self.bonds else out
