"""Time as a vector that networks can use."""

import math

import torch
from torch import Tensor


def time_features(t: Tensor, width: int, scale: float = 1000.0) -> Tensor:
    """sin and cos of scale t at `width` / 2 frequencies from 1 to 1e-4, for t (B,) in [0, 1]."""
    frequencies = torch.exp(-math.log(1e4) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = scale * t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
