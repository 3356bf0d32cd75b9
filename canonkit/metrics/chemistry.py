"""Validity, uniqueness, novelty with RDKit, by EDM's protocol.

valid: the molecule built from `bond_orders` passes RDKit's sanitisation, which adds hydrogen atoms where bonds are
missing; only its largest fragment counts. unique: distinct / valid. novel: share of the distinct that is not among the
training set's SMILES, built the same way.

There is another protocol, by generated bonds: the molecule is built from its own bonds and formal charges. It is valid
if it is one fragment, passes sanitisation, and no atom lacks a bond (no hydrogen atoms are added).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from canonkit.chemistry.formats import to_rdkit
from canonkit.chemistry.valencies import bond_orders
from canonkit.files import cache_folder, replacing
from canonkit.molecules import Molecules


@dataclass(frozen=True)
class Chemistry:
    """What RDKit says of a set of molecules.

    Args:
        smiles: one per molecule, None where it is not valid.
        valid, unique, novel: fractions; unique of the valid, novel of the unique (None if no reference was given).
        problems: how often each of RDKit's complaints was raised.
    """

    smiles: list[str | None] = field(repr=False)
    valid: float
    unique: float
    novel: float | None
    problems: dict[str, int]


def smiles_of(
    molecules: Molecules, *, generated: bool = False, progress: bool = False
) -> tuple[list[str | None], Counter]:
    """Canonical SMILES of each molecule, None where it is not valid; and the reasons, counted.

    `generated`: by the bonds and charges that the molecules come with instead of EDM's.

    Raises:
        ValueError: molecules without bonds, of which generated ones are asked for.
    """
    from rdkit import Chem, rdBase
    from tqdm.auto import tqdm

    if generated and (molecules.bonds is None or molecules.charges is None):
        raise ValueError("these molecules have no bonds and charges: judge them by distances (generated=False)")
    smiles, problems = [], Counter()
    size = 1024
    with rdBase.BlockLogs(), tqdm(total=len(molecules), unit="mol", desc="RDKit", disable=not progress) as bar:
        for k in range(0, len(molecules), size):
            part = molecules[k : k + size].to("cpu")
            for mol in to_rdkit(part if generated else part.with_(bonds=bond_orders(part), charges=None)):
                bar.update()
                try:
                    smiles.append(_complete_smiles(mol) if generated else _largest_smiles(mol))
                except (Chem.MolSanitizeException, ValueError) as error:
                    problems[type(error).__name__] += 1
                    smiles.append(None)
    return smiles, problems


class FragmentsError(ValueError):
    """A molecule of several fragments."""


class RadicalError(ValueError):
    """A molecule with an atom that lacks a bond."""


def _largest_smiles(mol) -> str:
    from rdkit import Chem

    Chem.SanitizeMol(mol)
    return Chem.MolToSmiles(max(Chem.GetMolFrags(mol, asMols=True), key=lambda m: m.GetNumAtoms()))


def _complete_smiles(mol) -> str:
    from rdkit import Chem

    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)
    for bond in mol.GetBonds():  # an aromatic bond makes its atoms aromatic
        if bond.GetBondType() == Chem.BondType.AROMATIC:
            bond.SetIsAromatic(True)
            bond.GetBeginAtom().SetIsAromatic(True)
            bond.GetEndAtom().SetIsAromatic(True)
    Chem.SanitizeMol(mol)
    if len(Chem.GetMolFrags(mol)) > 1:
        raise FragmentsError
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        raise RadicalError
    return Chem.MolToSmiles(mol)


def chemistry(
    molecules: Molecules,
    known: Iterable[str] | None = None,
    *,
    generated: bool = False,
    refused: Tensor | None = None,
    progress: bool = False,
) -> Chemistry:
    """Validity, uniqueness and, against the SMILES in `known`, novelty; `generated` as for `smiles_of`.

    Molecules `refused`, (B,) bool, are those to which no hydrogens could be added: they are not valid.
    """
    if not len(molecules):
        raise ValueError("no molecules given to score")
    if refused is None:
        refused = torch.zeros(len(molecules), dtype=torch.bool)
    found, problems = smiles_of(molecules[~refused], generated=generated, progress=progress)
    if refused.any():
        problems["no hydrogens"] = int(refused.sum())
    rest = iter(found)
    smiles = [None if no else next(rest) for no in refused.tolist()]
    valid = [s for s in smiles if s is not None]
    distinct = set(valid)
    novel = None
    if known is not None:
        novel = len(distinct - set(known)) / len(distinct) if distinct else 0.0
    unique = len(distinct) / len(valid) if valid else 0.0
    return Chemistry(smiles, len(valid) / len(smiles), unique, novel, dict(problems))


def known_smiles(molecules: Molecules, *, generated: bool = False, progress: bool = True) -> set[str]:
    """The SMILES of a training set, built as above once and cached under the hash of the molecules."""
    digest = hashlib.sha256(molecules.positions.numpy(force=True).tobytes())
    digest.update(molecules.numbers.numpy(force=True).tobytes())
    if generated:
        digest.update(molecules.graph()[0].to(torch.int8).numpy(force=True).tobytes())
    path = cache_folder() / f"smiles-{digest.hexdigest()[:16]}.txt"
    try:
        first, *smiles = path.read_text(encoding="utf-8").splitlines()
        if first == _mark(smiles):
            return set(smiles)
    except (FileNotFoundError, ValueError):
        pass
    smiles = sorted({s for s in smiles_of(molecules, generated=generated, progress=progress)[0] if s is not None})
    with replacing(path) as temporary:
        temporary.write_text("\n".join([_mark(smiles), *smiles]), encoding="utf-8")
    return set(smiles)


def _mark(lines: list[str]) -> str:
    """SHA-256 of the lines of a cache file, its first line."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
