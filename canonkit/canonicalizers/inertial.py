r"""Principal axes, with signs from third moments.

    S = sum_i m_i x_i x_i^T / sum_i m_i = V diag(s) V^T,   s_1 >= s_2 >= s_3,   m_i atomic numbers,
    sign of v_k:  s.t. sum_i m_i (x_i . v_k)^3 > 0  for the two axes whose moment is largest; det [v1 v2 v3] = +1.

Two signs and the determinant determine the frame, so a planar molecule (whose third moment across the plane is zero)
need not be ambiguous. The long axis becomes x, and a planar molecule lies in the xy plane. Nothing is learned.
"""

import torch
from torch import Tensor

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.canonicalizers.gram_schmidt import TOLERANCE, labelled_vectors, rotation_from
from canonkit.molecules import Molecules


class Inertial(Canonicalizer):
    """h(x) = the principal frame [v1 v2 v3] of x weighted by atomic number.

    Ambiguous where two principal variances agree within 1e-3 of the largest (symmetric tops, linear molecules), or
    where fewer than two third moments exceed 1e-3 of their scale (a twofold axis, an inversion centre).
    """

    @torch.no_grad()  # an eigenbasis has no useful gradient where eigenvalues meet, and there is nothing to learn
    def pose(self, centred: Molecules) -> tuple[Tensor, Tensor]:
        x, m = centred.positions, centred.numbers.to(centred.positions.dtype)[..., None]
        total = m.sum(1).clamp(min=1)
        covariance = (m * x).mT @ x / total[..., None]
        # In float64: an axis is as exact as the gap between eigenvalues allows. eigh is not there on Apple's mps.
        home = covariance.device if covariance.device.type != "mps" else "cpu"
        s, v = torch.linalg.eigh(covariance.to(home).to(torch.float64 if home != "mps" else torch.float32))
        s, v = s.flip(-1).to(x), v.flip(-1).to(x)

        moment = (m * (x @ v) ** 3).sum(1) / total
        scale = (m * (x @ v).abs() ** 3).sum(1) / total
        telling = moment.abs() / scale.clamp(min=torch.finfo(x.dtype).tiny)
        telling = torch.where(scale > TOLERANCE * s[:, :1].clamp(min=0) ** 1.5, telling, 0)
        # Where third moments say nothing the labels do, and the molecule is flagged.
        silent = telling <= TOLERANCE
        v = torch.where(torch.where(silent, _labels(centred, v), moment)[:, None] < 0, -v, v)
        axis = v[..., 0]
        # The axis with the least telling moment takes its sign from the determinant; of silent ones the last.
        weakest = torch.where(silent, -torch.arange(1, 4, device=x.device).to(x), telling).argmin(-1)
        flip = torch.linalg.det(v) < 0
        sign = 1 - 2 * (flip[:, None] * torch.nn.functional.one_hot(weakest, 3)).to(x.dtype)
        v1, v2, v3 = (v * sign[:, None]).unbind(-1)

        # Degenerate axes are no axes: within a degenerate plane the labelled vectors give the direction.
        gap12, gap23 = (s[:, :2] - s[:, 1:] > TOLERANCE * s[:, :1]).unbind(-1)
        ambiguous = ~(gap12 & gap23) | (silent.sum(-1) > 1)

        def in_plane(w: Tensor) -> Tensor:
            return torch.where(gap23[:, None], w - (w * v3).sum(-1, keepdim=True) * v3, 0)

        # Where only v1 is an axis, the other two are any pair across it, whose determinant says nothing of its sign.
        p, q = labelled_vectors(centred)
        a = torch.where(gap12[:, None], torch.where(gap23[:, None], v1, axis), in_plane(p))
        b = torch.where(gap12[:, None], torch.where(gap23[:, None], v2, 0), in_plane(q))
        g, replaced = rotation_from(a, b, torch.ones_like(s[:, 0]), centred)
        return g, ambiguous | replaced


def _labels(centred: Molecules, v: Tensor) -> Tensor:
    """A number (B, 3) for each axis that changes sign with it: of the labelled vectors, else of the first atom off."""
    x = centred.positions
    size = x.square().sum((1, 2)).sqrt()
    candidates = torch.cat([torch.stack(labelled_vectors(centred), 1), x], 1) @ v  # (B, N + 2, 3)
    far = candidates.abs() > (TOLERANCE * size).clamp(min=1e-6)[:, None, None]
    return candidates.gather(1, far.to(torch.uint8).argmax(1, keepdim=True))[:, 0]
