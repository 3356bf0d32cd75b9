"""Molecules in the pose they have: drawings, densities, the forward process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from canonkit.figures.base import blank
from canonkit.metrics.stability import bond_orders, stability
from canonkit.molecules import Molecules

COLOURS = {"H": "#e6e6e6", "C": "#4d4d4d", "N": "#3b6fd4", "O": "#d9412f", "F": "#57b847"}
RADII = {"H": 0.25, "C": 0.38, "N": 0.37, "O": 0.36, "F": 0.34}  # drawn, in Å: not atomic radii
OTHER = "#b05fc4"


def molecule_grid(
    molecules: Molecules,
    *,
    columns: int = 5,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    mark_unstable: bool = False,
    size: float = 1.7,
) -> Figure:
    """Ball-and-stick drawings in a grid, x to the right, y up, z towards the reader (nearer atoms larger and in front).

    Args:
        molecules: drawn in the pose they have; all at one scale.
        columns: per row.
        captions: one per molecule.
        title: of the figure.
        mark_unstable: ring atoms in red whose valence is wrong by EDM's rule.
        size: of one drawing, in inches.
    """
    molecules = molecules.to("cpu").to(torch.float64).centred()
    count = len(molecules)
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = blank(size * columns, size * rows + (0.3 if title else 0) + (0.2 * rows if captions else 0))
    axes = figure.subplots(rows, columns, squeeze=False)
    reach = max(2.0, float(molecules.positions[..., :2].abs().max()) + 0.6)
    orders = bond_orders(molecules)
    stable = stability(molecules).atoms
    for b, ax in enumerate(axes.flat):
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ax.axis("off")
        if b >= count:
            continue
        n = int(molecules.sizes[b])
        x = molecules.positions[b, :n].numpy()
        symbols = [molecules.elements[k] for k in molecules.types[b, :n].tolist()]
        unstable = ~stable[b, :n].numpy() if mark_unstable else np.zeros(n, dtype=bool)
        _draw(ax, x, symbols, orders[b, :n, :n].numpy(), unstable, size / (2 * reach))
        if captions is not None:
            ax.set_title(captions[b], fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw(ax, x: np.ndarray, symbols: list[str], orders: np.ndarray, unstable: np.ndarray, inches_per_unit: float):
    """One molecule on one axis: bonds first from far to near, then atoms."""
    points = 72 * inches_per_unit  # per Å
    depth = 1 + 0.08 * x[:, 2].clip(-4, 4)  # perspective, mild
    i, j = np.nonzero(np.triu(orders))
    # Double and triple bonds as parallel lines, a little apart across the bond.
    segments, order_z = [], []
    for a, b in zip(i, j, strict=True):
        along = x[b, :2] - x[a, :2]
        across = np.array([-along[1], along[0]]) / max(1e-6, float(np.hypot(*along)))
        for shift in np.linspace(-0.1, 0.1, orders[a, b]) if orders[a, b] > 1 else [0.0]:
            segments.append([x[a, :2] + shift * across, x[b, :2] + shift * across])
            order_z.append(x[[a, b], 2].mean())
    if segments:
        far_first = np.argsort(order_z)
        ax.add_collection(LineCollection([segments[k] for k in far_first], colors="#8a8a8a", linewidths=0.11 * points))
    near_last = np.argsort(x[:, 2])
    radius = np.array([RADII.get(s, 0.4) for s in symbols])[near_last] * depth[near_last]
    ax.scatter(
        *x[near_last, :2].T,
        s=(2 * radius * points) ** 2,
        c=[COLOURS.get(symbols[k], OTHER) for k in near_last],
        edgecolors=["#d00000" if unstable[k] else "#222222" for k in near_last],
        linewidths=[min(1.6, 0.12 * points) if unstable[k] else min(0.5, 0.05 * points) for k in near_last],
        zorder=3,
    )


def pose_density(sets: Mapping[str, Molecules], *, limit: float = 5.0, bins: int = 120) -> Figure:
    """Density of heavy atoms projected on xy and xz, one column per named set of molecules (log scale, shared)."""
    figure = blank(2.6 * len(sets), 5.4)
    axes = figure.subplots(2, len(sets), squeeze=False, sharex=True, sharey=True)
    histograms = {}
    for column, molecules in enumerate(sets.values()):
        m = molecules.to("cpu").centred()
        heavy = m.positions[m.mask & (m.numbers > 1)].numpy()
        for row, axis in enumerate((1, 2)):
            span = [[-limit, limit]] * 2
            histograms[row, column] = np.histogram2d(heavy[:, 0], heavy[:, axis], bins, span)[0] / len(heavy)
    top = max(h.max() for h in histograms.values())
    for (row, column), h in histograms.items():
        ax = axes[row, column]
        shown = np.log10(np.maximum(h.T, top * 1e-3))
        ax.imshow(shown, origin="lower", extent=(-limit, limit, -limit, limit), cmap="magma", vmax=np.log10(top))
        ax.set(xticks=(-4, 0, 4), yticks=(-4, 0, 4))
    for column, name in enumerate(sets):
        axes[0, column].set_title(name, fontsize=10)
        axes[1, column].set_xlabel("x (Å)")
    for row, label in enumerate(("y (Å)", "z (Å)")):
        axes[row, 0].set_ylabel(label)
    return figure


def noising(process, molecule: Molecules, times: Sequence[int] = (0, 100, 250, 500, 1000), *, seed: int = 0) -> Figure:
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
    return molecule_grid(Molecules.cat(shown), columns=len(times), captions=captions, size=2.0)
