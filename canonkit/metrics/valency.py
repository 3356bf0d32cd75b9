r"""Valencies of drug-size molecules, by the table of GEOM-Drugs Revisited (Nikitin et al. 2025).

An atom is stable if (aromatic bonds, sum of the orders of its others) is in the table for its element and charge: an
aromatic carbon of benzene has (2, 1), not 4. Molecules in Kekulé form have no aromatic bonds, and (0, 4) there.

The legacy rule of older papers counts each aromatic bond as a single one, and its table allows a neutral carbon three
bonds. It calls far more molecules stable: compare its numbers with those of the same papers only.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from canonkit.chemistry.valencies import VALENCE
from canonkit.metrics.stability import Stability, stability
from canonkit.molecules import AROMATIC, Molecules

TABLES = Path(__file__).with_name("geom_drugs_valencies.json")
CHARGES, MOST = 4, 16  # beyond these charges and bonds nothing is allowed


@cache
def valency_table(name: str = "corrected") -> dict[tuple[str, int], frozenset[tuple[int, int]]]:
    """(element, charge) -> the allowed (aromatic bonds, sum of the others); of `legacy` the first is always 0.

    Raises:
        ValueError: no table of that name.
    """
    tables = json.loads(TABLES.read_text())
    if name not in ("corrected", "legacy"):
        raise ValueError(f"no table of valencies is called {name!r}: corrected or legacy")
    return {
        (element, int(charge)): frozenset((0, v) if isinstance(v, int) else tuple(v) for v in allowed)
        for element, charges in tables[name].items()
        for charge, allowed in charges.items()
    }


def valencies(molecules: Molecules) -> tuple[Tensor, Tensor]:
    """Aromatic bonds, and the sum of the orders of the others, of each atom, both (B, N) int64.

    Raises:
        ValueError: molecules without bonds.
    """
    bonds = molecules.graph()[0]
    aromatic = bonds == AROMATIC
    return aromatic.sum(-1), bonds.masked_fill(aromatic, 0).sum(-1, dtype=torch.int64)


def valency_stability(molecules: Molecules, table: str = "corrected") -> Stability:
    """Which atoms have an allowed valency, and which molecules have only such atoms; the molecule may be in pieces.

    An element that the table lacks is not stable.

    Raises:
        ValueError: no molecules, molecules without bonds, no table of that name.
    """
    if not len(molecules):
        raise ValueError("no molecules given to score")
    allowed = torch.zeros(len(molecules.elements), 2 * CHARGES + 1, MOST + 1, MOST + 1, dtype=torch.bool)
    for (element, charge), pairs in valency_table(table).items():
        if element in molecules.elements:
            for aromatic, others in pairs:
                allowed[molecules.elements.index(element), charge + CHARGES, aromatic, others] = True
    aromatic, others = valencies(molecules)
    if table == "legacy":
        aromatic, others = torch.zeros_like(aromatic), aromatic + others
    q = (molecules.graph()[1].long() + CHARGES).clamp(0, 2 * CHARGES)
    atoms = allowed.to(molecules.device)[molecules.types, q, aromatic.clamp(max=MOST), others.clamp(max=MOST)]
    atoms = atoms & molecules.mask
    whole = (atoms | ~molecules.mask).all(1)
    return Stability(atoms, whole, float(atoms.sum() / molecules.mask.sum()), float(whole.double().mean()))


def wrong_atoms(molecules: Molecules) -> Tensor:
    """Atoms whose valence is wrong, (B, N) bool, to be marked in pictures.

    By EDM's rule where it knows all elements, else by the bonds and charges that the molecules bring, where they bring
    any; what has no rule is not wrong.
    """
    if set(molecules.elements) <= VALENCE.keys():
        return ~stability(molecules).atoms & molecules.mask
    if molecules.bonds is None:
        return torch.zeros_like(molecules.mask)
    known = torch.tensor(
        [any((e, q) in valency_table() for q in range(-CHARGES, CHARGES + 1)) for e in molecules.elements]
    )
    return ~valency_stability(molecules).atoms & molecules.mask & known.to(molecules.device)[molecules.types]
