"""A data set by one word: its name, a file, or molecules in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from canonkit.chemistry.formats import SUFFIXES, from_pyg, from_rdkit, read
from canonkit.data.base import Dataset
from canonkit.data.ccd import load_ccd
from canonkit.data.geom import load_geom
from canonkit.data.own import OwnMolecules
from canonkit.data.qm9 import load_qm9
from canonkit.data.rotmnist import load_rotmnist
from canonkit.molecules import Molecules
from canonkit.names import choose


def load_ligands(*, progress: bool = True) -> OwnMolecules:
    """Inhibitors of EGFR (365) and c-Met (24) and of CDK2 (47) in the poses that come with RDKit's own package.

    RDKit/Contrib: PBF's egfr.sdf, FreeWilson's cmet_ligands.sdf, Fastcluster's cdk2.sdf. Those that are flat or have no
    hydrogens are left out.
    """
    import rdkit

    folder = Path(rdkit.__file__).parent / "Contrib"
    files = ("PBF/testData/egfr.sdf", "FreeWilson/data/cmet_ligands.sdf", "Fastcluster/testdata/cdk2.sdf")
    mols = [mol for file in files for mol in _posed(folder / file)]
    return OwnMolecules(from_rdkit(mols), "ligands", "EGFR, c-Met and CDK2 ligands of RDKit's Contrib folder")


def _posed(path: Path) -> list:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mols = [mol for mol in Chem.SDMolSupplier(str(path), removeHs=False) if mol is not None]

    def whole(mol) -> bool:
        flat = abs(mol.GetConformer().GetPositions()[:, 2]).max() < 0.1
        return not flat and any(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms())

    return [mol for mol in mols if whole(mol)]


def load_qm9_heavy(*, progress: bool = True) -> Dataset:
    """QM9 without hydrogens, with its bonds."""
    return load_qm9(progress=progress).without_hydrogens(progress=progress)


NAMED: dict[str, Callable[..., Dataset]] = {
    "qm9": load_qm9,
    "qm9-heavy": load_qm9_heavy,
    "ccd": load_ccd,
    "ccd-heavy": partial(load_ccd, heavy=True),
    "ligands": load_ligands,
    "rotmnist": load_rotmnist,
}


def dataset(word: Any, *, progress: bool = True) -> Dataset:
    """The data set that `word` means.

    Args:
        word: "qm9", "qm9-heavy", "ccd", "ccd-heavy", "ligands", "rotmnist", or "geom-drugs:PATH" (see
            `canonkit.data.geom`); the path of an .sdf, .xyz or .npz file; `Molecules`; a list of RDKit molecules with a
            conformer; a PyTorch Geometric data set; or a data set, which is given back.
        progress: show bars.

    Raises:
        FileNotFoundError, ValueError: naming what is no data set, and what would be.
    """
    if isinstance(word, Dataset):
        return word
    if isinstance(word, Molecules):
        return OwnMolecules(word)
    if isinstance(word, (str, Path)):
        name, _, path = str(word).partition(":")
        if name.lower() == "geom-drugs":
            if not path:
                raise ValueError("GEOM-Drugs is not part of any package: give your file or folder, geom-drugs:PATH")
            return load_geom(path, progress=progress)
        if str(word).lower() in NAMED:
            return NAMED[str(word).lower()](progress=progress)
        if Path(word).suffix.lower() in SUFFIXES:
            return OwnMolecules(read(word, progress=progress), Path(word).name, "a file")
        raise ValueError(
            f"no data set is called {str(word)!r}: {choose(str(word), NAMED)}; or give a {', '.join(SUFFIXES)} file"
        )
    try:
        first = word[0]
    except (TypeError, KeyError, IndexError):
        raise ValueError(f"a {type(word).__name__} is no data set: give molecules, a file or a name") from None
    if hasattr(first, "GetConformer"):
        return OwnMolecules(from_rdkit(word), "own molecules", "RDKit molecules")
    if hasattr(first, "pos"):
        return OwnMolecules(from_pyg(word), "own molecules", "a PyTorch Geometric data set")
    raise ValueError(f"a list of {type(first).__name__} is no data set: give RDKit molecules with a conformer")
