"""All of EDM's metrics of a set of molecules at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from torch import Tensor

from canonkit.metrics.chemistry import chemistry
from canonkit.metrics.stability import stability
from canonkit.molecules import Molecules
from canonkit.tables import html_table


@dataclass(frozen=True)
class Evaluation:
    """Fractions; `unique` of the valid, `novel` of the unique (None where no training set was given).

    `protocol` says where the bonds come from. Numbers under different protocols cannot be compared.
    """

    molecules: int
    molecule_stable: float
    atom_stable: float
    valid: float
    unique: float
    novel: float | None
    problems: dict[str, int] = field(default_factory=dict)
    protocol: str = "EDM: bonds from distances"

    def as_dict(self) -> dict:
        return asdict(self)

    def _rows(self):
        shares = ("molecule_stable", "atom_stable", "valid", "unique", "novel")
        values = [("–" if (v := getattr(self, s)) is None else f"{v:.2%}") for s in shares]
        return [("molecules", f"{self.molecules:,}"), *zip([s.replace("_", " ") for s in shares], values, strict=True)]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self._rows()]
        if self.problems:
            lines.append("RDKit refused: " + ", ".join(f"{n:,} x {k}" for k, n in self.problems.items()))
        return "\n".join([*lines, f"protocol: {self.protocol}"])

    def _repr_html_(self) -> str:
        return html_table([self.protocol, ""], self._rows())


def evaluate(
    molecules: Molecules,
    known: Iterable[str] | None = None,
    *,
    refused: Tensor | None = None,
    progress: bool = False,
) -> Evaluation:
    """Stability, validity, uniqueness and, against the SMILES in `known`, novelty.

    Molecules `refused`, (B,) bool, are those to which `add_hydrogens` could add none: they count as not stable and not
    valid.
    """
    stable, rdkit = stability(molecules, refused), chemistry(molecules, known, refused=refused, progress=progress)
    return Evaluation(
        len(molecules),
        stable.molecule_stable,
        stable.atom_stable,
        rdkit.valid,
        rdkit.unique,
        rdkit.novel,
        rdkit.problems,
    )
