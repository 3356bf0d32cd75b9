r"""Stability by EDM's rule: an atom is stable if its bond orders sum exactly to its valence, H 1, C 4, N 3, O 2, F 1; a
molecule if all its atoms are. The molecule need not be connected. `canonkit.chemistry.valencies` finds the bonds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from canonkit.chemistry.valencies import VALENCE, bond_orders
from canonkit.molecules import Molecules


@dataclass(frozen=True, eq=False)
class Stability:
    """What is stable.

    Args:
        atoms: (B, N) bool, False at padding.
        molecules: (B,) bool.
        atom_stable: share of stable atoms.
        molecule_stable: share of stable molecules.
    """

    atoms: Tensor
    molecules: Tensor
    atom_stable: float
    molecule_stable: float

    def __repr__(self) -> str:
        return (
            f"Stability({len(self.molecules):,} molecules: {self.molecule_stable:.2%} stable, "
            f"{self.atom_stable:.2%} of their atoms)"
        )


@torch.no_grad()
def stability(molecules: Molecules, refused: Tensor | None = None, *, batch_size: int = 4096) -> Stability:
    """EDM's atom and molecule stability of a batch, in pieces of `batch_size` to bound the memory.

    Molecules `refused`, (B,) bool, are those to which no hydrogens could be added: they and their atoms count as not
    stable.
    """
    if not len(molecules):
        raise ValueError("no molecules given to score")
    valence = torch.tensor([VALENCE.get(e, -1) for e in molecules.elements], device=molecules.device)
    atoms = torch.cat(
        [
            (bond_orders(part).sum(-1) == valence[part.types]) & part.mask
            for part in (molecules[k : k + batch_size] for k in range(0, len(molecules), batch_size))
        ]
    )
    if refused is not None:
        atoms = atoms & ~refused[:, None]
    whole = (atoms | ~molecules.mask).all(1)
    return Stability(atoms, whole, float(atoms.sum() / molecules.mask.sum()), float(whole.double().mean()))
