"""Poses to check by eye: a row per molecule, a column per canonicalizer, in 3D."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from canonkit.canonicalizers import Canonicalizer
from canonkit.certificates import nearest_jump
from canonkit.molecules import Molecules
from canonkit.widgets.player import Player, plain

MOST = 80  # panes
NEAR = 0.1  # Å; noise of this size that makes a pose jump is said


def gallery(molecules: Molecules, canonicalizers: Mapping[str, Canonicalizer], *, size: int = 180) -> Player:
    """Molecules as they come and in the canonical poses of several canonicalizers, all on the same axes.

    Above a pose stands whether it is *ambiguous*, and, where noise of at most 0.1 Å was found to change it by more than
    30 degrees, how much. `gallery(...).save("poses.html")` writes one page that needs neither notebook nor network.

    Args:
        molecules: a few, one row each.
        canonicalizers: by name.
        size: of one pane, in pixels.

    Raises:
        ValueError: no molecules, no canonicalizers, or more than 80 panes.
    """
    count = len(molecules) * (1 + len(canonicalizers))
    if not len(molecules) or not canonicalizers or count > MOST:
        raise ValueError(
            f"{len(molecules)} molecules and {len(canonicalizers)} canonicalizers make {count} panes: "
            f"give at least one of each and at most {MOST} panes, such as molecules[:8]"
        )
    molecules = molecules.to("cpu").to(torch.float32).centred()
    titles, states = [], []
    for k, x in enumerate(molecules):
        titles.append(x.titles[0] if x.titles and x.titles[0] else f"molecule {k}")
        states.append([plain(x, x.elements)])
        for name, h in canonicalizers.items():
            with torch.no_grad():
                c, jump = h.eval()(x), nearest_jump(h, x)
            flags = ["ambiguous"] * bool(c.ambiguous) + [f"jumps at {jump:.1g} Å"] * (jump <= NEAR)
            titles.append(f"{name}: {', '.join(flags)}" if flags else name)
            states.append([plain(c.x, x.elements)])
    return Player(titles, states, axes=True, columns=1 + len(canonicalizers), size=size, fps=1, stills=2)
