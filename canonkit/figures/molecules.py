"""Molecules in the pose they have: drawings, densities, the forward process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from torch import Tensor

from canonkit.chemistry.valencies import VALENCE, bond_orders
from canonkit.figures.base import Picture, blank
from canonkit.metrics.valency import wrong_atoms
from canonkit.molecules import Molecules

COLOURS = {"H": "#e6e6e6", "C": "#4d4d4d", "N": "#3b6fd4", "O": "#d9412f", "F": "#57b847"}
COLOURS |= {"S": "#d8b400", "P": "#e08a1e", "Cl": "#2e9e83", "Br": "#8c3b2a"}
RADII = {"H": 0.25, "C": 0.38, "N": 0.37, "O": 0.36, "F": 0.34}  # drawn, in Å: not atomic radii
OTHER, OTHER_RADIUS = "#b05fc4", 0.4
AXES = {"x": "#d55e00", "y": "#009e73", "z": "#0072b2"}  # told apart by colour-blind readers too (Okabe and Ito)
UNSTABLE = "#d00000"
CIRCLE = np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 20, endpoint=False)), np.sin(a)], -1)
FOG = 0.5  # share of the background in the colour of the farthest atom


def seen_bonds(molecules: Molecules) -> Tensor:
    """Bond orders to draw, (B, N, N): those the molecules bring, else EDM's rule, else 1 within 1.25 covalent radii."""
    if molecules.bonds is not None:
        return torch.where(molecules.bonds == 4, 1, molecules.bonds)
    if set(molecules.elements) <= set(VALENCE):
        return bond_orders(molecules)
    from rdkit.Chem import GetPeriodicTable

    radius = torch.tensor([GetPeriodicTable().GetRcovalent(e) for e in molecules.elements])[molecules.types]
    near = molecules.distances() < 1.25 * (radius[:, :, None] + radius[:, None])
    real = molecules.mask[:, :, None] & molecules.mask[:, None, :]
    return (near & real & ~torch.eye(near.shape[1], dtype=torch.bool)).long()


def usual_reach(molecules: Molecules) -> float:
    """How far molecules reach from their middle in x and y, in Å, atoms that lie far outside left out."""
    far = molecules.positions[..., :2].abs().amax(-1)[molecules.mask]
    return max(2.0, min(float(far.max()), 1.6 * float(far.quantile(0.9))) + 0.6)


def draw(
    molecules: Molecules,
    *,
    columns: int = 5,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    mark_unstable: bool = False,
    axes: bool = False,
    overlay: bool | int = False,
    numbers: bool = False,
    size: float = 1.7,
    reach: float | None = None,
) -> Picture:
    """Ball-and-stick drawings, x to the right, y up, z towards the reader: near atoms are larger, far ones are paler.

    White ground, so that it reads in light and dark; vector output by `figure.savefig("molecules.pdf")`.

    Args:
        molecules: drawn in the pose they have, centred; all at one scale.
        columns: per row.
        captions: one per drawing, written as they are.
        title: of the figure.
        mark_unstable: draw a red ring around atoms with a wrong valence, by EDM's rule; with other elements than its
            by their own bonds.
        axes: draw the axes of the frame: x red, y green, z blue (as a dot, because it points to the reader).
        overlay: draw all molecules over each other, transparent; of a number, as many of them in each drawing.
        numbers: write its number on each atom, from 1.
        size: of one drawing, in inches.
        reach: from the middle of a drawing to its edge, in Å; by default enough for all atoms but strays. What lies
            beyond is drawn at the edge.

    Raises:
        ValueError: no molecules.
    """
    if not len(molecules):
        raise ValueError("no molecules to draw")
    molecules = molecules.to("cpu").to(torch.float64).centred()
    each = len(molecules) if overlay is True else int(overlay) or 1  # molecules in one drawing
    count = -(-len(molecules) // each)
    columns = min(columns, count)
    rows = -(-count // columns)
    size = 2.2 * size if overlay is True else size
    line = 0.2 if captions and overlay is not True else 0
    figure = blank(size * columns, (size + line) * rows + (0.3 if title else 0))
    ax = figure.add_subplot()
    reach = usual_reach(molecules) if reach is None else reach
    step = np.array([2 * reach, -2 * reach * (1 + line / size)])
    ax.set(xlim=(-reach, -reach + columns * step[0]), ylim=(reach + rows * step[1], reach), aspect="equal")
    ax.axis("off")
    points = 72 * size / (2 * reach)  # per Å
    orders = seen_bonds(molecules).numpy()
    unstable = wrong_atoms(molecules).numpy() if mark_unstable else np.zeros(molecules.mask.shape, dtype=bool)
    shapes = []
    for b in range(len(molecules)):
        n = int(molecules.sizes[b])
        place = np.array([b // each % columns, b // each // columns]) * step
        first = b % each == 0
        symbols = [molecules.elements[k] for k in molecules.types[b, :n].tolist()]
        x = molecules.positions[b, :n].clone()
        x[:, :2] = x[:, :2].clamp(0.6 - reach, reach - 0.6)
        x = x.numpy()
        shapes += _shapes(x, symbols, orders[b, :n, :n], unstable[b, :n], place, reach)
        for k in range(n if numbers else 0):
            ink = "black" if symbols[k] == "H" else "white"
            ax.text(*(place + x[k, :2]), k + 1, fontsize=5, ha="center", va="center_baseline", zorder=3, color=ink)
        if axes and first:
            _draw_axes(ax, place, reach, points)
        if captions and line and first:
            ax.text(*(place + [0, -reach]), captions[b // each], ha="center", va="top", fontsize=8, parse_math=False)
    shapes.sort(key=lambda shape: shape[0])  # far ones first
    _, polygons, faces, edges, widths = zip(*shapes, strict=True)
    alpha = min(1.0, 0.25 + 2 / each) if overlay else 1.0
    ax.add_collection(
        PolyCollection(
            polygons, facecolors=faces, edgecolors=edges, linewidths=[w * points for w in widths], alpha=alpha, zorder=2
        )
    )
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _shapes(x, symbols, orders, unstable, place, reach) -> list[tuple]:
    """Polygons of one molecule as (depth, corners, face, edge, line width in Å): discs, and a bar per half bond."""
    height = x[:, 2].clip(-reach, reach) / reach
    larger = 1 + 0.15 * height
    ground = np.ones(3)
    mist = FOG * np.maximum(0, -height)[:, None]
    colour = np.array([to_rgb(COLOURS.get(s, OTHER)) for s in symbols]) * (1 - mist) + ground * mist
    edge = np.array([to_rgb(UNSTABLE if bad else "#222222") for bad in unstable]) * (1 - mist) + ground * mist
    radius = np.array([RADII.get(s, OTHER_RADIUS) for s in symbols]) * larger
    found = [
        (x[i, 2], place + x[i, :2] + radius[i] * CIRCLE, colour[i], to_rgb("#222222"), 0.035) for i in range(len(x))
    ]
    for i in np.flatnonzero(unstable):  # a ring apart from the atom, so that it is seen on a red one too
        found.append((x[i, 2] - 0.005, place + x[i, :2] + (radius[i] + 0.16) * CIRCLE, ground, edge[i], 0.11))
    for i, j in zip(*np.nonzero(orders), strict=True):  # both ways: a bar from each atom to the middle
        middle = (x[i] + x[j]) / 2
        along = middle[:2] - x[i, :2]
        across = np.array([-along[1], along[0]]) / max(1e-6, float(np.hypot(*along)))
        width = {1: 0.09, 2: 0.055, 3: 0.045}[int(orders[i, j])] * larger[i]
        for shift in {1: (0,), 2: (-0.1, 0.1), 3: (-0.14, 0, 0.14)}[int(orders[i, j])]:
            ends = [x[i, :2] + shift * across, middle[:2] + shift * across]
            corners = [ends[0] - width * across, ends[0] + width * across, ends[1] + width * across]
            corners = place + np.array([*corners, ends[1] - width * across])
            face = 0.75 * colour[i] + 0.25 * 0.5
            found.append(((x[i, 2] + middle[2]) / 2 - 0.01, corners, face, face, 0.0))
    return found


def _draw_axes(ax, place, reach, points) -> None:
    corner = place + [-0.82 * reach, -0.82 * reach]
    length = 0.35 * reach
    ends = {"x": corner + [length, 0], "y": corner + [0, length]}
    for name, end in ends.items():
        ax.add_collection(LineCollection([[corner, end]], colors=AXES[name], linewidths=0.08 * points, zorder=1))
        ax.text(*(corner + 1.25 * (end - corner)), name, color=AXES[name], fontsize=7, ha="center", va="center")
    ax.plot(*corner, marker="o", markersize=0.22 * points, color=AXES["z"], zorder=1)
    ax.text(*(corner - 0.3 * length), "z", color=AXES["z"], fontsize=7, ha="center", va="center")


def pose_density(sets: Mapping[str, Molecules], *, limit: float = 5.0, bins: int = 120) -> Picture:
    """Density of heavy atoms projected on xy, xz and yz, one column per named set of molecules (log scale, shared)."""
    planes = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}
    figure = blank(2.6 * len(sets), 2.55 * len(planes))
    axes = figure.subplots(len(planes), len(sets), squeeze=False, sharex=True, sharey=True)
    histograms = {}
    for column, molecules in enumerate(sets.values()):
        m = molecules.to("cpu").centred()
        heavy = m.positions[m.mask & (m.numbers > 1)].numpy()
        for row, (i, j) in enumerate(planes.values()):
            span = [[-limit, limit]] * 2
            histograms[row, column] = np.histogram2d(heavy[:, i], heavy[:, j], bins, span)[0] / max(1, len(heavy))
    top = max(max(h.max() for h in histograms.values()), 1e-9)
    for (row, column), h in histograms.items():
        ax: Any = axes[row, column]
        shown = np.log10(np.maximum(h.T, top * 1e-3))
        ax.imshow(shown, origin="lower", extent=(-limit, limit, -limit, limit), cmap="magma", vmax=np.log10(top))
        ax.set(xticks=(-4, 0, 4), yticks=(-4, 0, 4))
    for column, name in enumerate(sets):
        axes[0, column].set_title(name, fontsize=10)
    for row, (i, j) in enumerate(planes):
        axes[row, 0].set_ylabel(f"{j} (Å)")
        for ax in axes[row]:
            ax.text(0.97, 0.04, f"{i} →", transform=ax.transAxes, color="white", fontsize=8, ha="right")
    return figure


def noising(process, molecule: Molecules, times: Sequence[int] = (0, 100, 250, 500, 1000), *, seed: int = 0) -> Picture:
    """One molecule at several times of the forward process, z_t = alpha_t x + sigma_t eps with one eps for all."""
    generator = torch.Generator().manual_seed(seed)
    z, mask = process.space.encode(molecule[0:1].to("cpu"))
    eps = process.space.noise(z, mask, generator)
    shown = []
    for t in times:
        alpha2 = torch.sigmoid(-process.gamma[t]).to(z)
        z_t = alpha2.sqrt() * z + (1 - alpha2).sqrt() * eps
        shown.append(process.space.decode(z_t, mask))
    captions = [f"t = {t}" for t in times]
    return draw(Molecules.cat(shown), columns=len(times), captions=captions, size=2.0)
