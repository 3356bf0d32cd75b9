"""Many molecules on a map; a click shows one of them in 3D."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import traitlets
from torch import Tensor

from canonkit.figures.poses import property_map
from canonkit.metrics.properties import properties as describe
from canonkit.metrics.valency import wrong_atoms
from canonkit.molecules import Molecules
from canonkit.tables import element
from canonkit.widgets.panes import Panes, script, show_live


def explore(molecules: Molecules, properties: Mapping[str, Tensor] | None = None) -> Explorer:
    """A map of molecules beside a 3D view of the chosen one; put it last in a notebook's cell.

    Args:
        molecules: hundreds.
        properties: numbers by name, (B,) each; by default those of `canonkit.properties`.
    """
    return Explorer(molecules, properties)


class Map(Panes):
    """The map and its pane."""

    _esm = script("explorer.js")
    properties = traitlets.Dict().tag(sync=True)
    x = traitlets.Unicode().tag(sync=True)
    y = traitlets.Unicode().tag(sync=True)
    colour = traitlets.Unicode().tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    names = traitlets.List().tag(sync=True)  # shown where the pointer rests


class Explorer:
    """Three menus for what the axes and colours mean, the map, the chosen molecule in 3D and its numbers.

    Raises:
        ValueError: no molecules; fewer than two properties, or one of another length.
    """

    def __init__(self, molecules: Molecules, properties: Mapping[str, Tensor] | None = None):
        import ipywidgets as w

        if not len(molecules):
            raise ValueError("no molecules to explore")
        self.molecules = molecules.to("cpu").to(torch.float64).centred()
        found = describe(molecules) if properties is None else properties
        self.properties = {name: torch.as_tensor(v).double().cpu() for name, v in found.items()}
        if len(self.properties) < 2:
            raise ValueError(f"{len(self.properties)} properties given: a map needs two or more")
        for name, values in self.properties.items():
            if values.shape != (len(molecules),):
                raise ValueError(f"{name} has shape {tuple(values.shape)}, expected ({len(molecules)},)")
        self._unstable = wrong_atoms(self.molecules)
        names = list(self.properties)
        axes = {"x": names[0], "y": names[1], "colour": names[min(2, len(names) - 1)]}
        numbers = {k: [n if math.isfinite(n) else None for n in v.tolist()] for k, v in self.properties.items()}
        self.names = molecules.titles or [f"molecule {k}" for k in range(len(molecules))]
        self.map = Map(molecules.elements, properties=numbers, names=list(self.names), size=320, **axes)
        self.menus = [w.Dropdown(options=names, value=value, description=axis) for axis, value in axes.items()]
        for menu, axis in zip(self.menus, axes, strict=True):
            traitlets.link((menu, "value"), (self.map, axis))
        self.numbers = w.HTML()
        menus = w.Box(self.menus, layout=w.Layout(flex_flow="row wrap"))
        self.box = w.VBox([menus, self.map, self.numbers])
        self.map.observe(lambda change: self._choose(), names="chosen")
        self._choose()

    def _choose(self) -> None:
        k = self.map.chosen
        x = self.molecules[k].trim()
        with self.map.hold_sync():
            self.map.look(x, [self.names[k]], [torch.eye(3)], self._unstable[k : k + 1, : x.mask.shape[1]])
            self.map.zoom += 1
        numbers = ", ".join(f"{name} {_number(float(v[k]))}" for name, v in self.properties.items())
        self.numbers.value = element("small", f"{self.names[k]}: {numbers}")

    def _ipython_display_(self) -> None:
        x, y, colour = (str(menu.value) for menu in self.menus)
        show_live(self.box, property_map(self.properties, x, y, colour))


def _number(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.3g}"  # an index is to be used, so it has all its digits
