r"""Strain: how far a molecule's geometry lies above the nearest minimum of an energy, kcal/mol.

    strain(x) = E(x) - E(x*),   x* the minimum that is reached from x,   E by MMFF94 or GFN2-xTB

PoseBusters (Buttenschoen et al. 2024) asks simple questions instead: lengths and angles of bonds, clashes, flat rings
and double bonds, the energy beside that of other conformers. All take sanitised RDKit molecules with hydrogens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canonkit.extras import require

BOHR, HARTREE = 0.529177210903, 627.5094740631  # Å; kcal/mol
STEPS = 1000  # of a relaxation


def mmff_strain(mols: Sequence, *, progress: bool = False) -> np.ndarray:
    """MMFF94 strain of each molecule, kcal/mol; NaN where MMFF lacks parameters or does not come to rest."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdForceFieldHelpers as fields
    from tqdm.auto import tqdm

    strain = np.full(len(mols), np.nan)
    with rdBase.BlockLogs():
        for k, mol in enumerate(tqdm(mols, desc="MMFF", unit="mol", disable=not progress)):
            kinds = fields.MMFFGetMoleculeProperties(mol)
            if kinds is None:
                continue
            moved = Chem.Mol(mol)  # must outlive the field, which holds on to its positions
            field = fields.MMFFGetMoleculeForceField(moved, kinds)
            field.Initialize()
            before = field.CalcEnergy()
            if field.Minimize(maxIts=STEPS) == 0:
                strain[k] = before - field.CalcEnergy()
    return strain


def xtb_strain(mols: Sequence, *, progress: bool = False) -> np.ndarray:
    """GFN2-xTB strain of each molecule, kcal/mol; NaN where a calculation does not converge. Seconds per molecule.

    Raises:
        ModuleNotFoundError: tblite is not installed.
    """
    require("tblite")
    from scipy.optimize import minimize
    from tqdm.auto import tqdm

    strain = np.full(len(mols), np.nan)
    for k, mol in enumerate(tqdm(mols, desc="GFN2-xTB", unit="mol", disable=not progress)):
        energy = _gfn2(mol)
        x = mol.GetConformer().GetPositions() / BOHR
        try:
            before = energy(x.ravel())[0]
            # xtb's own limit on the gradient of a relaxation, 1e-3 Hartree per Bohr
            rest = minimize(energy, x.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "gtol": 1e-3})
        except RuntimeError:  # no self-consistent charges
            continue
        if rest.success:
            strain[k] = HARTREE * (before - rest.fun)
    return strain


def _gfn2(mol):
    """x (3 n,) in Bohr -> energy in Hartree and its gradient (3 n,)."""
    from tblite.interface import Calculator  # pyright: ignore[reportMissingImports]

    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    charge = sum(atom.GetFormalCharge() for atom in mol.GetAtoms())
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    start = mol.GetConformer().GetPositions() / BOHR
    calculator = Calculator("GFN2-xTB", numbers, start, charge=charge, uhf=unpaired)
    calculator.set("verbosity", 0)
    last = None

    def energy(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last
        calculator.update(positions=x.reshape(-1, 3))
        last = calculator.singlepoint(last)
        return float(last.get("energy")), last.get("gradient").ravel()

    return energy


def posebusters_checks(mols: Sequence) -> dict[str, np.ndarray]:
    """PoseBusters' checks of single molecules: name -> which pass, (B,) bool. Seconds per molecule.

    Raises:
        ModuleNotFoundError: PoseBusters is not installed.
    """
    require("posebusters")
    from posebusters import PoseBusters  # pyright: ignore[reportMissingImports]
    from rdkit import rdBase

    with rdBase.BlockLogs():
        table = PoseBusters("mol").bust(list(mols))
    return {str(name): table[name].fillna(False).to_numpy(dtype=bool) for name in table.columns}
