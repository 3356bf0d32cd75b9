"""Molecules by their heavy atoms: hydrogens left out, and put back by RDKit's rule.

A molecule's bonds and formal charges say how many hydrogens each heavy atom has, and the heavy atoms' positions say
where they sit. So a model may learn heavy atoms alone: 9 atoms instead of 18 in QM9. Bonds are in Kekulé form (orders
1 to 3), in which the number of hydrogens is the valence that is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from canonkit.chemistry.formats import fill_graph, from_rdkit, to_rdkit
from canonkit.molecules import Molecules

PIECE = 2048  # molecules at a time


def without_hydrogens(molecules: Molecules, *, progress: bool = False) -> Molecules:
    """The heavy atoms of molecules, with their formal charges and bonds in Kekulé form.

    Args:
        molecules: with bonds and charges.
        progress: show a bar.

    Returns:
        Molecules on the same table of elements without H.

    Raises:
        ValueError: molecules without bonds and charges; one without heavy atoms; one that RDKit cannot put into Kekulé
            form.
    """
    from rdkit import Chem, rdBase
    from tqdm.auto import tqdm

    if molecules.bonds is None or molecules.charges is None:
        raise ValueError(
            "these molecules have no bonds and charges: canonkit.chemistry.bonds.perceive_bonds(x) adds them"
        )
    elements = tuple(e for e in molecules.elements if e != "H")
    kept = molecules.mask & (molecules.numbers != 1)
    if not kept.any(1).all():
        raise ValueError(f"molecule {int((~kept.any(1)).nonzero()[0])} has no heavy atom: leave it out")
    kekule = torch.zeros_like(molecules.graph()[0])
    ignored = torch.zeros(molecules.mask.shape[1], dtype=torch.long)
    with rdBase.BlockLogs(), tqdm(total=len(molecules), desc="Kekulé", unit="mol", disable=not progress) as bar:
        for start in range(0, len(molecules), PIECE):
            for b, mol in enumerate(to_rdkit(molecules[start : start + PIECE].to("cpu")), start):
                bar.update()
                try:
                    Chem.SanitizeMol(mol)
                    Chem.Kekulize(mol, clearAromaticFlags=True)
                except Chem.MolSanitizeException as error:
                    raise ValueError(f"molecule {b} has no Kekulé form ({error}): leave it out") from error
                fill_graph(mol, ignored, kekule[b])
    order = torch.argsort((~kept).long(), dim=1, stable=True)
    heavy = molecules.with_(bonds=kekule).permute(order)
    bonds, charges = heavy.graph()
    mask = heavy.mask & (torch.arange(kept.shape[1], device=kept.device) < kept.sum(1, keepdim=True))
    table = torch.tensor([elements.index(e) if e in elements else 0 for e in molecules.elements], device=kept.device)
    heavy = replace(
        heavy,
        positions=heavy.positions * mask[..., None],
        types=table[heavy.types] * mask,
        charges=charges * mask,
        bonds=bonds * (mask[:, :, None] & mask[:, None]),
        mask=mask,
        elements=elements,
    )
    return heavy.trim()


@dataclass(frozen=True, eq=False)
class WithHydrogens:
    """What `add_hydrogens` made.

    Args:
        molecules: all of them; those that RDKit refused as they were, without hydrogens.
        refused: which these are, (B,) bool.
    """

    molecules: Molecules
    refused: Tensor


def add_hydrogens(molecules: Molecules) -> WithHydrogens:
    """Hydrogens where the bonds and charges ask for them, placed by RDKit's `AddHs(addCoords=True)`.

    Bonds and charges of heavy atoms stay as they are. A molecule is refused where RDKit does not sanitise it, as with
    an atom of too many bonds.

    Raises:
        ValueError: molecules without bonds and charges.
    """
    from rdkit import Chem, rdBase

    molecules.graph()
    mols, refused = [], torch.zeros(len(molecules), dtype=torch.bool)
    with rdBase.BlockLogs():
        for b, mol in enumerate(to_rdkit(molecules.to("cpu"))):
            whole = Chem.Mol(mol)
            try:
                Chem.SanitizeMol(whole)
                Chem.Kekulize(whole, clearAromaticFlags=True)
                mols.append(Chem.AddHs(whole, addCoords=True))
            except Chem.MolSanitizeException:
                refused[b] = True
                mols.append(mol)
    made = from_rdkit(mols, elements=("H", *(e for e in molecules.elements if e != "H")))
    return WithHydrogens(made.to(molecules.positions.dtype).to(molecules.device), refused.to(molecules.device))
