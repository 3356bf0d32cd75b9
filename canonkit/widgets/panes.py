"""Live 3D panes: what the pose inspector and the explorer share."""

from __future__ import annotations

import base64
from pathlib import Path

import anywidget
import torch
import traitlets
from torch import Tensor

from canonkit.chemistry.formats import to_rdkit
from canonkit.figures.base import SCREEN, Picture
from canonkit.figures.molecules import AXES, COLOURS, OTHER, draw, seen_bonds
from canonkit.molecules import Molecules
from canonkit.widgets import threedmol

HERE = Path(__file__).parent


def script(name: str) -> str:
    """A widget's JavaScript with what it builds on."""
    return "\n".join((HERE / file).read_text() for file in ("scene.js", "panes.js", name))


def style(elements: tuple[str, ...]) -> dict:
    """3Dmol's style of a ball-and-stick model in the kit's colours."""
    colours = {"prop": "elem", "map": COLOURS | {e: OTHER for e in elements if e not in COLOURS}}
    return {"stick": {"radius": 0.1, "colorscheme": colours}, "sphere": {"scale": 0.25, "colorscheme": colours}}


def scenes(molecules: Molecules) -> list[dict]:
    """Molecules as panes.js draws them, with the bonds that `canonkit.draw` shows; positions in hundredths of Å."""
    orders = seen_bonds(molecules).triu(1).tolist()
    found = []
    for b, n in enumerate(molecules.sizes.tolist()):
        x = (100 * molecules.positions[b, :n]).round().long().flatten().tolist()
        rows = enumerate(orders[b][:n])
        bonds = [v for i, row in rows for j, order in enumerate(row[:n]) if order for v in (i, j, order)]
        found.append({"types": molecules.types[b, :n].tolist(), "x": x, "bonds": bonds})
    return found


def arrows(frame: Tensor) -> list[list]:
    """The axes of a frame, the columns of (3, 3), as panes.js draws them."""
    return [[name, AXES[name], (1.6 * frame[:, k]).tolist()] for k, name in enumerate(AXES)]


def blocks(molecules: Molecules) -> list[str]:
    """Mol blocks with the bonds that `canonkit.draw` shows."""
    from rdkit.Chem import MolToMolBlock

    # Without titles: py3Dmol puts the blocks into a page's script, which text of a file must not end.
    mols = to_rdkit(molecules.with_(bonds=seen_bonds(molecules), titles=None, data=None))
    return [MolToMolBlock(mol, kekulize=False) for mol in mols]


# The still picture stays in the saved notebook; it gives way to a live view, and a view that is dead gives way to it.
STILL = """<style>.jp-OutputArea:has(.canonkit-panes > *) .canonkit-still,
.jp-OutputArea:has(.canonkit-still) .jp-OutputArea-child > .jupyter-widgets:not(:has(*)) { display: none }
</style>"""


def show_live(box, figure: Picture) -> None:
    """Displays a widget, and its picture where the widget is not alive."""
    from IPython.display import HTML, display

    png, shape = figure._repr_png_()
    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    display(box)
    display(HTML(f'{STILL}<div class="canonkit-still"><img src="{image}" width="{shape["width"]}" alt="still"></div>'))


class Panes(anywidget.AnyWidget):
    """3D panes side by side; without WebGL or 3Dmol.js a picture that Python draws.

    Call `look` to change what they show. `zoom` counts up when the cameras shall start anew.
    """

    _esm = script("inspector.js")
    panes = traitlets.List().tag(sync=True)
    elements = traitlets.List().tag(sync=True)
    ball_and_stick = traitlets.Dict().tag(sync=True)  # not `style`, which means another thing to ipywidgets
    size = traitlets.Int(280).tag(sync=True)
    zoom = traitlets.Int(0).tag(sync=True)
    local = traitlets.Bool().tag(sync=True)
    address = traitlets.Unicode().tag(sync=True)
    flat = traitlets.Bool(False).tag(sync=True)  # set by the browser: it cannot draw in 3D
    picture = traitlets.Unicode("").tag(sync=True)

    def __init__(self, elements: tuple[str, ...], **options):
        super().__init__(
            elements=list(elements),
            ball_and_stick=style(elements),
            local=threedmol.local_copy() is not None,
            address=threedmol.usual_address(),
            **options,
        )
        self._shown: tuple | None = None
        self.observe(lambda change: self._draw(), names="flat")

    def look(
        self, molecules: Molecules, titles: list[str], axes: list[Tensor | None], halo: Tensor | None = None
    ) -> None:
        """Shows one molecule per pane.

        Args:
            molecules: one per pane, in the pose to show.
            titles: above the panes.
            axes: the frame to draw, columns of (3, 3), None for none.
            halo: atoms to ring, (B, N) bool; by default none.
        """
        self._shown = molecules, titles
        ringed = torch.zeros_like(molecules.mask) if halo is None else halo & molecules.mask
        found = []
        for b, (molecule, title, frame) in enumerate(zip(scenes(molecules), titles, axes, strict=True)):
            centres = molecules.positions[b, ringed[b]].tolist()
            seen = [] if frame is None else arrows(frame)
            found.append({"title": title, "molecule": molecule, "axes": seen, "halo": centres})
        self.panes = found
        if self.flat:
            self._draw()

    def _draw(self) -> None:
        if self._shown is not None:
            self.picture = base64.b64encode(self.figure(self.size / SCREEN)._repr_png_()[0]).decode()

    def figure(self, size: float) -> Picture:
        """What the panes show as a picture, `size` inches each."""
        assert self._shown is not None
        molecules, titles = self._shown
        return draw(molecules, columns=len(titles), captions=titles, axes=True, size=size)
