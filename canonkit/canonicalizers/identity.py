"""No canonicalization of rotations: the control. Molecules are centred and keep their pose; images keep theirs."""

import torch
from torch import Tensor

from canonkit.canonicalizers.base import Canonical, Canonicalizer
from canonkit.molecules import Molecules


class Identity(Canonicalizer):
    """h(x) = 1. Invariant under translations only."""

    def forward(self, x: Molecules | Tensor) -> Canonical:
        if isinstance(x, Tensor):
            g = torch.zeros(len(x), dtype=torch.long, device=x.device)
            return Canonical(x, g, torch.zeros_like(g, dtype=torch.bool))
        return super().forward(x)

    def pose(self, centred: Molecules) -> tuple[Tensor, Tensor]:
        x = centred.positions
        g = torch.eye(3, dtype=x.dtype, device=x.device).expand(len(x), 3, 3)
        return g, torch.zeros(len(x), dtype=torch.bool, device=x.device)
