r"""A rotation from two vectors, with a fallback where they do not determine one.

    v1 = a / |a|,   v2 = (b - (b.v1) v1) / |...|,   v3 = v1 x v2,   h = [v1 v2 v3] (columns), det h = +1.

If a and b turn with the molecule, so does h: h(g x) = g h(x) for g in SO(3). A mirror image keeps a and b mirrored but
not v3 = v1 x v2, so it lands in the pose that is flipped along z: enantiomers stay apart.
"""

import torch
from torch import Tensor

from canonkit.groups import gram_schmidt
from canonkit.molecules import Molecules

TOLERANCE = 1e-3  # a vector shorter than this times its natural scale has no reliable direction


def labelled_vectors(centred: Molecules) -> tuple[Tensor, Tensor]:
    """Two vectors (B, 3) that turn with the molecule and tell all its atoms apart: sums of x_i weighted by place i.

    They exist for symmetric molecules too, but they depend on the order of the atoms.
    """
    x = centred.positions
    i = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)[:, None]
    # Irrational multiples of i modulo 1: weights that are distinct, and not equally spaced, for any number of atoms.
    p, q = ((i * 0.6180339887498949) % 1 - 0.5) * x, ((i * 0.7548776662466927) % 1 - 0.5) * x
    return p.sum(1), q.sum(1)


def rotation_from(a: Tensor, b: Tensor, scale: Tensor, centred: Molecules) -> tuple[Tensor, Tensor]:
    """h(x) from equivariant vectors a and b, and where they had to be replaced.

    Where |a|, or the part of b across a, is below `TOLERANCE` x scale, labelled vectors of the molecule stand in, and
    where those vanish its atoms, the first that does not; where none is left (a line, a point) any rotation about the
    line is as good, and coordinate axes do.

    Args:
        a, b: equivariant vectors, (B, 3).
        scale: the size that a and b would have if nothing cancelled, (B,).
        centred: the molecules, centred.

    Returns:
        h(x) (B, 3, 3) and `ambiguous` (B,) bool. Gradients pass through a and b where they were good, and are finite.
    """
    p, q = labelled_vectors(centred)
    eye = torch.eye(3, dtype=a.dtype, device=a.device)
    size = centred.positions.detach().square().sum((1, 2)).sqrt()

    def usable(v: Tensor, scale: Tensor) -> Tensor:
        return torch.linalg.vector_norm(v.detach(), dim=-1) > (TOLERANCE * scale).clamp(min=1e-6)

    def first_atom(x: Tensor) -> tuple[Tensor, Tensor]:
        far = torch.linalg.vector_norm(x, dim=-1) > (TOLERANCE * size).clamp(min=1e-6)[:, None]
        which = far.to(torch.uint8).argmax(1)
        return far.any(1), x.gather(1, which[:, None, None].expand(-1, 1, 3))[:, 0]

    def choose(*candidates: tuple[Tensor, Tensor], default: Tensor) -> Tensor:
        chosen = default
        for good, v in reversed(candidates):
            chosen = torch.where(good[:, None], v, chosen)
        return chosen

    a_good = usable(a, scale)
    atoms = centred.positions.detach()
    a = choose((a_good, a), (usable(p, size), p), (usable(q, size), q), first_atom(atoms), default=eye[0].expand_as(a))
    v1 = torch.nn.functional.normalize(a, dim=-1).detach()

    def across(v: Tensor) -> Tensor:
        return v - (v * v1).sum(-1, keepdim=True) * v1

    b_good = usable(across(b), scale)
    least = eye[v1.abs().argmin(-1)]  # the coordinate axis most nearly across v1
    atom = first_atom(atoms - (atoms * v1[:, None]).sum(-1, keepdim=True) * v1[:, None])
    b = choose((b_good, b), (usable(across(p), size), p), (usable(across(q), size), q), atom, default=least)
    return gram_schmidt(a, b), ~(a_good & b_good)
