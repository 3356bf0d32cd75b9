"""Canonical forms of a whole data set, computed once and cached: for canonicalizers that have nothing to learn.

A file is named after the canonicalizer, the molecules and the version of the formulas; one of another version is
replaced.
"""

from __future__ import annotations

import torch

from canonkit.canonicalizers.base import VERSION
from canonkit.data.batches import Samples
from canonkit.data.stored import content_hash, load_stored, store
from canonkit.files import cache_folder
from canonkit.model import OrbitModel
from canonkit.molecules import Molecules

SMALL = 10_000  # molecules; fewer are not worth a file


def without_weights(model: OrbitModel) -> bool:
    """Whether the model's canonicalizer has no weights, so that its canonical forms are always the same."""
    return not any(True for _ in model.canonicalizer.parameters())


def cached_canonical(model: OrbitModel, name: str, data: Samples) -> Samples:
    """`model.canonical(data)`, from the cache where it is there.

    Args:
        model: its canonicalizer has no weights.
        name: of the canonicalizer.
        data: on the CPU; of molecules, if they are many, the canonical forms are kept in a file.

    Raises:
        ValueError: a canonicalizer with weights, whose canonical forms are not always the same.
    """
    if not without_weights(model):
        raise ValueError(f"the canonicalizer {name!r} has weights: what it makes of the data cannot be kept")
    if not isinstance(data, Molecules) or len(data) < SMALL:
        return model.canonical(data)
    which = content_hash({"positions": data.positions, "numbers": data.numbers})[:16]
    path = cache_folder() / f"canonical-{name}-{which}-v{VERSION}.safetensors"
    found = load_stored(path)
    stored = _compute(model, data) if found is None else found[0]
    if found is None:
        store(path, stored)
        for old in path.parent.glob(f"canonical-{name}-{which}-*.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)
    rows = stored["rows"]
    N = data.mask.shape[1]
    mask = torch.arange(N) < data.sizes[rows][:, None]
    order = torch.arange(N).repeat(len(data), 1)  # padding stays where it is
    order[mask] = stored["order"].long()
    positions = torch.zeros(*mask.shape, 3, dtype=stored["positions"].dtype)
    positions[mask] = stored["positions"]
    return data[rows].permute(order).with_(positions=positions)[torch.argsort(rows)]


@torch.no_grad()
def _compute(model: OrbitModel, data: Molecules) -> dict[str, torch.Tensor]:
    """Positions and order of atoms without padding, (A, 3) and (A,), of the molecules in order `rows`."""
    rows = torch.argsort(data.sizes, stable=True)  # by length, so that little is padded
    positions, order = [], []
    for part in rows.split(512):
        c = model.canonicalizer(data[part].trim())
        as_it_was = torch.arange(c.x.mask.shape[1]).expand(c.x.mask.shape)
        positions.append(c.x.positions[c.x.mask])
        order.append((as_it_was if c.order is None else c.order)[c.x.mask].to(torch.uint8))
    return {"positions": torch.cat(positions), "order": torch.cat(order), "rows": rows}
