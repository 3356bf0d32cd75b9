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


def blocks(molecules: Molecules) -> list[str]:
    """Mol blocks with the bonds that `canonkit.draw` shows."""
    from rdkit.Chem import MolToMolBlock

    # Without titles: py3Dmol puts the blocks into a page's script, which text of a file must not end.
    mols = to_rdkit(molecules.with_(bonds=seen_bonds(molecules), titles=None, data=None))
    return [MolToMolBlock(mol, kekulize=False) for mol in mols]


class Panes(anywidget.AnyWidget):
    """3D panes side by side; without WebGL or 3Dmol.js a picture that Python draws.

    Call `look` to change what they show. `zoom` counts up when the cameras shall start anew.
    """

    _esm = script("inspector.js")
    panes = traitlets.List().tag(sync=True)
    ball_and_stick = traitlets.Dict().tag(sync=True)  # not `style`, which means another thing to ipywidgets
    size = traitlets.Int(280).tag(sync=True)
    zoom = traitlets.Int(0).tag(sync=True)
    local = traitlets.Bool().tag(sync=True)
    address = traitlets.Unicode().tag(sync=True)
    flat = traitlets.Bool(False).tag(sync=True)  # set by the browser: it cannot draw in 3D
    picture = traitlets.Unicode("").tag(sync=True)

    def __init__(self, elements: tuple[str, ...], **options):
        super().__init__(
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
        for b, (block, title, frame) in enumerate(zip(blocks(molecules), titles, axes, strict=True)):
            ends = [] if frame is None else [1.6 * frame[:, k] for k in range(3)]
            arrows = [[name, AXES[name], end.tolist()] for name, end in zip(AXES, ends, strict=False)]
            centres = molecules.positions[b, ringed[b]].tolist()
            found.append({"title": title, "block": block, "axes": arrows, "halo": centres})
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
