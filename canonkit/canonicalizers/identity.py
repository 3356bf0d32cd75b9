"""No canonicalization of rotations: the control. Molecules are centred and keep the pose they came in."""

import torch
from torch import Tensor

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.molecules import Molecules


class Identity(Canonicalizer):
    """h(x) = 1. Invariant under translations only."""

    def pose(self, centred: Molecules) -> tuple[Tensor, Tensor]:
        x = centred.positions
        g = torch.eye(3, dtype=x.dtype, device=x.device).expand(len(x), 3, 3)
        return g, torch.zeros(len(x), dtype=torch.bool, device=x.device)
