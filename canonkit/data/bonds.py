"""Bonds and formal charges of QM9, which its files do not hold: perceived by RDKit from positions, once, and cached.

rdDetermineBonds, total charge 0; bonded is what lies within 1.15 times the sum of two covalent radii (of RDKit's own
default, connect-the-dots, twenty times as many molecules come out wrong: small cages). A molecule counts as known where
the result is the data set's SMILES, stereochemistry aside; the others are left out. Aromatic bonds have order 4.
"""

from __future__ import annotations

import csv
from dataclasses import replace

import torch
from torch import Tensor

from canonkit.data.qm9 import QM9, REINSTALL, qm9pack_files
from canonkit.data.stored import content_hash, load_stored, store
from canonkit.files import cache_folder
from canonkit.formats import fill_graph, to_rdkit
from canonkit.molecules import Molecules

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


def with_bonds(qm9: QM9, *, progress: bool = True) -> QM9:
    """QM9 with bonds, formal charges, and `known`: where they agree with the data set's SMILES.

    The split leaves out the molecules that disagree. The first call takes about two minutes.
    """
    cache = cache_folder() / f"qm9-bonds-{qm9.sha256[:16]}.safetensors"
    found = load_stored(cache)
    if found is None:
        perceived, smiles = perceive_bonds(qm9.molecules, progress=progress)
        stated = stated_smiles(set(qm9.index.tolist()))
        known = torch.tensor(
            [s is not None and s == stated[k] for s, k in zip(smiles, qm9.index.tolist(), strict=True)]
        )
        stored = ragged_graphs(perceived) | {"known": known}
        found = stored, store(cache, stored)
    stored, about = found
    return replace(
        qm9,
        molecules=padded_graphs(qm9.molecules, stored),
        sha256=content_hash({"bonds": digest_bytes(about["sha256"]), "positions": digest_bytes(qm9.sha256)}),
        known=stored["known"],
    )


def digest_bytes(digest: str) -> Tensor:
    """A hexadecimal hash as bytes, to be hashed with others."""
    return torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)


def ragged_graphs(molecules: Molecules) -> dict[str, Tensor]:
    """Bonds and charges without padding: ends (2, E), orders (E,), counts (M,) of bonds, charges (A,)."""
    b, i, j = molecules.bonds.triu(1).nonzero().T
    return {
        "ends": torch.stack([i, j]).to(torch.uint8),
        "orders": molecules.bonds[b, i, j].to(torch.uint8),
        "counts": torch.bincount(b, minlength=len(molecules)).to(torch.uint8),
        "charges": molecules.charges[molecules.mask].to(torch.int8),
    }


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


def stated_smiles(index: set[int]) -> dict[int, str]:
    """The data set's SMILES of molecules by number in GDB-9, canonical and without stereochemistry."""
    from rdkit import Chem

    found = {}
    for path in qm9pack_files():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if (number := int(row["Index"])) in index:
                    mol = Chem.MolFromSmiles(row["SMILES"])
                    if mol is None:
                        raise ValueError(
                            f"{path}: SMILES {row['SMILES']!r} of molecule {number} is damaged: {REINSTALL}"
                        )
                    found[number] = Chem.MolToSmiles(mol, isomericSmiles=False)
    return found
