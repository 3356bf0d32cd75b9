"""Particles in a periodic box."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from canonkit.figures.base import blank


def periodic_boxes(sets: Mapping[str, Tensor], side: float, *, columns: int = 6, size: float = 1.15) -> Figure:
    """Configurations of particles in the periodic box [0, side)^2: one row per named set, the last panel all together.

    Args:
        sets: points (B, N, 2) by name; they are drawn in the box they belong to.
        side: of the box.
        columns: configurations drawn of each set.
        size: of one panel, in inches.
    """
    figure = blank(1.5 + size * (columns + 1), size * len(sets) + 0.3)
    panels = figure.subplots(len(sets), columns + 1, squeeze=False)
    edges = np.linspace(0, side, 49)
    for row, (name, points) in zip(panels, sets.items(), strict=True):
        points = (points.detach().cpu().double() % side).numpy()
        for ax in row:
            ax.set(xlim=(0, side), ylim=(0, side), xticks=(), yticks=(), aspect="equal")
        for ax, one in zip(row, points[:columns], strict=False):
            ax.scatter(*one.T, s=9 * size, color="#2c5fa8")
        row[-1].hist2d(*points.reshape(-1, 2).T, bins=edges, cmap="magma")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        row[-1].set_title(f"all {len(points):,}", fontsize=8)
    return figure
