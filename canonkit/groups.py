r"""Groups and their actions on points.

An element g of O(3) is a matrix R(g) of shape (B, 3, 3). It acts on the rows of x (B, N, 3) by

    g x = x R(g)^T,        so that        (g1 g2) x = g1 (g2 x)    and    R(g1 g2) = R(g1) R(g2).

This is the one place that fixes the side of the action; everything else calls `act`.
"""

import torch
from torch import Tensor


def act(g: Tensor, x: Tensor) -> Tensor:
    """g x = x R(g)^T: rotations or reflections g (B, 3, 3) on points x (B, N, 3)."""
    return x @ g.mT


def inverse(g: Tensor) -> Tensor:
    """g^-1 = R(g)^T, shape (B, 3, 3)."""
    return g.mT


def compose(g1: Tensor, g2: Tensor) -> Tensor:
    """g1 g2, the element that acts as g2 first and then g1, shape (B, 3, 3)."""
    return g1 @ g2


def haar_orthogonal(
    batch: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Elements drawn from the Haar measure on O(3), shape (B, 3, 3).

    Q of the QR decomposition of a Gaussian matrix, with the signs of R's diagonal moved into Q: without them the
    law depends on the sign convention of the QR routine (Mezzadri 2007).
    """
    # Drawn and decomposed in float64 where the generator lives, so that all devices and dtypes share one stream.
    home = generator.device if generator is not None else torch.device("cpu")
    gaussian = torch.randn(batch, 3, 3, generator=generator, device=home, dtype=torch.float32)
    q, r = torch.linalg.qr(gaussian.cpu().double())
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return q.to(device=device or home, dtype=dtype)


def haar_rotations(batch: int, **options) -> Tensor:
    """Rotations drawn from the Haar measure on SO(3), shape (B, 3, 3); options as for `haar_orthogonal`.

    A Haar element of O(3) times its determinant. Three uniform Euler angles are not Haar: they crowd the poles.
    """
    q = haar_orthogonal(batch, **options)
    return q * torch.linalg.det(q.float()).sign().to(q.dtype)[:, None, None]
