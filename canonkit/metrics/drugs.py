r"""How good drug-size molecules are, by the corrected protocol of GEOM-Drugs Revisited (Nikitin et al. 2025).

    stable      every atom's valency is in the table of `canonkit.metrics.valency`
    valid       RDKit sanitises it and it is one fragment; bonds and charges as they come, nothing repaired; not a
                flat drawing, and not without the hydrogens that it lacks
    sound       both; strain, PoseBusters and energies are of sound molecules whose bonds are not stretched
    stretched   a bonded distance is more than 40 % off the sum of the two covalent radii
    +-          standard deviation over five parts of the set, in its order

The stability of older papers stands beside it under the name `legacy`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from canonkit.chemistry.formats import to_rdkit
from canonkit.metrics.distributions import distribution_distances
from canonkit.metrics.energies import mmff_strain, posebusters_checks, xtb_strain
from canonkit.metrics.valency import valency_stability
from canonkit.molecules import AROMATIC, ATOMIC_NUMBERS, Molecules
from canonkit.tables import html_table

PARTS = 5
STRETCHED = 0.4


@dataclass(frozen=True)
class DrugEvaluation:
    """Fractions, kcal/mol and distances; `unmeasured` says for each number that is None why.

    Args:
        molecules: how many.
        stable, atom_stable: by the corrected valencies; valid, connected, sound: see the module's text.
        unique: distinct SMILES among the valid; novel: share of these that are not among the data's.
        stretched: share of molecules with a bond of an impossible length.
        legacy_stable, legacy_atom_stable: by the older rule, to be compared with older papers only.
        deviation: the standard deviations of stable, atom_stable, valid and sound over five parts.
        distances: to the data, see `distribution_distances`.
        mmff_strain, xtb_strain: medians, kcal/mol.
        posebusters: share that passes all checks; `checks` has the share of each.
        measured: of how many molecules each of the last three is.
        problems: RDKit's complaints, counted.
        protocol: how bonds were given and what was counted.
    """

    molecules: int
    stable: float
    atom_stable: float
    valid: float
    connected: float
    sound: float
    unique: float
    novel: float | None
    stretched: float
    legacy_stable: float
    legacy_atom_stable: float
    deviation: dict[str, float]
    distances: dict[str, float] | None
    mmff_strain: float | None
    posebusters: float | None
    xtb_strain: float | None
    protocol: str
    checks: dict[str, float] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict:
        return asdict(self)

    def _rows(self) -> list[tuple[str, str]]:
        def cell(name: str, form: str = "{:.2%}") -> str:
            if (value := getattr(self, name)) is None:
                return f"not measured: {self.unmeasured[name]}"
            text = form.format(value) + (f" ± {100 * self.deviation[name]:.2f}" if name in self.deviation else "")
            return text + (f" (of {self.measured[name]:,})" if name in self.measured else "")

        rows = [("molecules", f"{self.molecules:,}")]
        shares = ("stable", "atom_stable", "valid", "connected", "sound", "unique", "novel", "stretched")
        rows += [(name.replace("_", " "), cell(name)) for name in shares]
        rows += [(f"legacy {n}", cell(f"legacy_{n}".replace(" ", "_"))) for n in ("stable", "atom stable")]
        if self.distances is None:
            rows.append(("distances to the data", f"not measured: {self.unmeasured['distances']}"))
        units = {"lengths": " Å", "angles": "°", "torsions": "°"}
        rows += [(f"distance of {k}", f"{v:.4f}{units.get(k, '')}") for k, v in (self.distances or {}).items()]
        rows.append(("MMFF strain, median", cell("mmff_strain", "{:.1f} kcal/mol")))
        rows.append(("PoseBusters, all checks", cell("posebusters")))
        rows.append(("GFN2-xTB strain, median", cell("xtb_strain", "{:.1f} kcal/mol")))
        return rows

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self._rows()]
        if self.problems:
            lines.append("RDKit refused: " + ", ".join(f"{n:,} x {k}" for k, n in self.problems.items()))
        if failed := {k: v for k, v in self.checks.items() if v < 1}:
            lines.append("PoseBusters, passed: " + ", ".join(f"{k} {v:.1%}" for k, v in failed.items()))
        return "\n".join([*lines, f"protocol: {self.protocol}"])

    def _repr_html_(self) -> str:
        return html_table([self.protocol, ""], self._rows())


def evaluate_drugs(
    molecules: Molecules,
    train: Molecules | None = None,
    *,
    refused: Tensor | None = None,
    mmff: int = 1000,
    posebusters: int = 100,
    xtb: int = 10,
    progress: bool = False,
) -> DrugEvaluation:
    """All numbers of drug-size molecules with hydrogens, by their own bonds and charges.

    Args:
        molecules: with bonds and hydrogens.
        train: the data, in the same form, for novelty and distances.
        refused: molecules to which no hydrogens could be added, (B,) bool: they are neither stable nor valid.
        mmff, posebusters, xtb: how many sound molecules, the first, each of these looks at; the last two take seconds
            per molecule and need packages of the extra `chemistry`.

    Raises:
        ValueError: no molecules, molecules without bonds or without hydrogens.
    """
    molecules = molecules.to("cpu")
    corrected, legacy = valency_stability(molecules), valency_stability(molecules, "legacy")
    no = torch.zeros(len(molecules), dtype=torch.bool) if refused is None else refused.cpu()
    if not no.all() and not (molecules.numbers == 1).any() and not corrected.molecules.any():
        raise ValueError(
            "these molecules have no hydrogen atoms, which valencies count: "
            "canonkit.chemistry.hydrogens.add_hydrogens(x).molecules adds them by rule"
        )
    mols, smiles, whole, problems = _sanitised(molecules, progress)
    flat, bare = _flat(molecules), ~(molecules.numbers == 1).any(1) & ~corrected.molecules & ~no
    for which, what in ((flat, "are flat though an atom has four bonds"), (bare, "lack their hydrogen atoms")):
        if which.any():
            warnings.warn(f"{int(which.sum())} of {len(which)} molecules {what}: they are not valid", stacklevel=2)
    valid = torch.tensor([s is not None for s in smiles]) & whole & ~no & ~flat & ~bare
    stable, atoms = corrected.molecules & ~no, corrected.atoms & ~no[:, None]
    sound = valid & stable
    distinct = {s for s, ok in zip(smiles, valid.tolist(), strict=True) if ok}
    unmeasured: dict[str, str] = {}
    novel = distances = None
    if train is None:
        unmeasured |= dict.fromkeys(("novel", "distances"), "no data given (train=)")
    else:
        train = train.to("cpu")
        novel = len(distinct - set(_sanitised(train, progress)[1])) / max(1, len(distinct))
        distances = distribution_distances(molecules, train)
    stretched = _stretched(molecules)
    rows = (sound & ~stretched).nonzero()[:, 0].tolist()
    measured: dict[str, int] = {}

    def look(name: str, count: int, measure: Callable[[Sequence], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What `measure` finds of the first `count`; nothing, and the reason noted, where it cannot."""
        if not count or not rows:
            unmeasured[name] = "no sound molecule" if count else f"not asked for ({name.split('_')[0]}=0)"
            return {}
        try:
            found = measure([mols[b] for b in rows[:count]])
        except ModuleNotFoundError as error:
            unmeasured[name] = str(error)
            return {}
        found = {k: v[~np.isnan(v.astype(float))] for k, v in found.items()}
        measured[name] = min(map(len, found.values()))
        if not measured[name]:
            unmeasured[name] = f"it failed for all {len(rows[:count]):,} molecules"
            return {}
        return found

    strain = look("mmff_strain", mmff, lambda x: {"strain": mmff_strain(x, progress=progress)})
    checks = look("posebusters", posebusters, posebusters_checks)
    energy = look("xtb_strain", xtb, lambda x: {"strain": xtb_strain(x, progress=progress)})
    return DrugEvaluation(
        molecules=len(molecules),
        stable=float(stable.double().mean()),
        atom_stable=float(atoms.sum() / molecules.mask.sum()),
        valid=float(valid.double().mean()),
        connected=float(whole.double().mean()),
        sound=float(sound.double().mean()),
        unique=len(distinct) / max(1, int(valid.sum())),
        novel=novel,
        stretched=float(stretched.double().mean()),
        legacy_stable=float((legacy.molecules & ~no).double().mean()),
        legacy_atom_stable=float((legacy.atoms & ~no[:, None]).sum() / molecules.mask.sum()),
        deviation=_deviations(stable, atoms, molecules.sizes, valid, sound),
        distances=distances,
        mmff_strain=float(np.median(strain["strain"])) if strain else None,
        posebusters=float(np.all(list(checks.values()), axis=0).mean()) if checks else None,
        xtb_strain=float(np.median(energy["strain"])) if energy else None,
        protocol=_protocol(molecules),
        checks={k: float(v.mean()) for k, v in checks.items()},
        measured=measured,
        problems=problems | {k: int(v.sum()) for k, v in (("no hydrogens", no | bare), ("flat", flat)) if v.any()},
        unmeasured=unmeasured,
    )


def _protocol(molecules: Molecules) -> str:
    bonds = molecules.graph()[0]
    form = "aromatic bonds marked" if (bonds == AROMATIC).any() else "Kekulé form, no bond marked aromatic"
    return (
        f"GEOM-Drugs Revisited: bonds and charges as given ({form}); stable: valencies by (aromatic bonds, sum of the "
        "others); valid: one fragment that RDKit sanitises; ± over five parts; legacy: aromatic bonds count as single, "
        "older table"
    )


def _sanitised(molecules: Molecules, progress: bool) -> tuple[list, list[str | None], Tensor, dict[str, int]]:
    """RDKit's molecules, sanitised where that goes; their SMILES or None; which are one fragment; the complaints."""
    from rdkit import Chem, rdBase
    from tqdm.auto import tqdm

    mols, smiles, whole, problems = [], [], [], {}
    with rdBase.BlockLogs(), tqdm(total=len(molecules), unit="mol", desc="RDKit", disable=not progress) as bar:
        for k in range(0, len(molecules), 1024):
            for mol in to_rdkit(molecules[k : k + 1024]):
                bar.update()
                for bond in mol.GetBonds():  # an aromatic bond makes its atoms aromatic
                    if bond.GetBondType() == Chem.BondType.AROMATIC:
                        bond.SetIsAromatic(True)
                        bond.GetBeginAtom().SetIsAromatic(True)
                        bond.GetEndAtom().SetIsAromatic(True)
                whole.append(len(Chem.GetMolFrags(mol)) == 1)
                mols.append(mol)
                try:
                    Chem.SanitizeMol(mol)
                    smiles.append(Chem.MolToSmiles(mol))
                except (Chem.MolSanitizeException, ValueError) as error:
                    problems[type(error).__name__] = problems.get(type(error).__name__, 0) + 1
                    smiles.append(None)
    return mols, smiles, torch.tensor(whole), problems


def _flat(molecules: Molecules) -> Tensor:
    """Drawings instead of structures: all z alike, though an atom has four neighbours, (B,) bool."""
    z = molecules.centred().positions[..., 2]
    crowded = ((molecules.graph()[0] > 0).sum(-1) >= 4).any(1)
    return (z.abs().amax(1) < 1e-3) & crowded


def _stretched(molecules: Molecules) -> Tensor:
    """Which molecules have a bonded distance more than 40 % off the sum of the covalent radii, (B,) bool."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    radii = torch.tensor([table.GetRcovalent(ATOMIC_NUMBERS[e]) for e in molecules.elements])[molecules.types]
    b, i, j = molecules.graph()[0].triu(1).nonzero().unbind(1)
    d = (molecules.positions[b, i] - molecules.positions[b, j]).norm(dim=-1)
    wrong = (d / (radii[b, i] + radii[b, j]) - 1).abs() > STRETCHED
    return torch.zeros(len(molecules), dtype=torch.bool).index_put((b[wrong],), torch.tensor(True))


def _deviations(stable: Tensor, atoms: Tensor, sizes: Tensor, valid: Tensor, sound: Tensor) -> dict[str, float]:
    """Standard deviations over five parts; none of fewer molecules."""
    if len(stable) < PARTS:
        return {}
    parts = torch.arange(len(stable)).tensor_split(PARTS)
    shares = {
        name: [float(x[part].double().mean()) for part in parts]
        for name, x in (("stable", stable), ("valid", valid), ("sound", sound))
    } | {"atom_stable": [float(atoms[part].sum() / sizes[part].sum()) for part in parts]}
    return {name: float(np.std(values)) for name, values in shares.items()}
