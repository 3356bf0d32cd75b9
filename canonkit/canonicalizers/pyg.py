r"""c(x) as a transform of PyTorch Geometric: for `transform=` or `pre_transform=` of a data set, and in `Compose`.

pos <- h(x)^-1 (pos - centroid),   vectors v <- h(x)^-1 v,   everything else as it is;
where h orders atoms: each node attribute in the new order, and edge_index renumbered to follow, so that entry e of
edge_attr still belongs to edge e.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.groups import act, inverse
from canonkit.molecules import ELEMENTS, Molecules


class Canonicalize:
    """Brings the molecule of a `Data`, or every molecule of a `Batch`, into its canonical pose; returns a shallow copy.

    Adds `g` (B, 3, 3), the h(x) that was undone, and `ambiguous` (B,) bool; B is 1 for a `Data`. Transform each
    `Data` before it is batched, as a data set does, if the batch is to be taken apart again: `to_data_list` knows only
    the attributes that were there when the batch was made.

    Args:
        h: a canonicalizer of molecules, or the name of one, such as "inertial".
        elements: the element table. By default the elements present, and for canonicalizers with parameters QM9's.
        vectors: node attributes (n, 3) that turn with the molecule, where there are such.

    Raises:
        ValueError: no `pos` or `z`; an element that the table lacks; an adjacency matrix, or another
            index than that of edges, where h orders atoms.
    """

    def __init__(
        self,
        h: Canonicalizer | str = "inertial",
        *,
        elements: Sequence[str] | None = None,
        vectors: Sequence[str] = ("force",),
    ):
        from canonkit.canonicalizers import canonicalizer

        self.h = canonicalizer(h) if isinstance(h, str) else h
        if elements is None and any(True for _ in self.h.parameters()):
            elements = ELEMENTS
        self.elements, self.vectors = elements, tuple(vectors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.h).__name__}())"

    @torch.no_grad()
    def __call__(self, data):
        for key in ("pos", "z"):
            if getattr(data, key, None) is None:
                raise ValueError(f"{data} has no {key}: a molecule is `pos` in Å and atomic numbers `z`")
        sizes = _sizes(data)
        x = Molecules.from_list(data.pos.split(sizes), data.z.split(sizes), elements=self.elements).to(data.pos.device)
        c = self.h(x)
        new = copy.copy(data)
        kind = data.pos.dtype if data.pos.is_floating_point() else c.x.positions.dtype
        new.pos = c.x.positions[c.x.mask].to(data.pos.device, kind)
        back = inverse(c.g)
        for key in self.vectors:
            if getattr(data, key, None) is not None:
                v = data[key] if data[key].is_floating_point() else data[key].to(kind)
                turned = act(back.repeat_interleave(x.sizes, 0).to(v), v[:, None])
                new[key] = turned[:, 0] if c.order is None else turned[_whole(c.order, x)][:, 0]
        if c.order is not None:
            _reorder(new, data, _whole(c.order, x), done=("pos", "batch", "ptr", *self.vectors))
        new.g, new.ambiguous = c.g, c.ambiguous
        return new


def _sizes(data) -> list[int]:
    """Atoms of each molecule, by `ptr` or `batch`."""
    if hasattr(data, "ptr"):
        return data.ptr.diff().tolist()
    if getattr(data, "batch", None) is None:
        return [len(data.z)]
    if (data.batch.diff() < 0).any():
        raise ValueError("batch is not sorted: put each molecule's atoms together")
    return data.batch.bincount().tolist()


def _whole(order: Tensor, x: Molecules) -> Tensor:
    """The order of each molecule's atoms (B, N) as one of all atoms in a row, (sum n,)."""
    first = x.sizes.cumsum(0) - x.sizes
    return (order + first[:, None])[x.mask]


def _reorder(new, data, order: Tensor, done: Sequence[str]) -> None:
    """Puts node attributes in the new order and renumbers edge indices and faces."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    for key, value in data.to_dict().items():
        if key in done:
            continue
        if "adj" in key:
            raise ValueError(f"{key} cannot be brought into another order of atoms: use edge_index and edge_attr")
        if "edge_index" in key or key == "face":
            new[key] = place[value]
        elif "index" in key:
            raise ValueError(f"{key} may number atoms or be a label: rename it without 'index', or leave it out")
        elif data.is_node_attr(key):
            listed = isinstance(value, list | tuple)
            new[key] = [value[i] for i in order.tolist()] if listed else value[order.to(data.pos.device)]
