"""Molecules of your own as a data set: from a file, or made in memory."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from canonkit.chemistry.bonds import perceive_bonds
from canonkit.chemistry.hydrogens import without_hydrogens
from canonkit.data.base import Dataset, Form
from canonkit.data.stored import content_hash
from canonkit.molecules import Molecules


@dataclass(frozen=True, eq=False)
class OwnMolecules(Dataset):
    """Molecules, of which a fixed shuffle takes about one tenth for validation and one for tests.

    Conformers of one molecule, by the graph of its heavy atoms, are in the same part.

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
        return self.molecules[self.split[name]]

    @property
    def keys(self) -> Tensor:
        """What conformers of one molecule have in common, a number each, (M,)."""
        return graph_keys(self.molecules)

    @cached_property
    def split(self) -> dict[str, Tensor]:
        """Rows of the parts; fewer than ten different molecules are shared out conformer by conformer."""
        keys = self.keys
        different = torch.unique(keys)
        if len(different) < 10:
            keys = different = torch.arange(len(keys))
        shuffled = different[torch.randperm(len(different), generator=torch.Generator().manual_seed(0))]
        tenth = len(different) // 10
        parts = shuffled.split([len(different) - 2 * tenth, tenth, tenth])
        return {k: torch.isin(keys, v).nonzero()[:, 0] for k, v in zip(("train", "valid", "test"), parts, strict=True)}

    def with_graphs(self, *, progress: bool = False) -> Self:
        """With bonds and charges; where they are not given, RDKit perceives them, and what it refuses is left out."""
        if self.molecules.bonds is not None and self.molecules.charges is not None:
            return self
        found, smiles = perceive_bonds(self.molecules, progress=progress)
        return replace(self, molecules=found[torch.tensor([s is not None for s in smiles])])

    def without_hydrogens(self, *, progress: bool = False) -> Self:
        graphs = self if self.heavy else self.with_graphs(progress=progress)
        return graphs if self.heavy else replace(graphs, molecules=without_hydrogens(graphs.molecules), heavy=True)


def graph_keys(molecules: Molecules, rounds: int = 6) -> Tensor:
    """A number for each molecule, (B,), that is the same for conformers: a hash of the graph of its heavy atoms.

    Weisfeiler and Leman's refinement of atomic numbers, in integers; bonded are heavy atoms nearer than 1.3 times the
    sum of their covalent radii. The order of atoms and the pose change nothing, nor do hydrogens.
    """
    from rdkit.Chem import GetPeriodicTable

    table = GetPeriodicTable()
    radii = torch.tensor([table.GetRcovalent(e) for e in molecules.elements], dtype=torch.float64)
    keys = []
    for x in (molecules[k : k + 1024].to("cpu") for k in range(0, len(molecules), 1024)):
        heavy = x.mask & (x.numbers != 1)
        r = radii[x.types]
        near = x.to(torch.float64).distances() < 1.3 * (r[:, :, None] + r[:, None])
        bonded = (near & heavy[:, :, None] & heavy[:, None]).long()  # an atom with itself too, which does not matter
        labels = x.numbers.long() * heavy
        for _ in range(rounds):
            labels = _mixed(labels + 31 * (bonded @ _mixed(labels)[..., None])[..., 0]) * heavy
        keys.append(_mixed(labels).mul(heavy).sum(1))
    return torch.cat(keys)


def _mixed(x: Tensor) -> Tensor:
    """Integers spread over 62 bits; products wrap around."""
    x = (x ^ (x >> 31)) * 0x7FB5D329728EA185
    x = (x ^ (x >> 27)) * 0x1DADEF4BC2DD44D
    return (x ^ (x >> 33)) & (2**62 - 1)
