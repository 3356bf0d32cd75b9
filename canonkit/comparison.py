"""Canonicalizers side by side on the same molecules: one table and one figure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.certificates import Certificate, certify
from canonkit.metrics.poses import rank_spread
from canonkit.molecules import Molecules
from canonkit.tables import Table

BATCH = 256  # molecules at a time


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` measured; prints as a table, shows itself in a notebook, draws its `figure()`.

    Args:
        certificates: by name.
        spread: mean over ranks r of how far the r-th atom's canonical position varies between molecules, in Å.
        seconds: per molecule, in batches of 256 of like sizes, on this machine.
    """

    certificates: dict[str, Certificate]
    spread: dict[str, float]
    seconds: dict[str, float]

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each canonicalizer, with the numbers that the table has."""
        return [
            {
                "canonicalizer": name,
                "verdict": c.verdict,
                "passed": c.passed,
                "max_error": c.max_error,
                "order_error": c.max_error if c.order_error is None else c.order_error,
                "ambiguous_share": c.ambiguous_share,
                "jump_share": c.jump_share,
                "spread": self.spread[name],
                "seconds": self.seconds[name],
            }
            for name, c in self.certificates.items()
        ]

    def table(self) -> Table:
        """The same as a table."""
        header = ["canonicalizer", "is one", "turned (Å)", "reordered (Å)", "ambiguous", "jump", "spread (Å)", "ms"]
        cells = [
            [
                r["canonicalizer"],
                "yes" if r["passed"] else "no",
                f"{r['max_error']:.1e}",
                f"{r['order_error']:.1e}",
                f"{r['ambiguous_share']:.1%}",
                f"{r['jump_share']:.1%}",
                f"{r['spread']:.2f}",
                f"{1e3 * r['seconds']:.2f}",
            ]
            for r in self.rows()
        ]
        c = next(iter(self.certificates.values()))
        notes = [
            f"{c.molecules:,} molecules, {c.draws} turns of each, {c.dtype}. Turned, reordered: by which an atom "
            "of the canonical pose moves at most.",
            "Jump: turns by more than 30° when atoms move by 0.01 Å. Spread: of the r-th atom's position between "
            "molecules. ms: per molecule.",
        ]
        return Table("Canonicalizers", header, cells, notes)

    def figure(self):
        """The same as bars."""
        from canonkit.figures.poses import comparison

        return comparison(self.rows())

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@torch.no_grad()
def compare(systems: Mapping[str, Canonicalizer], molecules: Molecules, *, draws: int = 2, seed: int = 0) -> Comparison:
    """Measures canonicalizers of molecules on the same molecules, turns and noise.

    Args:
        systems: canonicalizers by name.
        molecules: where to try them.
        draws, seed: as of `certify`.

    Raises:
        ValueError: no canonicalizers, fewer than two molecules; a canonicalizer of images.
    """
    if not systems:
        raise ValueError("no canonicalizers given to compare: give {name: canonicalizer}")
    if len(molecules) < 2:
        raise ValueError(f"{len(molecules)} molecules have no spread of poses: give two or more")
    certificates, spread, seconds = {}, {}, {}
    rows = torch.argsort(molecules.sizes, stable=True).split(BATCH)
    for name, h in systems.items():
        found = certify(h, molecules, draws=draws, seed=seed)
        assert isinstance(found, Certificate)
        certificates[name] = found
        h, start = h.eval(), time.perf_counter()
        done = [h(molecules[part].trim()).x for part in rows]
        seconds[name] = (time.perf_counter() - start) / len(molecules)
        spread[name] = float(rank_spread(Molecules.cat(done)).nanmean())
    return Comparison(certificates, spread, seconds)
