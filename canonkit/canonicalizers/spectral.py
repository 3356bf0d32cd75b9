r"""Pose from the spectrum of a geometric graph: a canonicalizer of SE(3) that does not depend on the order of atoms.

    W_ij = exp(-d_ij^2 / 2 s^2), i != j,   L = diag(W 1) - W + 0.01 diag((Z - mean Z) / 9),   L u_k = lambda_k u_k
    v_k = sum_i u_k(i) x_i,  k = 1, 2  (lambda_0 < lambda_1 < lambda_2 ...),   h(x) = Gram-Schmidt(v_1, v_2)

u_1 (the Fiedler vector) and u_2 depend on distances and elements alone, so v_k turn with the molecule and do not depend
on the order of its atoms. The term with Z distinguishes the elements. Signs of u: the first that is not near zero of
sum_i Z_i u_i^3, sum_i Z_i u_i |x_i|, and the first difference of the sorted lists of (element, u) and (element, -u).

The idea of a geometric spectrum is canonical diffusion's (2026, of which the abstract is public); graph, signs and
fallback are ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.canonicalizers.gram_schmidt import rotation_from
from canonkit.canonicalizers.inertial import Inertial
from canonkit.molecules import Molecules

REACH = 1.5  # Å, s
ELEMENT_TERM = 1e-2
GAP = 0.02  # of neighbouring eigenvalues, relative: below, their eigenvectors are not told apart
FLOOR = 1e-4  # the same, absolute: of clusters and dilute gases all low eigenvalues are next to zero
SILENT = 1e-3  # a moment, relative to its scale, below which its sign says nothing
OUTSIDE = 1e6  # eigenvalue of padding


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What the graph of centred molecules says.

    Args:
        u: u_1 and u_2 with their signs, (B, N, 2); zero at padding.
        unclear: (B, 2) bool, where u_k is not determined: eigenvalues too near, no sign, too few atoms.
    """

    u: Tensor
    unclear: Tensor


@torch.no_grad()
def spectrum(centred: Molecules) -> Spectrum:
    """u_1 and u_2 of every molecule, computed in float64 where the device has it."""
    dtype = centred.positions.dtype
    centred = centred.to("cpu" if centred.device.type == "mps" else centred.device)
    centred = centred.to(torch.float64)
    mask, z = centred.mask, centred.numbers.double()
    both = mask[:, :, None] & mask[:, None]
    eye = torch.eye(mask.shape[1], dtype=torch.float64, device=mask.device)
    w = torch.exp(-0.5 * (centred.distances() / REACH).square()) * both * (1 - eye)
    mean = z.sum(1, keepdim=True) / centred.sizes.clamp(min=1)[:, None]
    diagonal = torch.where(mask, w.sum(1) + ELEMENT_TERM * (z - mean) / 9, OUTSIDE)
    values, vectors = torch.linalg.eigh(torch.diag_embed(diagonal) - w)
    values = torch.nn.functional.pad(values, (0, 4), value=OUTSIDE)  # where there are fewer than four atoms
    u = torch.nn.functional.pad(vectors, (0, 4))[..., 1:3] * mask[..., None]
    gap = values[:, 1:4] - values[:, 0:3]  # below u_1, between u_1 and u_2, above u_2
    close = gap < (GAP * values[:, 1:4].abs()).clamp(min=FLOOR)
    near = close[:, :2] | close[:, 1:] | (values[:, 1:3] >= OUTSIDE)
    near[:, 1] |= near[:, 0]  # u_2 is no clearer than u_1
    sign, silent = _signs(u, z, torch.linalg.vector_norm(centred.positions, dim=-1))
    return Spectrum((u * sign[:, None]).to(dtype), near | silent)


def _signs(u: Tensor, z: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of every u_k, (B, 2), and where none can be told, (B, 2) bool."""
    weight = z[..., None]
    votes = [
        (weight * u**3, weight * u.abs() ** 3),
        (weight * u * radius[..., None], weight * u.abs() * radius[..., None]),
    ]
    votes = [of.sum(1) / scale.sum(1).clamp(min=1e-12) for of, scale in votes]
    plus, minus = ((4 * weight + s * u).sort(1).values for s in (1, -1))
    first = ((plus - minus).abs() > SILENT).double().argmax(1, keepdim=True)
    votes.append((plus - minus).gather(1, first).squeeze(1))
    sign, silent = torch.ones_like(votes[0]), torch.ones_like(votes[0], dtype=torch.bool)
    for vote in reversed(votes):
        told = vote.abs() > SILENT
        sign, silent = torch.where(told, vote.sign(), sign), silent & ~told
    return sign, silent


class SpectralPose(Canonicalizer):
    """h(x) from u_1 and u_2.

    Ambiguous where the spectrum is unclear or v_1 and v_2 are nearly parallel; principal axes are used then.
    """

    @torch.no_grad()  # as for principal axes
    def pose(self, centred: Molecules) -> tuple[Tensor, Tensor]:
        found, x = spectrum(centred), centred.positions
        v = found.u.mT @ x  # (B, 2, 3)
        scale = (found.u.abs().mT @ torch.linalg.vector_norm(x, dim=-1, keepdim=True)).amin((1, 2))
        g, replaced = rotation_from(v[:, 0], v[:, 1], scale, centred)
        ambiguous = found.unclear.any(1) | replaced
        if ambiguous.any():
            g[ambiguous] = Inertial().pose(centred[ambiguous])[0]
        return g, ambiguous
