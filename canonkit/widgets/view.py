"""Molecules in 3D, to turn with the mouse: py3Dmol, and a picture for all cases in which 3D does not work.

The output of `show` is a picture and a script. If the script may run and finds 3Dmol.js, it replaces the picture by the
3D view. In a saved notebook that is not trusted, on a code host or without WebGL, the picture stays.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from canonkit.figures.base import SCREEN
from canonkit.figures.molecules import AXES, UNSTABLE, draw
from canonkit.files import is_offline
from canonkit.metrics.valency import wrong_atoms
from canonkit.molecules import Molecules
from canonkit.widgets import threedmol
from canonkit.widgets.panes import blocks, style

HELP = f"<p><small>{threedmol.HELP}</small></p>"


@dataclass(frozen=True, eq=False)
class View:
    """What `show` returns: shows itself in a notebook.

    Args:
        page: HTML with picture and script.
        picture: the PNG file alone.
    """

    page: str
    picture: bytes

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/html": self.page, "text/plain": "3D view"}

    def __repr__(self) -> str:
        return "View(show it last in a notebook's cell)"


def show(
    molecules: Molecules,
    *,
    captions: Sequence[str] | None = None,
    columns: int = 4,
    mark_unstable: bool = False,
    axes: bool = False,
    linked: bool = True,
    size: int = 200,
) -> View:
    """Molecules in 3D, in the pose they have, in a grid.

    Args:
        molecules: a few dozen at most; each gets a viewer.
        captions: one per molecule.
        columns: per row.
        mark_unstable: a red halo around atoms whose valence is wrong, by EDM's rule; with other elements than its
            by their own bonds.
        axes: the axes of the frame, x red, y green, z blue.
        linked: turn all together.
        size: of one viewer, in pixels.

    Raises:
        ValueError: no molecules; captions of another number.
    """
    if captions is not None and len(captions) != len(molecules):
        raise ValueError(f"{len(captions)} captions for {len(molecules)} molecules: give one each")
    molecules = molecules.to("cpu").to(torch.float64).centred()
    columns = min(columns, len(molecules))
    figure = draw(
        molecules, columns=columns, captions=captions, mark_unstable=mark_unstable, axes=axes, size=size / SCREEN
    )
    png, shape = figure._repr_png_()
    local = threedmol.local_copy() is not None
    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    picture = f'<img src="{image}" width="{shape["width"]}" height="{shape["height"]}" alt="molecules">'
    if not local and is_offline():
        return View(f"<div>{picture}{HELP}</div>", png)
    viewer = _viewer(molecules, captions, columns, mark_unstable, axes, linked, size)
    page = str(viewer.write_html())
    for caption in map(json.dumps, captions or ()):  # drawn as text, but it must not end the script that it is in
        page = page.replace(caption, caption.replace("<", "\\u003c"))
    name = f"canonkit-{viewer.uniqueid}"
    script = f"""{threedmol.loader()}
window.canonkit3Dmol({json.dumps(local)}, {json.dumps(threedmol.usual_address())}, () => {{
  const scene = document.getElementById("{name}");
  scene.innerHTML = {quoted(page)};
  // The wheel scrolls the page; with ctrl it zooms.
  scene.addEventListener("wheel", event => {{ if (!event.ctrlKey) event.stopPropagation(); }}, {{capture: true}});
  for (const old of scene.querySelectorAll("script")) {{
    const fresh = document.createElement("script");  // one set as HTML does not run
    fresh.text = old.text;
    old.replaceWith(fresh);
  }}
}}, () => {{
  document.getElementById("{name}").insertAdjacentHTML("beforeend", {quoted(HELP)});
}});"""
    return View(f'<div id="{name}">{picture}</div><script>{script}</script>', png)


def quoted(data: object) -> str:
    """JavaScript data that may stand inside a script element."""
    return json.dumps(data).replace("</", "<\\/")


def _viewer(molecules, captions, columns, mark_unstable, axes, linked, size):
    import py3Dmol

    rows = -(-len(molecules) // columns)
    viewer = py3Dmol.view(width=columns * size, height=rows * size, viewergrid=(rows, columns), linked=linked)
    # All at one scale, the farthest atom with its ball within the pane however it is turned. 3Dmol's camera stands at
    # z = 150 and sees 20 degrees.
    radius = float(molecules.positions.norm(dim=-1).max()) + 0.8
    distance = 150 - max(radius, 2.5) / math.sin(math.radians(10))
    unstable = wrong_atoms(molecules) if mark_unstable else torch.zeros_like(molecules.mask)
    for b, block in enumerate(blocks(molecules)):
        at = divmod(b, columns)
        viewer.addModel(block, "sdf", viewer=at)
        viewer.setStyle(style(molecules.elements), viewer=at)
        for x in molecules.positions[b, unstable[b] & molecules.mask[b]].tolist():
            sphere = {"center": dict(zip("xyz", x, strict=True)), "radius": 0.55, "color": UNSTABLE, "opacity": 0.45}
            viewer.addSphere(sphere, viewer=at)
        if axes:
            for k, (axis, colour) in enumerate(AXES.items()):
                end = {other: 1.6 * (i == k) for i, other in enumerate("xyz")}
                arrow = {"start": {"x": 0, "y": 0, "z": 0}, "end": end, "radius": 0.05, "color": colour}
                viewer.addArrow(arrow, viewer=at)
                label = {"position": end, "fontColor": colour, "backgroundOpacity": 0, "fontSize": 12}
                viewer.addLabel(axis, label, viewer=at)
        viewer.setView([0, 0, 0, distance, 0, 0, 0, 1], viewer=at)
        if captions is not None:
            place = {"position": {"x": 4, "y": 4, "z": 0}, "useScreen": True, "fontSize": 12}
            viewer.addLabel(captions[b], place | {"fontColor": "black", "backgroundOpacity": 0}, viewer=at)
    return viewer
