"""The idea in one picture: an orbit, a slice, a canonical pose, and three ways to treat a symmetry."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from canonkit.figures.base import Picture, blank
from canonkit.figures.plane import COLOURS, RED

BLUE, ORANGE = COLOURS[:2]
GREY = "#777777"
SHAPES = {  # two small molecules in the plane: atoms in canonical pose, the first one marked
    BLUE: np.array([[0.55, 0.0], [0.0, 0.0], [-0.45, 0.3], [-0.45, -0.25]]),
    ORANGE: np.array([[0.55, 0.0], [0.05, 0.0], [-0.2, 0.4]]),
}
BONDS = {BLUE: ((0, 1), (1, 2), (1, 3)), ORANGE: ((0, 1), (1, 2))}


def idea() -> Picture:
    """Orbits, a slice and a canonical pose in the upper row; below, the three ways to treat a symmetry."""
    figure = blank(10, 6.6)
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2.6))  # pyright: ignore[reportGeneralTypeIssues]
    orbit, cut, pose = above.subplots(1, 3)
    for ax, title in (
        (orbit, "orbit: one sample in all its poses"),
        (cut, "slice: one pose of each orbit"),
        (pose, r"canonical pose: $c(x) = h(x)^{-1}x$"),
    ):
        ax.set(xlim=(-3.2, 3.2), ylim=(-3.1, 3.8), aspect="equal")
        ax.set_axis_off()
        ax.text(0, 3.45, title, fontsize=11, ha="center", va="center")
        for radius in (2.4,) if ax is pose else (1.15, 2.4):
            ax.add_patch(_circle(radius))
    for radius, colour in ((1.15, ORANGE), (2.4, BLUE)):
        for angle in np.deg2rad(np.arange(0, 360, 45)):
            for ax in (orbit, cut):
                _molecule(ax, colour, radius, angle, faint=ax is cut and angle > 0)
    for ax in (cut, pose):
        ax.plot((0, 3.15), (0, 0), color=RED, lw=9, alpha=0.25, zorder=0, solid_capstyle="butt")
    cut.text(0.1, -0.5, "slice", color=RED, fontsize=10)
    turn = np.deg2rad(135)
    _molecule(pose, BLUE, 2.4, turn)
    _molecule(pose, BLUE, 2.4, 0.0)
    pose.text(-2.45, 2.35, "$x$", fontsize=12, ha="right")
    pose.text(2.75, -0.7, "$c(x)$", fontsize=12, ha="center")
    arc = 1.75 * np.stack([f(np.linspace(turn - 0.35, 0.42, 60)) for f in (np.cos, np.sin)], -1)
    pose.plot(*arc[:-1].T, color="black", lw=1.2)
    _arrow(pose, arc[-4], arc[-1])
    pose.text(0, 0.75, "turned back\nby $h(x)$", fontsize=10, ha="center", va="center")

    ways = below.subplots()
    ways.set(xlim=(0, 22.4), ylim=(-0.6, 6.9), aspect="equal")
    ways.set_axis_off()
    ways.text(11.2, 6.5, "three ways to treat the symmetry", fontsize=11, ha="center", va="center")
    g, r = np.deg2rad(110), np.deg2rad(215)
    noted = {
        "equivariant network": [g, "a network whose output\nturns with its input", g],
        "canonicalizer": [g, "turn back\nby $h(x)$", 0.0, "any\nnetwork", 0.0, "random\nturn", r],
        "random turns (SymDiff)": [g, "turn back\nby random $R$", r, "any\nnetwork", r, "turn\nby $R$", g],
    }
    for row, (name, chain) in enumerate(noted.items()):
        y = 4.9 - 2.15 * row
        ways.text(0, y, name, fontsize=10, va="center", weight="bold")
        places = np.linspace(6.2, 21.4, len(chain))
        halves = [1.35 if isinstance(item, str) else 0.85 for item in chain]
        if len(chain) == 3:
            halves[1] = 2.1
        for x, item in zip(places, chain, strict=True):
            if isinstance(item, str):
                box = {"boxstyle": "round,pad=0.35", "facecolor": "#eef2f8", "edgecolor": GREY}
                ways.text(x, y, item, fontsize=9, ha="center", va="center", bbox=box)
            else:
                _molecule(ways, BLUE, 0.0, item, at=(x, y))
        for k in range(len(chain) - 1):
            _arrow(ways, (places[k] + halves[k], y), (places[k + 1] - halves[k + 1], y))
    return figure


def _circle(radius: float):
    from matplotlib.patches import Circle

    return Circle((0, 0), radius, fill=False, color="#cccccc", lw=1, zorder=-1)


def _molecule(ax: Axes, colour: str, radius: float, angle: float, *, at=(0.0, 0.0), faint: bool = False) -> None:
    """A molecule that stands at `angle` on the circle of that radius, turned by the same angle."""
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x = (SHAPES[colour] + [radius, 0]) @ matrix.T + at
    alpha = 0.18 if faint else 1.0
    for i, j in BONDS[colour]:
        ax.plot(*x[[i, j]].T, color=colour, lw=2, alpha=alpha, solid_capstyle="round")
    ax.scatter(*x.T, s=26, color=colour, alpha=alpha, lw=0, zorder=3)
    ax.scatter(*x[:1].T, s=64, color=colour, alpha=alpha, lw=0, zorder=3)


def _arrow(ax: Axes, start, end) -> None:
    style = {"arrowstyle": "-|>", "color": "black", "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=end, xytext=start, arrowprops=style)
