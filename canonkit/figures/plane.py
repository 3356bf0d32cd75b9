"""Data in the plane: points, densities with their scores, maps of a slice's jumps, errors against samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from canonkit.figures.base import blank

RED = "#c0392b"
COLOURS = ("#2c5fa8", "#e08214", "#1b7f3b", "#8e44ad", RED, "#555555")


def grid(extent: float = 2.6, points: int = 81) -> Tensor:
    """Places (points, points, 2) of a square from -extent to extent; rows go up."""
    side = torch.linspace(-extent, extent, points)
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)


def clouds(
    sets: Mapping[str, Tensor | Sequence[Tensor]],
    *,
    extent: float = 2.6,
    columns: int = 5,
    size: float = 2.3,
    regions: Mapping[str, Tensor] | None = None,
    joined: bool = False,
) -> Figure:
    """Points of the plane, one panel per name: (n, 2), or several such sets in different colours.

    Args:
        sets: what to draw.
        extent: the panels reach from -extent to extent.
        columns: panels per row.
        size: of a panel, inches.
        regions: parts of the plane to shade, bool on `grid(extent, n)`, by the name of their panel.
        joined: draw every set as a closed outline with its first point marked, for triangles.
    """
    figure, panels = _panels(list(sets), extent, columns, size)
    for ax, (name, found) in zip(panels, sets.items(), strict=True):
        if regions and name in regions:
            _outline(ax, regions[name], extent)
        for colour, x in zip(COLOURS, [found] if isinstance(found, Tensor) else found, strict=False):
            x = x.detach().cpu()
            if joined:
                ax.plot(*torch.cat([x, x[:1]]).T, color=colour, lw=1.5, marker="o", markersize=3, alpha=0.8)
                ax.plot(*x[0], "o", color=colour, markersize=8, alpha=0.8)
            else:
                few = len(x) < 50
                ax.scatter(*x.T, s=28 if few else 3, color=colour, alpha=1 if few else 0.35, lw=0, rasterized=True)
    return figure


def densities(
    maps: Mapping[str, Tensor],
    *,
    extent: float = 2.6,
    columns: int = 4,
    size: float = 2.6,
    scores: bool | Sequence[str] = True,
    regions: Mapping[str, Tensor] | None = None,
) -> Figure:
    """Densities (n, n) on `grid(extent, n)` and their scores, grad log p, as arrows.

    Args:
        maps: what to draw; each panel has its own scale.
        extent, columns, size: as for `clouds`.
        scores: arrows in all panels, in none, or in those named.
        regions: parts to outline, bool (n, n), by panel.
    """
    figure, panels = _panels(list(maps), extent, columns, size)
    for ax, (name, p) in zip(panels, maps.items(), strict=True):
        p = np.asarray(p, dtype=float)
        square = (-extent, extent, -extent, extent)
        ax.imshow(p, origin="lower", extent=square, cmap="Blues", vmax=1.3 * p.max(), interpolation="bilinear")
        if scores is True or (scores and name in scores):
            n, side = len(p), np.linspace(-extent, extent, len(p))
            up, right = np.gradient(np.log(p + 1e-4 * p.max()), side, side)
            every = slice(n // 32, None, max(1, n // 16))
            x, y = np.meshgrid(side[every], side[every])
            length = np.hypot(right, up) + 1e-9
            shown = np.tanh(length / 6) / length  # long arrows are shortened, so that short ones can be seen
            arrows = [(a * shown)[every, every] for a in (right, up)]
            seen = p[every, every] > 0.004 * p.max()
            ax.quiver(x[seen], y[seen], *(a[seen] for a in arrows), color="#333333", scale=14, width=0.007)
        if regions and name in regions:
            _outline(ax, regions[name], extent)
    return figure


def shape_maps(values: Mapping[str, Tensor], *, label: str, vmax: float | None = None, columns: int = 3) -> Figure:
    """Values (heights, longitudes) on a sphere, in an equal-area map: longitude across, height up; one scale."""
    rows = -(-len(values) // columns)
    figure = blank(3.1 * min(columns, len(values)) + 0.6, 1.75 * rows + 0.2)
    panels = figure.subplots(rows, min(columns, len(values)), squeeze=False, sharey=True).flatten()
    top = max(float(v.max()) for v in values.values()) if vmax is None else vmax
    for ax, (name, v) in zip(panels, values.items(), strict=False):
        drawn = ax.imshow(v, origin="lower", extent=(-180, 180, -1, 1), aspect="auto", cmap="magma", vmin=0, vmax=top)
        ax.set(xticks=(-180, 0, 180), yticks=(-1, 0, 1))
        ax.set_title(name, fontsize=9)
    for ax in panels[len(values) :]:
        ax.set_axis_off()
    figure.supxlabel("longitude (°)", fontsize=9)
    panels[0].set_ylabel("height", fontsize=9)
    figure.colorbar(drawn, ax=panels.tolist(), label=label, pad=0.01)
    return figure


def error_curves(
    errors: Mapping[str, Mapping[int, float]], *, xlabel: str, ylabel: str, level: float | None = None
) -> Figure:
    """Errors against counts, by name, both axes logarithmic; a level to reach, dotted."""
    figure = blank(6.4, 3.0)
    ax = figure.subplots()
    for k, (name, curve) in enumerate(errors.items()):
        ax.plot(list(curve), list(curve.values()), marker="o", markersize=4, color=COLOURS[k % 6], label=name)
    if level is not None:
        ax.axhline(level, color="black", lw=0.8, linestyle=":")
    counts = sorted({n for curve in errors.values() for n in curve})
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(counts, [f"{n:,}" for n in counts])
    low, high = ax.get_ylim()
    ticks = [v for v in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1) if low <= v <= high]
    ax.set_yticks(ticks, [str(v) for v in ticks])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _panels(names: list[str], extent: float, columns: int, size: float):
    rows = -(-len(names) // columns)
    lines = max(name.count("\n") for name in names) + 1
    figure = blank(size * min(columns, len(names)), (size + 0.18 * lines) * rows)
    panels = figure.subplots(rows, min(columns, len(names)), squeeze=False).flatten()
    for ax in panels[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(panels, names, strict=False):
        ax.set(xlim=(-extent, extent), ylim=(-extent, extent), xticks=(), yticks=(), aspect="equal")
        ax.set_title(name, fontsize=9)
    return figure, panels[: len(names)]


def _outline(ax, region: Tensor, extent: float) -> None:
    side = np.linspace(-extent, extent, len(region))
    ax.contourf(side, side, np.asarray(region, dtype=float), levels=(0.5, 1.5), colors=[RED], alpha=0.08)
    ax.contour(side, side, region, levels=(0.5,), colors=[RED], linewidths=1)


__all__ = ["clouds", "densities", "error_curves", "grid", "shape_maps"]
