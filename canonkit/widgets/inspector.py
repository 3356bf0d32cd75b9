"""The pose inspector: change a molecule on the left, and see on the right whether its canonical pose moves."""

from __future__ import annotations

import html
from collections.abc import Mapping

import torch

from canonkit.canonicalizers import Canonicalizer
from canonkit.certificates import nearest_jump
from canonkit.figures.group import in_ball
from canonkit.figures.molecules import AXES, seen_bonds
from canonkit.figures.plane import COLOURS
from canonkit.molecules import Molecules
from canonkit.tables import html_table
from canonkit.widgets.panes import Panes, show_live

TURNS = ("about x", "about y", "about z")


def inspect_pose(canonicalizer: Canonicalizer | Mapping[str, Canonicalizer], molecules: Molecules) -> PoseInspector:
    """An inspector of one canonicalizer, or of several side by side by name; put it last in a notebook's cell."""
    return PoseInspector(canonicalizer, molecules)


class PoseInspector:
    """Sliders that turn, mirror, permute and jitter a molecule; its canonical poses; the numbers.

    The numbers, one column per canonicalizer: *moved* is max_i |c(g x)_i - c(x)_i| in Å, compared with the unchanged
    molecule (0 for turns and permutations if h is equivariant); *det h(x)* is +1 for rotations; *ambiguous* says that
    h(x) is not unique here; the *nearest jump* is the smallest noise found, in Å, that changes the pose by more than 30
    degrees.

    Args:
        canonicalizer: one, or several by name.
        molecules: to choose from.

    Raises:
        ValueError: no molecules.
    """

    def __init__(self, canonicalizer: Canonicalizer | Mapping[str, Canonicalizer], molecules: Molecules):
        import ipywidgets as w

        if not len(molecules):
            raise ValueError("no molecules to inspect")
        named = canonicalizer if isinstance(canonicalizer, Mapping) else {"c(x)": canonicalizer}
        self.canonicalizers = {name: h.eval() for name, h in named.items()}
        self.molecules = molecules.to("cpu").to(torch.float32).centred()
        wide = {"style": {"description_width": "100px"}, "layout": w.Layout(width="300px", flex="0 0 auto")}
        self.which = w.IntSlider(0, 0, len(molecules) - 1, description="molecule", **wide)
        self.turns = [w.IntSlider(0, -180, 180, description=f"{name} (°)", **wide) for name in TURNS]
        self.mirror = w.Checkbox(False, description="mirror image")
        self.order = w.IntSlider(0, 0, 20, description="reorder atoms", **wide)
        self.jitter = w.FloatSlider(0.0, min=0, max=0.3, step=0.01, description="jitter (Å)", **wide)
        self.numbers = w.HTML()
        self.panes = Panes(self.molecules.elements)
        self.ball = w.HTML()
        columns = [w.VBox([self.which, self.order, self.jitter]), w.VBox(self.turns), self.mirror]
        sliders = w.Box(columns, layout=w.Layout(flex_flow="row wrap"))
        below = w.Box([self.numbers, self.ball], layout=w.Layout(flex_flow="row wrap", align_items="center"))
        self.box = w.VBox([sliders, self.panes, below])
        for control in (*self.turns, self.mirror, self.order, self.jitter):
            control.observe(lambda change: self.update(), names="value")
        self.which.observe(lambda change: self._choose(), names="value")
        self._choose()

    def _choose(self) -> None:
        """Another molecule: what does not depend on the disturbance is computed once."""
        x = self.molecules[self.which.value].trim()
        self._bonds = seen_bonds(x)  # of the undisturbed molecule: jitter breaks none
        with torch.no_grad():
            self._rest = {name: h(x).x for name, h in self.canonicalizers.items()}
            self._jumps = {name: nearest_jump(h, x) for name, h in self.canonicalizers.items()}
        with self.panes.hold_sync():
            self.update()
            self.panes.zoom += 1

    def disturbed(self) -> tuple[Molecules, torch.Tensor]:
        """The molecule as the sliders have it, and the order in which its atoms now come, (1, N)."""
        x = self.molecules[self.which.value].trim()
        n = x.mask.shape[1]
        generator = torch.Generator().manual_seed(self.which.value)
        noise = torch.randn(x.positions.shape, generator=generator)
        x = x.with_(positions=x.positions + self.jitter.value * noise)
        if self.mirror.value:
            x = x.with_(positions=x.positions * torch.tensor([1.0, 1.0, -1.0]))
        x = x.act(_turn(*(slider.value for slider in self.turns))[None])
        generator.manual_seed(self.order.value)
        order = torch.randperm(n, generator=generator)[None] if self.order.value else torch.arange(n)[None]
        return x.permute(order), order

    @torch.no_grad()
    def update(self) -> dict[str, dict]:
        """Redraws panes and numbers; returns the numbers by canonicalizer."""
        x, order = self.disturbed()
        alone = len(self.canonicalizers) == 1
        bonds = permuted(self._bonds, order)
        shown, found = [_with_bonds(x, bonds)], {}
        frames: list[torch.Tensor | None] = [None]
        poses = {}
        for name, h in self.canonicalizers.items():
            c = h(x)
            ordered = c.order is not None
            rest = self._rest[name] if ordered else self._rest[name].permute(order)
            moved = (c.x.positions - rest.positions).norm(dim=-1).max()
            found[name] = {
                "moved (Å)": f"{float(moved):.1e}",
                "det h(x)": f"{float(torch.linalg.det(c.g[0])):+.3f}",
                "ambiguous": "yes" if bool(c.ambiguous) else "no",
                "nearest jump (Å)": _jump_text(self._jumps[name]),
                "order in c(x)": _numbers(order[0][c.order[0]]) if ordered else "as in x",
            }
            shown.append(_with_bonds(c.x, permuted(bonds, c.order) if c.order is not None else bonds))
            frames.append(torch.eye(3))
            poses[name] = c.g
            if alone:  # its frame on the molecule as it comes
                frames[0] = c.g[0]
        titles = ["x", *(name if name == "c(x)" else f"c(x), {name}" for name in self.canonicalizers)]
        self.panes.look(Molecules.cat(shown), titles, frames)
        rows = [(key, *(numbers[key] for numbers in found.values())) for key in next(iter(found.values()))]
        rows.append(("order in x", _numbers(order[0])))
        self.numbers.value = html_table(["", *found], rows)
        self.ball.value = _ball(poses)
        return found

    def _ipython_display_(self) -> None:
        show_live(self.box, self.panes.figure(2.2))


def permuted(bonds: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Bonds (1, N, N) of atoms in the order (1, N)."""
    return bonds[:, order[0]][:, :, order[0]]


def _with_bonds(x: Molecules, bonds: torch.Tensor) -> Molecules:
    return x.with_(bonds=bonds, charges=None, radicals=None)


def _ball(poses: Mapping[str, torch.Tensor]) -> str:
    """h(x) as dots in the ball of rotations (`canonkit.figures.rotations`), seen along (1, 1, 1), as an SVG."""
    right, up = torch.tensor([-1.0, 1, 0]) / 2**0.5, torch.tensor([-1.0, -1, 2]) / 6**0.5
    flat = torch.stack([right, up]).double()
    shapes = ['<circle cx="0" cy="0" r="1" fill="none" stroke="#999999" stroke-width="0.015"/>']
    for k, (axis, colour) in enumerate(AXES.items()):
        x, y = flat[:, k].tolist()
        shapes.append(f'<line x2="{x:.3f}" y2="{-y:.3f}" stroke="{colour}" stroke-width="0.015"/>')
        shapes.append(
            f'<text x="{1.15 * x:.3f}" y="{0.05 - 1.15 * y:.3f}" font-size="0.18" fill="{colour}">{axis}</text>'
        )
    for (name, g), colour in zip(poses.items(), COLOURS * 9, strict=False):
        x, y = (flat @ in_ball(g * torch.linalg.det(g)[:, None, None])[0]).tolist()
        label = f"<title>h(x), {html.escape(name)}</title>"
        shapes.append(
            f'<circle class="canonkit-dot" cx="{x:.3f}" cy="{-y:.3f}" r="0.07" fill="{colour}">{label}</circle>'
        )
    names = ", ".join(
        f'<span style="color: {c}">{html.escape(n)}</span>' for n, c in zip(poses, COLOURS * 9, strict=False)
    )
    picture = (
        f'<svg viewBox="-1.3 -1.3 2.6 2.6" width="150" height="150" style="background: white">{"".join(shapes)}</svg>'
    )
    # The colours are made for white, also where the page is dark.
    style = "display: inline-block; padding: 0 4px; background: white; color: black"
    return f'<div style="{style}">{picture}<br><small>h(x) in the ball of rotations: {names}</small></div>'


def _numbers(values: torch.Tensor) -> str:
    return " ".join(map(str, values.tolist()))


def _jump_text(noise: float) -> str:
    return f"{noise:g}" if noise < float("inf") else "none up to 0.5"


def _turn(x: float, y: float, z: float) -> torch.Tensor:
    """Rotation by degrees about x, then y, then z, (3, 3)."""
    found = torch.eye(3)
    for k, degrees in enumerate((x, y, z)):
        angle = torch.deg2rad(torch.tensor(float(degrees)))
        generator = torch.zeros(3, 3)
        i, j = (k + 1) % 3, (k + 2) % 3
        generator[i, j], generator[j, i] = -1, 1
        found = torch.linalg.matrix_exp(angle * generator) @ found
    return found
