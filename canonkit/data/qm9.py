"""QM9: 130,831 small organic molecules of H, C, N, O, F with relaxed positions (Ramakrishnan et al. 2014).

The numbers come from the CSV files inside the installed qm9pack wheel (133,885 molecules less the 3,054 that failed the
authors' consistency check), are parsed once and kept in a cache file whose content hash is checked at every load.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canonkit.data.stored import content_hash, installed_files, load_stored, store
from canonkit.extras import require
from canonkit.files import cache_folder
from canonkit.molecules import ATOMIC_NUMBERS, ELEMENTS, Molecules

COUNT = 130_831
ATOMS = 2_359_210
QM9PACK = "1.0.3"
# Of the tensors parsed from qm9pack 1.0.3.
SHA256 = "ea30f52763660e7223e14e3f0ae0e14db8d784d7f92267b66f550914e3a7f238"
LONGEST = 29
REINSTALL = f"reinstall with `pip install --force-reinstall --no-deps qm9pack=={QM9PACK}`"


@dataclass(frozen=True, eq=False)
class QM9:
    """The data set: all molecules, their numbers in GDB-9, and EDM's split.

    Args:
        molecules: all 130,831, in order of `index`.
        index: number in GDB-9, counted from 1, (M,).
        sha256: hash of the content, 64 hexadecimal digits.
        known: where bonds and charges can be relied on, (M,) bool, see `with_bonds`; None where there are none.
    """

    molecules: Molecules
    index: Tensor
    sha256: str
    known: Tensor | None = None

    @cached_property
    def split(self) -> dict[str, Tensor]:
        """EDM's split: indices into `molecules` for train (100,000), valid (17,748) and test (13,083).

        With bonds those that are not known are left out.
        """
        order = torch.from_numpy(np.random.RandomState(0).permutation(len(self.index)))  # noqa: NPY002 (EDM's stream)
        n_train, n_test = 100_000, int(0.1 * len(order))
        n_valid = len(order) - n_train - n_test
        parts = order.split([n_train, n_valid, n_test])
        if self.known is not None:
            parts = [rows[self.known[rows]] for rows in parts]
        return dict(zip(("train", "valid", "test"), parts, strict=True))

    def part(self, name: str) -> Molecules:
        """The molecules of 'train', 'valid' or 'test'."""
        return self.molecules[self.split[name]]

    def __repr__(self) -> str:
        return f"QM9({self.molecules}, sha256 {self.sha256[:12]})"


def load_qm9(path: str | Path | None = None, *, progress: bool = True) -> QM9:
    """QM9 from the cache, parsed first where it is missing or damaged.

    Args:
        path: none for the installed qm9pack wheel, or your own `gdb9.sdf` or PyTorch Geometric's processed
            `data_v3.pt`; those hold the same molecules, rounded differently, so their hash differs.

    Raises:
        ValueError: wrong count, truncated file, unknown element, NaN or coinciding atoms; the cache stays as it was.
        FileNotFoundError: qm9pack or the named file is missing.
    """
    if path is None:
        cache, parse = cache_folder() / "qm9.safetensors", _parse_qm9pack
    else:
        source = Path(path).resolve()
        if not source.is_file():
            raise FileNotFoundError(f"there is no file {source}: give gdb9.sdf or PyG's processed data_v3.pt")
        key = hashlib.sha256(f"{source} {source.stat().st_size} {source.stat().st_mtime_ns}".encode()).hexdigest()
        cache = cache_folder() / f"qm9-{key[:16]}.safetensors"

        def parse(progress):
            return (_parse_sdf if source.suffix == ".sdf" else _parse_pyg)(source, progress)

    found = load_stored(cache)
    if found is None or (path is None and found[1]["sha256"] != SHA256):
        stored = parse(progress)
        _check(stored, "qm9pack" if path is None else str(path))
        if path is None and (wrong := content_hash(stored)) != SHA256:
            raise ValueError(f"qm9pack's content hash is {wrong[:12]}, expected {SHA256[:12]}: {REINSTALL}")
        found = stored, store(cache, stored)
    stored, about = found
    return QM9(_pad(stored), stored["index"].long(), about["sha256"])


# -- the ragged form: positions (A, 3), numbers (A,), sizes (M,), index (M,) ------------------------------------------


def _pad(stored: dict[str, Tensor]) -> Molecules:
    sizes = stored["sizes"].long()
    mask = torch.arange(LONGEST) < sizes[:, None]
    table = torch.zeros(max(ATOMIC_NUMBERS.values()) + 1, dtype=torch.long)
    table[[ATOMIC_NUMBERS[e] for e in ELEMENTS]] = torch.arange(len(ELEMENTS))
    positions = torch.zeros(*mask.shape, 3)
    positions[mask] = stored["positions"]
    types = torch.zeros(mask.shape, dtype=torch.long)
    types[mask] = table[stored["numbers"].long()]
    return Molecules(positions, types, mask)


def _check(stored: dict[str, Tensor], source: str) -> None:
    remedy = REINSTALL if source == "qm9pack" else "get the file anew"
    count, atoms = len(stored["sizes"]), len(stored["numbers"])
    if count != COUNT or atoms != ATOMS:
        raise ValueError(
            f"{source} has {count:,} molecules with {atoms:,} atoms, expected {COUNT:,} with {ATOMS:,}: {remedy}"
        )
    known = torch.isin(stored["numbers"].long(), torch.tensor([ATOMIC_NUMBERS[e] for e in ELEMENTS]))
    if not known.all():
        raise ValueError(
            f"{source} has an atom of number {int(stored['numbers'][~known][0])}, not H, C, N, O, F: {remedy}"
        )
    try:
        _pad(stored).check()
    except ValueError as error:
        raise ValueError(f"{source}: {error}: {remedy}") from error


def _ragged(positions: list, numbers: list, index: list) -> dict[str, Tensor]:
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


def _parse_qm9pack(progress: bool) -> dict[str, Tensor]:
    from tqdm.auto import tqdm

    positions, numbers, index, files = [], [], [], qm9pack_files()
    with tqdm(total=COUNT, desc="QM9: parsing once", unit="mol", disable=not progress) as bar:
        for path in files:
            with open(path, newline="") as file:
                for row in csv.DictReader(file):
                    try:
                        symbols = row["Elements"].strip("[]").replace("'", "").split(",")
                        z = np.array([ATOMIC_NUMBERS[s.strip()] for s in symbols])
                        flat = row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")
                        x = np.array(flat, dtype=np.float64).reshape(len(z), 3)
                        index.append(int(row["Index"]))
                    except KeyError as error:
                        raise ValueError(
                            f"{path}, molecule {row.get('Index')}: unknown {error}: {REINSTALL}"
                        ) from error
                    except (ValueError, AttributeError, TypeError) as error:
                        raise ValueError(f"{path} is truncated at molecule {len(index) + 1:,}: {REINSTALL}") from error
                    positions.append(x)
                    numbers.append(z)
                    bar.update()
    return _ragged(positions, numbers, index)


def _parse_sdf(path: Path, progress: bool) -> dict[str, Tensor]:
    """gdb9.sdf: 133,885 records titled gdb_1, gdb_2, ...; the uncharacterised ones are left out by number."""
    from rdkit import Chem, rdBase
    from tqdm.auto import tqdm

    kept = set(load_qm9(progress=progress).index.tolist())
    positions, numbers, index = [], [], []
    with rdBase.BlockLogs():
        records = Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)
        for k, mol in enumerate(tqdm(records, desc=path.name, unit="mol", disable=not progress)):
            if mol is None:
                raise ValueError(f"{path}: record {k + 1:,} is truncated or damaged: get the file anew")
            title = mol.GetProp("_Name").removeprefix("gdb_") or str(k + 1)
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
    return _ragged(positions, numbers, index)


def _parse_pyg(path: Path, progress: bool) -> dict[str, Tensor]:
    """PyG's processed file: (tensors of all molecules, slices, class), read without unpickling any code."""
    require("torch_geometric")
    from torch_geometric.data import Data

    try:
        with torch.serialization.safe_globals([Data]):
            data, slices, *_ = torch.load(path, weights_only=True, map_location="cpu")
        ends = slices["pos"]
        positions, numbers = data["pos"].float(), data["z"].to(torch.uint8)
    except Exception as error:  # torch, zipfile and pickle each have their own way to say it
        raise ValueError(f"{path} is no processed QM9 of PyTorch Geometric ({error}): give data_v3.pt") from error
    index = data["idx"] + 1 if "idx" in data else torch.arange(len(ends) - 1)
    return {
        "positions": positions.contiguous(),
        "numbers": numbers.contiguous(),
        "sizes": ends.diff().to(torch.uint8),
        "index": index.to(torch.int32),
    }
