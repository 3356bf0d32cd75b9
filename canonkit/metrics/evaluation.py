"""All of EDM's metrics of a set of molecules at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from canonkit.chemistry.valencies import VALENCE
from canonkit.metrics.chemistry import chemistry
from canonkit.metrics.stability import stability
from canonkit.molecules import Molecules
from canonkit.tables import html_table

DRUGS = "evaluate_drugs, or canonkit evaluate FILE --drugs, counts them by their own bonds"


@dataclass(frozen=True)
class Evaluation:
    """Fractions; `unique` of the valid, `novel` of the unique (None where no training set was given).

    `protocol` says where the bonds come from. Numbers under different protocols cannot be compared. `without_rule`
    molecules have elements that EDM's rule does not know; they are not among the `molecules` that were counted.
    """

    molecules: int
    molecule_stable: float
    atom_stable: float
    valid: float
    unique: float
    novel: float | None
    problems: dict[str, int] = field(default_factory=dict)
    protocol: str = "EDM: bonds from distances"
    without_rule: int = 0

    def as_dict(self) -> dict:
        return asdict(self)

    def _rows(self):
        shares = ("molecule_stable", "atom_stable", "valid", "unique", "novel")
        values = [("–" if (v := getattr(self, s)) is None else f"{v:.2%}") for s in shares]
        return [("molecules", f"{self.molecules:,}"), *zip([s.replace("_", " ") for s in shares], values, strict=True)]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self._rows()]
        if self.without_rule:
            lines.append(f"not counted: {self.without_rule:,} with elements that EDM's rule does not know: {DRUGS}")
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

    Molecules with elements other than H, C, N, O, F have no rule, and are counted apart. Molecules `refused`, (B,)
    bool, are those to which `add_hydrogens` could add none: they count as not stable and not valid. So do those that
    lack hydrogens, if no molecule has any: RDKit would silently fill them in.

    Raises:
        ValueError: no molecules, or none that EDM's rule knows.
    """
    if not len(molecules):
        raise ValueError("no molecules given to score")
    ruled = torch.tensor([e in VALENCE for e in molecules.elements], device=molecules.device)
    known_elements = (ruled[molecules.types] | ~molecules.mask).all(1)
    if not known_elements.any():
        other = next(e for e in molecules.elements if e not in VALENCE)
        raise ValueError(
            f"EDM's rule knows {', '.join(VALENCE)}, and every molecule has others, such as {other}: {DRUGS}"
        )
    apart = int((~known_elements).sum())
    if apart:
        x = molecules[known_elements].trim()
        molecules = Molecules.from_arrays(x.positions, x.numbers)
        refused = None if refused is None else refused[known_elements]
    stable = stability(molecules, refused)
    bare = ~((molecules.numbers == 1) & molecules.mask).any(1) & ~stable.molecules
    if (whole_set := bool((bare | stable.molecules).all())) and bare.any():
        refused = bare if refused is None else refused | bare
    if bare.any():
        so = "they count as not valid" if whole_set else "their validity says nothing"
        warnings.warn(
            f"{int(bare.sum())} of {len(molecules)} molecules have no hydrogen atoms, which valencies count; {so}: add "
            "them with canonkit.chemistry.hydrogens.add_hydrogens(x).molecules",
            stacklevel=2,
        )
    rdkit = chemistry(molecules, known, refused=refused, progress=progress)
    return Evaluation(
        len(molecules),
        stable.molecule_stable,
        stable.atom_stable,
        rdkit.valid,
        rdkit.unique,
        rdkit.novel,
        rdkit.problems,
        without_rule=apart,
    )
