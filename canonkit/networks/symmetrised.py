r"""Stochastic symmetrisation: any network, made equivariant in law by random turns (Zhang et al. 2024, SymDiff).

    f(z, t) = R k(R^-1 z, t),    R ~ gamma(. | z, t),    gamma(g z, t) = g gamma(z, t) in law
    then    f(g z, t) = g f(z, t) in law, for every g in G, whatever k is.

    Haar        gamma = Haar(G)                                                                     (SymDiff-H)
    Recursive   R = R0 r(R0^-1 z, t, eta),   R0 ~ Haar(G),   eta noise,   r a network with values in G      (SymDiff)

In the second, R0^-1 (g z) = (g^-1 R0)^-1 z, and g^-1 R0 is Haar as R0 is: R for g z is g times the R for z, in law. The
two factors must stand in this order. The authors' released code has them the other way round, r R0^-1, which is not
equivariant in law unless r is constant; `as_released` keeps that order, for comparison.

G is O(3), or SO(3) where `reflections` is False; it acts on coordinates, the first three entries of an atom's z.
Everything is reparametrised, so that the gradient of a loss reaches r through R.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from canonkit.groups import act, compose, gram_schmidt, haar_orthogonal, haar_rotations, inverse
from canonkit.networks.dit import Transformer
from canonkit.randomness import for_batch, normal

NOISE = 3  # entries of eta per atom


def turn(g: Tensor, z: Tensor) -> Tensor:
    """g z: g (B, 3, 3) on the coordinates of z (B, N, F)."""
    return torch.cat([act(g, z[..., :3]), z[..., 3:]], dim=-1)


def with_side(frame: Tensor, m: Tensor) -> Tensor:
    """A frame (B, 3, 3) of m's first two columns, its third on the side of m's own.

    It is the Q of a QR decomposition of m whose R has a positive diagonal.
    """
    side = (frame[:, :, 2] * m[:, :, 2]).sum(-1).detach()
    return torch.cat([frame[:, :, :2], frame[:, :, 2:] * torch.where(side < 0, -1.0, 1.0)[:, None, None]], dim=-1)


class Haar(nn.Module):
    """gamma(. | z) = Haar(G), whatever z is."""

    def __init__(self, reflections: bool = True):
        super().__init__()
        self.reflections = reflections

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """R (B, 3, 3)."""
        draw = haar_orthogonal if self.reflections else haar_rotations
        return for_batch(lambda B, source: draw(B, generator=source, dtype=z.dtype, device=z.device), len(z))


class Turn(nn.Module):
    """r(z, t, eta) in G, (B, 3, 3): Gram-Schmidt of 1 + the mean over atoms of a transformer's 3 x 3 outputs.

    It begins as the identity. Gaussian noise eta, three numbers per atom, makes it random.

    Args:
        features: entries per atom.
        width, depth, heads: size of the transformer.
        reflections: whether the values are in O(3) or SO(3).
    """

    def __init__(self, features: int, width: int, depth: int, heads: int, reflections: bool = True):
        super().__init__()
        self.transformer = Transformer(features + NOISE, width, depth, heads)
        self.out = nn.Linear(width, 9)
        self.reflections = reflections
        self.fast_dtype: torch.dtype | None = None
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        eta = for_batch(lambda B, source: normal((B, z.shape[1], NOISE), source, z.device, z.dtype), len(z))
        h = self.out(self.transformer(torch.cat([z, eta], dim=-1), t, mask, self.fast_dtype))
        real = h.new_ones(h.shape[:2]) if mask is None else mask.to(h.dtype)
        mean = (h * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        m = torch.eye(3, dtype=z.dtype, device=z.device) + mean.view(-1, 3, 3)
        frame = gram_schmidt(m[:, :, 0], m[:, :, 1])
        if not self.reflections:
            return frame
        return with_side(frame, m)


class Recursive(nn.Module):
    """gamma(. | z): R = R0 r(R0^-1 z, t, eta) with R0 ~ Haar(G).

    Args:
        r: a network (z, t, mask) -> (B, 3, 3), random or not.
        reflections: whether G is O(3) or SO(3).
        as_released: r R0^-1 instead, which is wrong.
    """

    def __init__(self, r: nn.Module, reflections: bool = True, as_released: bool = False):
        super().__init__()
        self.r, self.first, self.as_released = r, Haar(reflections), as_released

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """R (B, 3, 3)."""
        R0 = self.first(z, t, mask)
        r = self.r(turn(inverse(R0), z), t, mask)
        return compose(r, inverse(R0)) if self.as_released else compose(R0, r)


class Symmetrised(nn.Module):
    """f(z, t) = R k(R^-1 z, t) with R ~ gamma(. | z, t): a network that may stand wherever k may.

    Args:
        network: k, any network (z, t, mask) -> eps_hat.
        kernel: gamma, a module (z, t, mask) -> R.

    It draws from torch's global random numbers; `canonkit.randomness.repeatable` ties them to a source.
    """

    def __init__(self, network: nn.Module, kernel: nn.Module):
        super().__init__()
        self.network, self.kernel = network, kernel

    @property
    def fast_dtype(self) -> torch.dtype | None:
        """That of the parts; see DiT."""
        return getattr(self.network, "fast_dtype", None)

    @fast_dtype.setter
    def fast_dtype(self, dtype: torch.dtype | None) -> None:
        for part in self.modules():
            if part is not self and hasattr(part, "fast_dtype"):
                setattr(part, "fast_dtype", dtype)  # noqa: B010

    def sampling_bytes(self, atoms: int) -> int:
        """An upper estimate of the memory that one molecule needs in an evaluation."""
        return 2 * self.network.sampling_bytes(atoms)

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, N, F), t (B,) in [0, 1], mask (B, N) bool or None where nothing is padded -> (B, N, F)."""
        R = self.kernel(z, t, mask)
        return turn(R, self.network(turn(inverse(R), z), t, mask))
