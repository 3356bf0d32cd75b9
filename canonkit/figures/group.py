r"""The group itself: poses as points of SO(3) or of C_k, and the quotient space of the plane by C_k.

A rotation by the angle a about the unit axis u is drawn at ((a - sin a) / pi)^(1/3) u. Haar measure has the density
(1 - cos a) / (2 pi) in a and is uniform in u, so it fills this ball of radius 1 evenly; the identity is in the middle,
and half turns lie on the surface, where u and -u are the same rotation.

X/G of the plane by C_k is a cone: the sector 0 <= phi < 2 pi / k with its borders glued. It keeps all lengths as
(r, phi) -> (r / k cos k phi, r / k sin k phi, r sqrt(1 - 1 / k^2)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from canonkit.figures.base import blank
from canonkit.figures.molecules import AXES
from canonkit.figures.plane import COLOURS, RED
from canonkit.groups import angle_and_axis, cosine_between

JUMP = 30.0  # degrees between two neighbours of a path


def in_ball(g: Tensor) -> Tensor:
    """Points (n, 3) of the ball of radius 1 for rotations (n, 3, 3), in which Haar measure is uniform."""
    g = g.detach().cpu().double()
    angle, axis = angle_and_axis(g)
    return ((angle - angle.sin()) / math.pi).clamp(min=0).pow(1 / 3)[:, None] * axis


def rotations(g: Tensor | Mapping[str, Tensor], *, order: int | None = None, path: bool = False) -> Figure:
    """Poses h(x) of many samples as points of their group, one panel per name.

    Rotations (n, 3, 3) are points of a ball in which Haar's measure is uniform; reflections are drawn as crosses at
    the rotation -g. Elements j = 0..k-1 of C_k, (n,) with `order` k, are bars of a wheel.

    Args:
        g: elements, or several sets of them by name.
        order: k of C_k.
        path: the elements follow one another, as of a molecule that changes little by little: a line joins them, and
            a step of more than 30 degrees, where h jumps, is a red dotted one.

    Raises:
        ValueError: neither rotations nor, with `order`, integers.
    """
    sets = g if isinstance(g, Mapping) else {"": g}
    figure = blank(3.0 * len(sets), 3.2)
    for k, (name, elements) in enumerate(sets.items()):
        place = (1, len(sets), k + 1)
        if order is not None and elements.ndim == 1:
            _wheel(figure.add_subplot(*place, projection="polar"), elements, order)
        elif elements.shape[1:] == (3, 3):
            _ball(figure.add_subplot(*place, projection="3d"), elements, path)
        else:
            raise ValueError(
                f"{tuple(elements.shape)} are no rotations (n, 3, 3); elements of C_k, (n,), need an order"
            )
        if name:
            figure.axes[-1].set_title(name, fontsize=9)
    return figure


def _ball(ax, g: Tensor, path: bool) -> None:
    g = g.detach().cpu().double()
    improper = torch.linalg.det(g) < 0
    x = in_ball(torch.where(improper[:, None, None], -g, g))
    for u, v in ((0, 1), (0, 2), (1, 2)):  # three great circles for the surface
        circle = np.zeros((3, 61))
        circle[u], circle[v] = np.cos(t := np.linspace(0, 2 * np.pi, 61)), np.sin(t)
        ax.plot(*circle, color="#bbbbbb", lw=0.8)
    if path:
        for a, b, cosine in zip(x, x[1:], cosine_between(g[:-1], g[1:]).clamp(-1, 1), strict=False):
            jump = math.degrees(math.acos(float(cosine))) > JUMP
            if jump or float((a - b).norm()) < 1:  # through the surface a line would cross the ball
                ax.plot(*torch.stack([a, b]).T.numpy(), color=RED if jump else "#777777", lw=1, ls=":" if jump else "-")
    shade = np.linspace(0, 1, len(x)) if path else None
    for chosen, marker in ((~improper, "o"), (improper, "x")):
        colour = {"c": shade[chosen.numpy()], "cmap": "viridis"} if shade is not None else {"color": COLOURS[0]}
        if chosen.any():
            ax.scatter(*x[chosen].T.numpy(), s=8, marker=marker, alpha=0.6, depthshade=False, **colour)
    for k, (axis, colour) in enumerate(AXES.items()):
        end = 1.25 * np.eye(3)[k]
        ax.plot(*np.stack([0.8 * end, end]).T, color=colour, lw=1.2)
        ax.text(*(1.12 * end), axis, color=colour, fontsize=8, ha="center", va="center")
    ax.set_axis_off()
    ax.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    ax.set_box_aspect((1, 1, 1), zoom=1.3)


def _wheel(ax, elements: Tensor, order: int) -> None:
    counts = torch.bincount(elements.detach().cpu().long(), minlength=order).double()
    angles = 2 * np.pi * np.arange(order) / order
    ax.bar(angles, (counts / counts.sum()).numpy(), width=1.8 * np.pi / order, color=COLOURS[0])
    ax.plot(np.linspace(0, 2 * np.pi, 121), np.full(121, 1 / order), color="black", lw=0.8, ls=":")
    ax.set_xticks(
        angles, [f"{360 * j / order:g}°" if order <= 8 or j % 2 == 0 else "" for j in range(order)], fontsize=7
    )
    ax.set_yticks([])


def quotient(points: Tensor, order: int = 3, start: float = 0.5, fold: float = 1.0) -> Figure:
    """Orbits of points of the plane under C_k, their fold onto a slice, and X/G itself, which is a cone.

    Left, the orbits, one colour each, their points joined by an arc. In the middle, every point is on its way to the
    slice (red), to which it turns back by `fold` h(x). Right, the cone: the slice with its two borders glued together;
    every orbit is one point of it.

    Args:
        points: (n, 2), a few; their orbits are drawn.
        order: k of C_k, two or more.
        start: the angle at which the slice begins, in radians; it is a sector of 2 pi / k.
        fold: 0 leaves the points where they are, at 1 all of them lie in the slice.

    Raises:
        ValueError: k below 2, or `fold` outside 0 to 1.
    """
    if order < 2 or not 0 <= fold <= 1:
        raise ValueError(f"order {order}, fold {fold}: give an order of 2 or more and a fold between 0 and 1")
    width = 2 * math.pi / order
    r = points.norm(dim=-1).double().numpy()
    angle = torch.atan2(points[:, 1], points[:, 0]).double().numpy()
    extent = 1.2 * max(float(r.max()), 1e-3)
    figure = blank(9, 3.2)
    figure.get_layout_engine().set(w_pad=0.02)  # pyright: ignore[reportOptionalMemberAccess]
    left, middle = figure.add_subplot(1, 3, 1), figure.add_subplot(1, 3, 2)
    cone = figure.add_subplot(1, 3, 3, projection="3d")
    for ax, title in (
        (left, "orbits"),
        (middle, "folded onto the slice"),
        (cone, "X/G: a cone, a point for each orbit"),
    ):
        ax.set_title(title, fontsize=10)
    for ax in (left, middle):
        ax.set(xlim=(-extent, extent), ylim=(-extent, extent), xticks=(), yticks=(), aspect="equal")
    edge = np.linspace(start, start + width, 60)
    sector = np.concatenate([[[0, 0]], 2 * extent * np.stack([np.cos(edge), np.sin(edge)], -1), [[0, 0]]])
    middle.fill(*sector.T, color=RED, alpha=0.08)
    middle.plot(*sector.T, color=RED, lw=1)
    for k, (radius, phi) in enumerate(zip(r, angle, strict=True)):
        colour = COLOURS[k % len(COLOURS)]
        all_round = np.linspace(0, 2 * np.pi, 121)
        left.plot(radius * np.cos(all_round), radius * np.sin(all_round), color=colour, lw=0.8, alpha=0.4)
        turns = phi + width * np.arange(order)
        left.plot(radius * np.cos(turns), radius * np.sin(turns), "o", color=colour, markersize=6)
        home = start + (phi - start) % width
        for turn in turns:
            back = (turn - start) % (2 * np.pi) - (home - start)  # h(x), an angle in [0, 2 pi)
            back = back - 2 * np.pi if back > np.pi + 1e-9 else back
            way = turn - np.linspace(0, fold, 40) * back
            middle.plot(radius * np.cos(way), radius * np.sin(way), color=colour, lw=1, alpha=0.5)
            middle.plot(radius * np.cos(way[-1]), radius * np.sin(way[-1]), "o", color=colour, markersize=6)
    _cone(cone, r, angle, order, start, extent, fold)
    return figure


def on_cone(r, phi, order: int) -> tuple:
    """The point of the cone for (r, phi): the same for all points of an orbit, and lengths along it are kept."""
    return r / order * np.cos(order * phi), r / order * np.sin(order * phi), r * math.sqrt(1 - 1 / order**2)


def _cone(ax, r, angle, order, start, extent, fold) -> None:
    grid = np.meshgrid(np.linspace(0, extent, 12), np.linspace(0, 2 * np.pi / order, 40))
    ax.plot_surface(*on_cone(*grid, order), color="#d6dce6", alpha=0.35, linewidth=0, shade=False)
    for radius in r:
        ring = on_cone(radius, np.linspace(0, 2 * np.pi / order, 60), order)
        ax.plot(*ring, color="#999999", lw=0.6)
    ax.plot(*on_cone(np.linspace(0, extent, 2), start, order), color=RED, lw=1.5)  # both borders of the slice
    for k, (radius, phi) in enumerate(zip(r, angle, strict=True)):
        ax.scatter(
            *(np.array([v]) for v in on_cone(radius, phi, order)),
            s=45,
            color=COLOURS[k % len(COLOURS)],
            depthshade=False,
        )
    ax.set_axis_off()
    side = extent / order
    ax.set(xlim=(-side, side), ylim=(-side, side), zlim=(0, extent))
    ax.set_box_aspect((2 * side, 2 * side, extent), zoom=1.25)
    ax.view_init(elev=22, azim=math.degrees(order * start) - 40)
