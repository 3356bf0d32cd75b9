"""Molecules of your own as a data set: from a file, or made in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from canonkit.chemistry.bonds import perceive_bonds
from canonkit.chemistry.hydrogens import without_hydrogens
from canonkit.data.base import Dataset, Form
from canonkit.data.stored import content_hash
from canonkit.molecules import Molecules


@dataclass(frozen=True, eq=False)
class OwnMolecules(Dataset):
    """Molecules, of which a fixed shuffle takes one tenth for validation and one for tests.

    Args:
        molecules: at least ten.
        name: what tables and cards call them.
        provenance: where they are from.
        heavy: hydrogens were left out.
    """

    molecules: Molecules
    name: str = "own molecules"
    provenance: str = "given"
    heavy: bool = False

    def __post_init__(self):
        if len(self.molecules) < 10:
            raise ValueError(f"{self.name}: {len(self.molecules)} molecules are too few: give 10 or more")

    @cached_property
    def sha256(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        kept = {"positions": self.molecules.positions, "numbers": self.molecules.numbers, "mask": self.molecules.mask}
        return content_hash(kept | ({} if self.molecules.bonds is None else {"bonds": self.molecules.bonds}))

    @property
    def form(self) -> Form:
        return Form(self.molecules.elements, self.molecules.mask.shape[1], heavy=self.heavy)

    def part(self, name: str) -> Molecules:
        order = torch.randperm(len(self.molecules), generator=torch.Generator().manual_seed(0))
        tenth = len(order) // 10
        parts = order.split([len(order) - 2 * tenth, tenth, tenth])
        return self.molecules[parts[("train", "valid", "test").index(name)]]

    def with_graphs(self, *, progress: bool = False) -> OwnMolecules:
        """With bonds and charges; where they are not given, RDKit perceives them, and what it refuses is left out."""
        if self.molecules.bonds is not None and self.molecules.charges is not None:
            return self
        found, smiles = perceive_bonds(self.molecules, progress=progress)
        return replace(self, molecules=found[torch.tensor([s is not None for s in smiles])])

    def without_hydrogens(self, *, progress: bool = False) -> OwnMolecules:
        graphs = self if self.heavy else self.with_graphs(progress=progress)
        return graphs if self.heavy else replace(graphs, molecules=without_hydrogens(graphs.molecules), heavy=True)
