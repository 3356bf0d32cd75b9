"""How near to a canonical pose molecules are, and molecules as points on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from canonkit.canonicalizers.base import Canonical
from canonkit.certificates.certificate import JUMP
from canonkit.figures.base import Picture, blank
from canonkit.metrics.poses import PLANAR, pose_changes, pose_values, rank_spread, sliced_wasserstein
from canonkit.molecules import Molecules
from canonkit.names import choose

FEW = 20  # molecules that make no histogram


def pose_profile(sets: Mapping[str, Molecules], reference: str | None = None, planar: float = PLANAR) -> Figure:
    """Four figures of pose: z of planar molecules, direction of the long axis, spread by atom rank, distance of clouds.

    Args:
        sets: molecules by name, in the poses they have.
        reference: the set from which the sliced Wasserstein distance is taken; by default the first.
        planar: a molecule counts as planar if its rms along the thinnest principal axis is below this, in Å.
    """
    names = list(sets)
    reference = names[0] if reference is None else reference
    if reference not in sets:
        raise ValueError(f"no set is called {reference!r}: {choose(reference, names)}")
    figure = blank(11, 5.4)
    flat, long, rank, far = figure.subplots(2, 2).flat
    bins = np.logspace(-3, 0.5, 36)
    for k, (name, molecules) in enumerate(sets.items()):
        values, colour = pose_values(molecules.to("cpu"), planar), f"C{k}"
        z = values.rms_z[values.planar].clamp(min=bins[0]).numpy()
        label = f"{name} ({len(z)} planar)"
        if len(z) < FEW:  # a histogram of a few would be noise: each of them is a mark
            flat.plot(z, np.full(len(z), 0.01 + 0.02 * k), "|", ms=12, color=colour, label=label)
        else:
            flat.hist(z, bins, weights=np.full(len(z), 1 / len(z)), histtype="step", color=colour, label=label)
        cosines = values.long_axis.numpy()
        shares = np.full(len(cosines), 1 / len(cosines))
        long.hist(cosines, np.linspace(0, 1, 31), weights=shares, histtype="step", color=colour, label=name)
        spread = rank_spread(molecules.to("cpu"))
        rank.plot(np.arange(len(spread)), spread.numpy(), color=colour, linewidth=1.2, label=name)
        distance = sliced_wasserstein(molecules, sets[reference])
        far.barh(len(sets) - k, distance, color=colour)
        far.text(distance, len(sets) - k, f" {distance:.3f}", va="center", fontsize=8)
    flat.set(xscale="log", xlabel="rms of z (Å)", title="planar molecules: how far out of the xy plane")
    long.axhline(1 / 30, color="black", linewidth=0.8, linestyle=":")
    long.set(xlabel="|cos(long axis, x)|", title="direction of the long axis (dotted: any)")
    rank.set(xlabel="rank of the atom", ylabel="Å", title="spread of the r-th atom's position", ylim=(0, None))
    far.set_yticks([len(sets) - k for k in range(len(sets))], names, fontsize=9)
    far.set(xlabel="sliced Wasserstein distance of heavy atoms (Å)", title=f"distance from: {reference}")
    far.set_xlim(0, 1.2 * far.get_xlim()[1])
    flat.set_ylim(0, (1 + 0.11 * -(-len(sets) // 2)) * flat.get_ylim()[1])  # room for the legend
    flat.legend(fontsize=7, loc="upper center", ncols=2)
    for ax in (flat, long):
        ax.set_ylabel("share")
    for ax in (flat, long, rank, far):
        ax.title.set_fontsize(10)
    return figure


def comparison(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Canonicalizers side by side: bars of what `canonkit.comparison.compare` measured; errors on a log scale."""
    panels = {
        "max_error": "turned: error (Å)",
        "order_error": "reordered: error (Å)",
        "ambiguous_share": "ambiguous (%)",
        "jump_share": "jump (%)",
        "spread": "spread of positions (Å)",
        "seconds": "ms per molecule",
    }
    figure = blank(11, 0.9 + 0.35 * len(rows))
    scales = {"ambiguous_share": 100, "jump_share": 100, "seconds": 1000}
    names = [row["canonicalizer"] for row in rows]
    colours = ["C0" if row["passed"] else "C3" for row in rows]
    for ax, (key, title) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        values = np.array([row[key] * scales.get(key, 1) for row in rows])
        errors = key.endswith("error")
        left = 1e-16 if errors else 0.0
        ax.barh(range(len(rows)), values.clip(min=left) - left, left=left, color=colours)
        for k, value in enumerate(values):
            ax.text(
                0.98,
                k,
                f"{value:.0e}" if errors else f"{value:.2g}",
                transform=ax.get_yaxis_transform(),
                fontsize=7,
                ha="right",
                va="center",
            )
        if errors:
            ax.set(xscale="log", xlim=(left, 1e9))
        else:
            ax.set_xlim(0, 1.5 * max(values.max(), 1e-9))
        ax.set_title(title, fontsize=9)
        ax.tick_params(labelsize=8)
    ax.set_yticks(range(len(rows)), names)
    ax.invert_yaxis()
    return figure


def property_map(properties: Mapping[str, Tensor], x: str, y: str, colour: str) -> Picture:
    """Molecules as points: two properties are the axes, a third is the colour (grey if it is not known)."""
    figure = blank(5.4, 4)
    ax = figure.add_subplot()
    across, up, shade = (torch.as_tensor(properties[name]).double().cpu() for name in (x, y, colour))
    ax.scatter(across[shade.isnan()], up[shade.isnan()], s=14, color="#bbbbbb")
    known = ~shade.isnan()
    points = ax.scatter(across[known], up[known], s=14, c=shade[known], cmap="viridis")
    figure.colorbar(points, ax=ax, label=colour)
    ax.set(xlabel=x, ylabel=y)
    return figure


def pose_jumps(steps: Sequence[float], poses: Mapping[str, Canonical], label: str) -> Picture:
    """Where pose and order jump while a molecule changes little by little.

    Above, the angle of h(x_k)^-1 h(x_k+1) in degrees; below, how many atoms have another place in the canonical order
    of x_k+1 than in that of x_k, of canonicalizers that order atoms. Crosses: the pose is marked as ambiguous.

    Args:
        steps: what is changed, one value for each x_k.
        poses: c(x) of all x_k by the name of the canonicalizer.
        label: of `steps`.
    """
    figure = blank(9, 4)
    turn, places = figure.subplots(2, 1, sharex=True)
    middle = (np.asarray(steps)[1:] + np.asarray(steps)[:-1]) / 2
    for k, (name, c) in enumerate(poses.items()):
        angle, moved = pose_changes(c)
        turn.plot(middle, angle.clamp(min=0.01), color=f"C{k}", linewidth=1, label=name)
        odd = c.ambiguous[1:] | c.ambiguous[:-1]
        turn.plot(middle[odd.numpy()], angle[odd].clamp(min=0.01), "x", color=f"C{k}")
        if c.order is not None:
            places.plot(middle, moved, color=f"C{k}", linewidth=1, label=name)
    turn.axhline(JUMP, color="black", linewidth=0.8, linestyle=":")
    turn.set(yscale="log", ylabel="the pose turns by (°)")
    places.set(ylabel="atoms in another place", xlabel=label, ylim=(0, None))
    for ax in (turn, places):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
