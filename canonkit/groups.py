r"""Groups and their actions on points and images.

An element g of O(3) is a matrix R(g) of shape (B, 3, 3). It acts on the rows of x (B, N, 3) by

    g x = x R(g)^T,        so that        (g1 g2) x = g1 (g2 x)    and    R(g1 g2) = R(g1) R(g2).

An element of SO(2) is an angle a in degrees, counter-clockwise as one looks at the image. It acts on x (B, C, H, H) by

    (g x)(p) = x(R(-a) p),  p a pixel's place relative to the centre: 90 a' exactly, the rest, at most 45 degrees, by
               interpolation; what comes from outside the image is zero.

C_K are its multiples of 360 / K. An element of S_n is the order (B, N) in which a molecule's atoms are taken, by
`Molecules.permute`. This is the one place that fixes the side of the action; everything else calls `act` or `rotate`.
"""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, normalize

from canonkit.randomness import Source, normal, uniform


def act(g: Tensor, x: Tensor) -> Tensor:
    """g x = x R(g)^T: rotations or reflections g (B, 3, 3) on points x (B, N, 3)."""
    return x @ g.mT


def inverse(g: Tensor) -> Tensor:
    """g^-1 = R(g)^T, shape (B, 3, 3)."""
    return g.mT


def compose(g1: Tensor, g2: Tensor) -> Tensor:
    """g1 g2, the element that acts as g2 first and then g1, shape (B, 3, 3)."""
    return g1 @ g2


def cosine_between(g: Tensor, other: Tensor) -> Tensor:
    """cos of the angle of g^-1 other, (tr - 1) / 2, for elements (B, 3, 3) of the same determinant, (B,)."""
    return ((inverse(g) @ other).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2


def angle_and_axis(g: Tensor) -> tuple[Tensor, Tensor]:
    """Angles (n,) in [0, pi] and unit axes (n, 3) of rotations (n, 3, 3); the identity's axis is z.

    By the unit quaternion, the eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix, which is exact for
    half turns too (Bar-Itzhack 2000).
    """
    skew = torch.stack([g[:, 2, 1] - g[:, 1, 2], g[:, 0, 2] - g[:, 2, 0], g[:, 1, 0] - g[:, 0, 1]], -1)
    trace = g.diagonal(dim1=1, dim2=2).sum(-1)
    m = torch.zeros(len(g), 4, 4, dtype=g.dtype, device=g.device)
    m[:, :3, :3] = g + g.mT - trace[:, None, None] * torch.eye(3, dtype=g.dtype, device=g.device)
    m[:, :3, 3] = m[:, 3, :3] = skew
    m[:, 3, 3] = trace
    q = torch.linalg.eigh(m).eigenvectors[..., -1]
    q = q * torch.where(q[:, 3:] < 0, -1.0, 1.0)
    half = q[:, :3].norm(dim=-1)
    axis = torch.where(
        half[:, None] > 1e-9, q[:, :3] / half[:, None].clamp(min=1e-12), torch.tensor([0.0, 0.0, 1.0]).to(q)
    )
    return 2 * torch.atan2(half, q[:, 3]), axis


def turn_about(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations (n, 3, 3) by angles (n,) about unit axes (n, 3): 1 + sin a [u] + (1 - cos a) [u]^2 (Rodrigues)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    u = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(3, dtype=u.dtype, device=u.device) + sin * u + (1 - cos) * (u @ u)


def gram_schmidt(a: Tensor, b: Tensor) -> Tensor:
    """h = [v1 v2 v3] in SO(3), (B, 3, 3), from independent vectors a and b, (B, 3)."""
    v1 = normalize(a, dim=-1)
    # Twice, since once leaves a component of rounding size / |b_perp| along v1.
    b = b - (b * v1).sum(-1, keepdim=True) * v1
    b = normalize(b, dim=-1)
    v2 = normalize(b - (b * v1).sum(-1, keepdim=True) * v1, dim=-1)
    return torch.stack([v1, v2, torch.linalg.cross(v1, v2)], dim=-1)


def haar_orthogonal(
    batch: int,
    *,
    generator: Source | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Elements drawn from the Haar measure on O(3), shape (B, 3, 3).

    Q of the QR decomposition of a Gaussian matrix, with the signs of R's diagonal moved into Q: without them the
    law depends on the sign convention of the QR routine (Mezzadri 2007).
    """
    # Drawn and decomposed in float64 where the generator lives, so that all devices and dtypes share one stream.
    home = generator.device if isinstance(generator, torch.Generator) else torch.device("cpu")
    q, r = torch.linalg.qr(normal((batch, 3, 3), generator, "cpu").double())
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return q.to(device=device or home, dtype=dtype)


def haar_rotations(batch: int, **options) -> Tensor:
    """Rotations drawn from the Haar measure on SO(3), shape (B, 3, 3); options as for `haar_orthogonal`.

    A Haar element of O(3) times its determinant. Three uniform Euler angles are not Haar: they crowd the poles.
    """
    q = haar_orthogonal(batch, **options)
    return q * torch.linalg.det(q.float()).sign().to(q.dtype)[:, None, None]


def random_permutations(mask: Tensor, *, generator: Source | None = None) -> Tensor:
    """Elements of S_n drawn uniformly for the n real atoms of every molecule, padding left last, (B, N)."""
    keys = uniform(tuple(mask.shape), generator, mask.device)
    return torch.where(mask, keys, 2.0).argsort(dim=1, stable=True)


def rotate(x: Tensor, degrees: Tensor | float, mode: str = "bilinear") -> Tensor:
    """g x: images x (B, C, H, H) turned counter-clockwise by `degrees` (B,) or one for all; differentiable in both.

    Quarter turns only move pixels, bit for bit. `mode` is that of `torch.nn.functional.grid_sample`.

    Raises:
        ValueError: images that are not square.
    """
    if x.ndim != 4 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"images of shape {tuple(x.shape)} cannot be turned: give (B, C, H, H)")
    degrees = torch.as_tensor(degrees, device=x.device).to(x.dtype).expand(len(x))
    quarters = torch.floor(degrees.detach() / 90 + 0.5)
    rest = torch.deg2rad(degrees - 90 * quarters)
    turned = x.clone()
    for k in (1, 2, 3):
        rows = quarters % 4 == k
        turned[rows] = torch.rot90(x[rows], k, (-2, -1))
    cos, sin, zero = rest.cos(), rest.sin(), torch.zeros_like(rest)
    places = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], 1)
    grid = affine_grid(places, list(x.shape), align_corners=False)
    blurred = grid_sample(turned, grid, mode=mode, padding_mode="zeros", align_corners=False)
    # Nothing is interpolated where nothing is left to turn; the gradient with respect to the angle is kept.
    exact = turned + (blurred - blurred.detach()) - (turned - turned.detach())
    return torch.where((rest == 0)[:, None, None, None], exact, blurred)


def disk(side: int, *, device: torch.device | None = None) -> Tensor:
    """1 on the pixels of a square image whose centre is within its inscribed circle, 0 in the corners, (side, side)."""
    place = torch.arange(side, device=device) + 0.5 - side / 2
    return (place[:, None] ** 2 + place**2 <= (side / 2) ** 2).float()
