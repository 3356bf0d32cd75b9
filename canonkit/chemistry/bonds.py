"""Bonds and formal charges that RDKit perceives from positions, and their form without padding.

rdDetermineBonds, total charge 0; bonded is what lies within 1.15 times the sum of two covalent radii (of RDKit's own
default, connect-the-dots, twenty times as many molecules come out wrong: small cages). Aromatic bonds have order 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from canonkit.chemistry.formats import fill_graph, to_rdkit
from canonkit.molecules import ATOMIC_NUMBERS, Molecules

REACH = 1.15  # times the sum of covalent radii


def perceive_bonds(molecules: Molecules, *, progress: bool = False) -> tuple[Molecules, list[str | None]]:
    """Molecules with bonds and charges, and the SMILES of each without stereochemistry, None where RDKit finds none.

    A molecule without SMILES has no bonds and no charges.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDetermineBonds
    from tqdm.auto import tqdm

    charges = torch.zeros(molecules.types.shape, dtype=torch.int8)
    bonds = torch.zeros(*molecules.types.shape, molecules.types.shape[1], dtype=torch.int8)
    smiles: list[str | None] = []
    with rdBase.BlockLogs(), tqdm(total=len(molecules), desc="bonds", unit="mol", disable=not progress) as bar:
        for start in range(0, len(molecules), 1024):
            part = molecules[start : start + 1024].to("cpu")
            for b, mol in enumerate(to_rdkit(part.with_(bonds=None, charges=None)), start):
                bar.update()
                try:
                    rdDetermineBonds.DetermineBonds(mol, charge=0, useVdw=True, covFactor=REACH, embedChiral=False)
                    Chem.SanitizeMol(mol)
                    smiles.append(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False))
                except (ValueError, RuntimeError, Chem.MolSanitizeException):
                    smiles.append(None)
                    continue
                fill_graph(mol, charges[b], bonds[b])
    return molecules.with_(bonds=bonds.to(molecules.device), charges=charges.to(molecules.device)), smiles


def ragged_graphs(molecules: Molecules) -> dict[str, Tensor]:
    """Bonds and charges without padding: ends (2, E), orders (E,), counts (M,) of bonds, charges (A,)."""
    bonds, charges = molecules.graph()
    b, i, j = bonds.triu(1).nonzero().T
    return {
        "ends": torch.stack([i, j]).to(torch.uint8),
        "orders": bonds[b, i, j].to(torch.uint8),
        "counts": torch.bincount(b, minlength=len(molecules)).to(torch.uint8),
        "charges": charges[molecules.mask].to(torch.int8),
    }


def padded(ragged: dict[str, Tensor], elements: Sequence[str], longest: int | None = None) -> Molecules:
    """Molecules from atoms one after another: positions (A, 3), numbers (A,) and sizes (M,).

    Args:
        ragged: these.
        elements: the element table; it must hold all numbers.
        longest: atoms that are made room for, by default those of the largest molecule.
    """
    sizes = ragged["sizes"].long()
    mask = torch.arange(int(sizes.max()) if longest is None else longest) < sizes[:, None]
    table = torch.zeros(max(ATOMIC_NUMBERS.values()) + 1, dtype=torch.long)
    table[[ATOMIC_NUMBERS[e] for e in elements]] = torch.arange(len(elements))
    positions, types = torch.zeros(*mask.shape, 3), torch.zeros(mask.shape, dtype=torch.long)
    positions[mask], types[mask] = ragged["positions"], table[ragged["numbers"].long()]
    return Molecules(positions, types, mask, tuple(elements))


def padded_graphs(molecules: Molecules, ragged: dict[str, Tensor]) -> Molecules:
    """The molecules with the bonds and charges that `ragged_graphs` gave."""
    b = torch.arange(len(molecules)).repeat_interleave(ragged["counts"].long())
    i, j = ragged["ends"].long()
    N = molecules.mask.shape[1]
    bonds = torch.zeros(len(molecules), N, N, dtype=torch.int8)
    bonds[b, i, j] = bonds[b, j, i] = ragged["orders"].to(torch.int8)
    charges = torch.zeros(molecules.mask.shape, dtype=torch.int8)
    charges[molecules.mask] = ragged["charges"]
    return molecules.with_(bonds=bonds, charges=charges)
