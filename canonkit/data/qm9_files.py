"""The files that QM9 is read from, as ragged tensors: positions (A, 3), numbers (A,), sizes (M,), index (M,)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canonkit.data.stored import installed_files
from canonkit.extras import require
from canonkit.files import in_short
from canonkit.molecules import ATOMIC_NUMBERS

COUNT = 130_831
GDB9 = 133_885  # molecules in GDB-9, of which these are left
QM9PACK = "1.0.3"
REINSTALL = f"reinstall with `pip install --force-reinstall --no-deps qm9pack=={QM9PACK}`"


def _ragged(positions: list, numbers: list, index: list, path: Path) -> dict[str, Tensor]:
    if not index:
        raise ValueError(f"{path} holds no molecule of QM9: get it anew")
    return {
        "positions": torch.from_numpy(np.concatenate(positions).astype(np.float32)),
        "numbers": torch.from_numpy(np.concatenate(numbers).astype(np.uint8)),
        "sizes": torch.tensor([len(z) for z in numbers], dtype=torch.uint8),
        "index": torch.tensor(index, dtype=torch.int32),
    }


def qm9pack_files() -> list[Path]:
    """The CSV files inside the installed wheel.

    Raises:
        FileNotFoundError: it is not installed.
    """
    # The package is not imported: it needs pkg_resources, which setuptools no longer has.
    files = installed_files("qm9pack", "qm9pack/data/qm9_part*.csv")
    if not files:
        raise FileNotFoundError(f"the data files of qm9pack are not installed: `pip install qm9pack=={QM9PACK}`")
    return sorted(files)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of one of the wheel's CSV files."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): {REINSTALL}") from error


def parse_qm9pack(progress: bool) -> dict[str, Tensor]:
    from tqdm.auto import tqdm

    positions, numbers, index, files = [], [], [], qm9pack_files()
    with tqdm(total=COUNT, desc="QM9: parsing once", unit="mol", disable=not progress) as bar:
        for path in files:
            for row in _rows(path):
                try:
                    symbols = row["Elements"].strip("[]").replace("'", "").split(",")
                    z = np.array([ATOMIC_NUMBERS[s.strip()] for s in symbols])
                    flat = row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")
                    x = np.array(flat, dtype=np.float64).reshape(len(z), 3)
                    number = int(row["Index"])
                    if not 0 < number <= GDB9:
                        raise ValueError(f"no molecule has the number {number}")
                    index.append(number)
                except KeyError as error:
                    raise ValueError(f"{path}, molecule {row.get('Index')}: unknown {error}: {REINSTALL}") from error
                except (ValueError, AttributeError, TypeError) as error:
                    raise ValueError(f"{path} is truncated at molecule {len(index) + 1:,}: {REINSTALL}") from error
                positions.append(x)
                numbers.append(z)
                bar.update()
    return _ragged(positions, numbers, index, files[0])


def parse_sdf(path: Path, kept: set[int], progress: bool) -> dict[str, Tensor]:
    """gdb9.sdf: 133,885 records titled gdb_1, gdb_2, ..., of which the numbers in `kept` are taken."""
    from rdkit import Chem, rdBase
    from tqdm.auto import tqdm

    positions, numbers, index = [], [], []
    with rdBase.BlockLogs():
        records = Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)
        for k, mol in enumerate(tqdm(records, desc=path.name, unit="mol", disable=not progress)):
            if mol is None or not mol.GetNumConformers():
                raise ValueError(f"{path}: record {k + 1:,} is truncated or damaged: get the file anew")
            try:
                title = mol.GetProp("_Name").removeprefix("gdb_") or str(k + 1)
            except UnicodeDecodeError:
                title = "?"
            if not title.isdecimal():
                raise ValueError(
                    f"{path}: record {k + 1:,} is titled {title!r}, not gdb_1, gdb_2, ...: give gdb9.sdf, or read "
                    "other molecules with canonkit.read"
                )
            number = int(title)
            if number in kept:
                positions.append(mol.GetConformer().GetPositions())
                numbers.append(np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]))
                index.append(number)
    return _ragged(positions, numbers, index, path)


def parse_pyg(path: Path, progress: bool) -> dict[str, Tensor]:
    """PyG's processed file: (tensors of all molecules, slices, class), read without unpickling any code."""
    require("torch_geometric")
    from torch_geometric.data import Data

    try:
        with torch.serialization.safe_globals([Data]):
            data, slices, *_ = torch.load(path, weights_only=True, map_location="cpu")
        ends = slices["pos"]
        positions, numbers = data["pos"].float(), data["z"].to(torch.uint8)
    except Exception as error:  # torch, zipfile and pickle each have their own way to say it
        raise ValueError(
            f"{path} is no processed QM9 of PyTorch Geometric ({in_short(error)}): give data_v3.pt"
        ) from None
    index = data["idx"] + 1 if "idx" in data else torch.arange(len(ends) - 1)
    return {
        "positions": positions.contiguous(),
        "numbers": numbers.contiguous(),
        "sizes": ends.diff().to(torch.uint8),
        "index": index.to(torch.int32),
    }


def stated_smiles(index: set[int]) -> dict[int, str]:
    """The data set's SMILES of molecules by number in GDB-9, canonical and without stereochemistry."""
    from rdkit import Chem

    found = {}
    for path in qm9pack_files():
        for row in _rows(path):
            if (number := int(row["Index"])) in index:
                mol = Chem.MolFromSmiles(row["SMILES"])
                if mol is None:
                    raise ValueError(f"{path}: SMILES {row['SMILES']!r} of molecule {number} is damaged: {REINSTALL}")
                found[number] = Chem.MolToSmiles(mol, isomericSmiles=False)
    return found
