r"""The learned canonicalizer of molecules (Sareen et al. 2024): a multi-channel EGNN gives two vectors, and these make
a frame.

    X_i, h_i = MC-EGNN(x, types),   V_k = (1/n) sum_i sum_c w_ikc X_ic,  k = 1, 2,   h(x) = Gram-Schmidt(V_1, V_2).

The weights of the pool, w_i = Linear(h_i) less their mean over atoms, are invariant, so V_k turn with the molecule. (An
element-wise maximum over atoms, as in the authors' released code, does not.) A new frame has random weights. It is a
canonicalizer already: an ordinary fixed slice. Trained ones come with `ck.load("canon+GDM").model.canonicalizer`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.canonicalizers.gram_schmidt import rotation_from
from canonkit.molecules import ELEMENTS, Molecules
from canonkit.networks.mc_egnn import MCEGNN


class Frame(Canonicalizer):
    """h(x) from a multi-channel EGNN.

    Args:
        width, layers: of the network (published: 64, 9).
        channels: vector channels m.
        elements: the elements that it knows.
        frozen: keep the random weights; no parameter is trained.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 9,
        channels: int = 4,
        elements: Sequence[str] = ELEMENTS,
        frozen: bool = False,
    ):
        super().__init__()
        self.elements = tuple(elements)
        self.egnn = MCEGNN(len(self.elements), width, layers, channels)
        self.weights = nn.Linear(width, 2 * channels, bias=False)
        self.frozen = frozen
        self.requires_grad_(not frozen)

    def pose(self, centred: Molecules) -> tuple[Tensor, Tensor]:
        known = self.weights.weight.dtype
        if centred.positions.dtype != known:
            g, ambiguous = self.pose(centred.to(known))
            return g.to(centred.positions.dtype), ambiguous
        x = centred.positions
        h = torch.nn.functional.one_hot(self._types(centred), len(self.elements)).to(x.dtype)
        h, vectors = self.egnn(h, x, centred.padding)  # (B, N, W), (B, N, 3, C)
        n = centred.sizes.clamp(min=1).to(x.dtype)[:, None, None]
        real = centred.mask[..., None].to(x.dtype)
        raw = self.weights(h) * real
        # Weights equal for all atoms would give the centroid, which is zero.
        w = (raw - raw.sum(1, keepdim=True) / n) * real
        w, raw = w.unflatten(-1, (2, -1)), raw.detach().unflatten(-1, (2, -1))  # (B, N, 2, C)
        pooled = torch.einsum("bikc,bixc->bkx", w, vectors) / n
        # The size the vectors would have if nothing cancelled; where all weights are equal, rounding is all there is.
        length = torch.linalg.vector_norm(vectors.detach(), dim=-2)
        size = torch.maximum(w.detach().abs(), 0.01 * raw.abs())
        scale = torch.einsum("bikc,bic->bk", size, length).amin(-1) / n[:, 0, 0]
        return rotation_from(*pooled.unbind(1), scale, centred)

    def _types(self, x: Molecules) -> Tensor:
        """Every atom's place in this frame's table of elements, (B, N)."""
        if x.elements == self.elements:
            return x.types
        place = torch.tensor([self.elements.index(e) if e in self.elements else -1 for e in x.elements])
        types = place.to(x.types.device)[x.types]
        if bool((types[x.mask] < 0).any()):
            unknown = x.elements[int(x.types[x.mask & (types < 0)][0])]
            raise ValueError(
                f"this frame knows {', '.join(self.elements)}, not {unknown}: make one that does, "
                'ck.canonicalizer("frame", elements=molecules.elements)'
            )
        return types.clamp(min=0)
