"""Random symmetries: vector fields in the plane, and how rotations are spread over their group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from canonkit.figures.base import blank
from canonkit.groups import cosine_between


def vector_fields(
    fields: Mapping[str, Callable[[Tensor], Tensor]], *, extent: float = 2.0, points: int = 15, columns: int = 4
) -> Figure:
    """Maps of the plane to itself, (M, 2) -> (M, 2), as arrows on a grid within a disk; one panel each, one scale."""
    side = torch.linspace(-extent, extent, points)
    z = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
    z = z[z.norm(dim=-1) <= extent]
    arrows = {name: torch.as_tensor(field(z)) for name, field in fields.items()}
    scale = 12 * max(float(a.norm(dim=-1).quantile(0.9)) for a in arrows.values())
    rows = -(-len(fields) // columns)
    figure = blank(2.5 * min(columns, len(fields)), 2.7 * rows)
    panels = figure.subplots(rows, min(columns, len(fields)), squeeze=False).flatten()
    for ax in panels:
        ax.set_axis_off()
    for ax, (name, a) in zip(panels, arrows.items(), strict=False):
        ax.quiver(*z.T.numpy(), *a.T.numpy(), a.norm(dim=-1).numpy(), scale=scale, width=0.006, cmap="viridis")
        ax.set_title(name, fontsize=9)
        ax.set_aspect("equal")
    return figure


def rotation_law(samples: Mapping[str, Tensor]) -> Figure:
    """How elements of O(3), (n, 3, 3) by name, are spread: where they send x and z, and the angles between pairs.

    Directions are drawn in an equal-area map: uniform ones fill it evenly. Angles between independent Haar elements
    have the density (1 - cos a) / pi, dotted.
    """
    figure = blank(2.9 * len(samples), 4.6)
    panels = figure.subplots(2, len(samples), squeeze=False)
    fine = np.linspace(0, np.pi, 91)
    for (top, bottom), (name, g) in zip(panels.T, samples.items(), strict=True):
        g = g.detach().cpu().double()
        for axis, column, colour in (("x", 0, "#c0392b"), ("z", 2, "#2c5fa8")):
            v = g[:, :, column]
            longitude = torch.rad2deg(torch.atan2(v[:, 1], v[:, 0]))
            top.scatter(longitude, v[:, 2], s=2, color=colour, alpha=0.5, label=f"g {axis}", rasterized=True)
        top.set(xlim=(-180, 180), ylim=(-1, 1), xticks=(-180, 0, 180), yticks=(-1, 0, 1), xlabel="longitude (°)")
        size = float(g.mean(0).norm() / math.sqrt(3))
        top.set_title(f"{name}\n|mean g| = {size:.2f}", fontsize=9)
        half = len(g) // 2
        one, other = g[:half], g[half : 2 * half]
        alike = torch.linalg.det(one) * torch.linalg.det(other) > 0
        cosine = cosine_between(one[alike], other[alike]).clamp(-1, 1)
        bottom.hist(torch.rad2deg(cosine.acos()).numpy(), np.linspace(0, 180, 25), density=True, color="#8fa8c8")
        bottom.plot(np.rad2deg(fine), (1 - np.cos(fine)) / 180, color="black", linestyle=":")
        bottom.set(xlim=(0, 180), xticks=(0, 90, 180), yticks=(), xlabel="angle between two (°)")
    panels[0, 0].set_ylabel("height")
    panels[0, 0].legend(fontsize=7, markerscale=3, loc="lower left")
    return figure
