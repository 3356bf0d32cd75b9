"""What sets of molecules are made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from canonkit.figures.base import Picture, blank
from canonkit.molecules import ATOMIC_NUMBERS, Molecules


def composition(sets: Mapping[str, Molecules]) -> Picture:
    """How many atoms molecules have, and how many of the molecules have each element; sets by name.

    Raises:
        ValueError: no sets, or one without molecules.
    """
    if not sets or not all(map(len, sets.values())):
        raise ValueError("a set has no molecules: give {name: molecules}")
    figure = blank(9, 3)
    size, kind = figure.subplots(1, 2)
    elements = sorted({e for x in sets.values() for e in x.elements}, key=ATOMIC_NUMBERS.__getitem__)
    edges = np.arange(max(int(x.sizes.max()) for x in sets.values()) + 2) - 0.5
    for k, (name, x) in enumerate(sets.items()):
        shares = np.full(len(x), 1 / len(x))
        size.hist(x.sizes.numpy(), edges, weights=shares, histtype="step", color=f"C{k}", label=f"{name} ({len(x):,})")
        has = {e: float(((x.types == i) & x.mask).any(1).double().mean()) for i, e in enumerate(x.elements)}
        places = torch.arange(len(elements)) + 0.8 * (k + 0.5) / len(sets) - 0.4
        kind.bar(places, [100 * has.get(e, 0) for e in elements], 0.8 / len(sets), color=f"C{k}")
    size.set(xlabel="atoms", ylabel="share of the molecules")
    size.legend(fontsize=8)
    kind.set_xticks(range(len(elements)), elements)
    kind.set(ylabel="molecules that have it (%)", yscale="log")
    kind.grid(axis="y", alpha=0.3)
    return figure
