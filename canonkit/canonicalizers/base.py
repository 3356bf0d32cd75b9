r"""What a canonicalizer is.

h: X -> G is equivariant, h(g x) = g h(x), so that c(x) = h(x)^-1 x has c(g x) = c(x): one representative per orbit.
Translations come first and the same way: h subtracts the centroid, which removes the group R^3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from canonkit.groups import inverse
from canonkit.molecules import Molecules


@dataclass(frozen=True, eq=False)
class Canonical:
    """A canonicalized batch.

    Args:
        x: c(x) = h(x)^-1 x, same kind as the input; molecules are centred.
        g: h(x): rotations (B, 3, 3) of molecules, indices k (B,) of images, which stand for turns by 360 k / K.
        ambiguous: (B,) bool, True where h(x) is not unique (linear, symmetric, one or two atoms): the pose is then well
            defined all the same, but depends on the order of the atoms.
        order: (B, N) where h(x) orders atoms too: atom r of c(x) is atom order[b, r] of the input. None: as they come.
    """

    x: Molecules | Tensor
    g: Tensor
    ambiguous: Tensor
    order: Tensor | None = None


VERSION = 1  # of the formulas: raise it when a canonical form changes, so that kept ones are made anew
PAIRS = 2**22  # pairs of atoms, padding included, that are looked at together


class Canonicalizer(nn.Module):
    """h and c together: `canonicalizer(x)` is a `Canonical`. Subclasses for molecules define `pose`."""

    def pose(self, centred: Molecules) -> tuple[Tensor, Tensor]:
        """h(x) in SO(3), (B, 3, 3), whose columns are the frame's axes, and ambiguity (B,), of centred molecules."""
        raise NotImplementedError

    def forward(self, x: Molecules) -> Canonical:
        """c(x) of molecules, in float32 where they come in half precision.

        Raises:
            ValueError: naming the molecule, for a NaN, infinite or absurd coordinate.
        """
        if x.positions.dtype in (torch.float16, torch.bfloat16):
            x = x.to(torch.float32)
        if not (x.mask.is_cuda and torch.cuda.is_current_stream_capturing()):  # values cannot be read during a capture
            x.check_finite()
        B, N = x.mask.shape
        return self.together(x) if B * N**2 <= PAIRS else self._in_pieces(x)

    def together(self, x: Molecules) -> Canonical:
        """c(x) of molecules that are few or small enough for tables of all pairs of atoms."""
        centred = x.centred()
        g, ambiguous = self.pose(centred)
        return Canonical(centred.act(inverse(g)), g, ambiguous)

    def _in_pieces(self, x: Molecules) -> Canonical:
        """The same by pieces of molecules of about one size, so that one long molecule costs no more than itself."""
        rows, found, N = torch.argsort(x.sizes, stable=True), [], x.mask.shape[1]
        for piece in _pieces(x.sizes[rows].tolist()):
            found.append(self.together(x[rows[piece]].trim()))
        back = torch.argsort(rows)
        order = None
        if found[0].order is not None:
            rest = torch.arange(N, device=rows.device)
            order = torch.cat([torch.cat([c.order, rest[c.order.shape[1] :].expand(len(c.g), -1)], 1) for c in found])[
                back
            ]
        g, ambiguous = (torch.cat([getattr(c, name) for c in found])[back] for name in ("g", "ambiguous"))
        return Canonical(Molecules.cat([c.x for c in found]).pad(N)[back], g, ambiguous, order)


def _pieces(sizes: list[int]) -> list[slice]:
    """Slices of rising sizes, each of at most PAIRS pairs or of one molecule."""
    cuts = [0]
    for k, n in enumerate(sizes):
        if k > cuts[-1] and (k + 1 - cuts[-1]) * n**2 > PAIRS:
            cuts.append(k)
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(sizes)], strict=True)]
