"""Molecules to and from RDKit, PyTorch Geometric and files: SDF, XYZ, npz. Images to files: PNG, npz.

Coordinates are Å everywhere. Bond orders are 1, 2, 3 and, as in MDL files, 4 for aromatic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from canonkit.files import replacing
from canonkit.molecules import ATOMIC_NUMBERS, SYMBOLS, Molecules

SUFFIXES = (".sdf", ".xyz", ".npz")
IMAGE_SUFFIXES = (".png", ".npz")


def read(path: str | Path, *, elements: Sequence[str] | None = None) -> Molecules:
    """Molecules from an .sdf, .xyz (one or many frames) or .npz file.

    An npz holds `positions` (B, N, 3) in Å and `numbers` (B, N), atomic numbers with 0 for padding; `charges` and
    `bonds` where they are known.

    Args:
        path: of the file.
        elements: the element table, so that files agree on one; by default QM9's where that suffices, else the elements
            present.

    Raises:
        FileNotFoundError, ValueError: naming the file, what is wrong in it, and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    readers = {".sdf": _read_sdf, ".xyz": _read_xyz, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: cannot read '{path.suffix}' files, only {', '.join(SUFFIXES)}")
    try:
        return readers[path.suffix.lower()](path, elements=elements).check()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(samples: Molecules | torch.Tensor, path: str | Path) -> Path:
    """Writes samples to a file, whole or not at all; returns its path.

    Args:
        samples: molecules, or images (B, 1, H, W) with values in [0, 1].
        path: .sdf, .xyz or .npz for molecules; for images .png (a sheet of them) or .npz (`images`, uint8).

    Raises:
        ValueError: for another suffix.
    """
    path = Path(path)
    writers = {".sdf": _write_sdf, ".xyz": _write_xyz, ".npz": _write_npz}
    if isinstance(samples, torch.Tensor):
        writers = {".png": _write_sheet, ".npz": _write_images}
    check_suffix(path, tuple(writers))
    with replacing(path) as temporary:
        writers[path.suffix.lower()](samples.to("cpu"), temporary)
    return path


def check_suffix(path: Path, allowed: tuple[str, ...]) -> None:
    """Raises ValueError for a path that ends in none of the `allowed` suffixes."""
    if path.suffix.lower() not in allowed:
        raise ValueError(f"{path}: cannot write '{path.suffix}' files, only {', '.join(allowed)}")


def _bytes(images: torch.Tensor) -> np.ndarray:
    return (255 * images.clamp(0, 1)).round().byte().numpy()


def _write_images(images: torch.Tensor, path: Path) -> None:
    np.savez_compressed(path, images=_bytes(images))


def _write_sheet(images: torch.Tensor, path: Path) -> None:
    """A sheet of images, as many across as down, four times enlarged."""
    from matplotlib.image import imsave

    across = math.ceil(math.sqrt(len(images)))
    missing = across * math.ceil(len(images) / across) - len(images)
    pixels = np.concatenate([_bytes(images)[:, 0], np.zeros((missing, *images.shape[2:]), np.uint8)])
    rows = pixels.reshape(-1, across, *images.shape[2:]).transpose(0, 2, 1, 3)
    sheet = rows.reshape(rows.shape[0] * rows.shape[1], -1)
    imsave(path, sheet.repeat(4, 0).repeat(4, 1), cmap="gray", vmin=0, vmax=255)


# -- RDKit ------------------------------------------------------------------------------------------------------------


def from_rdkit(mols: Iterable, **options) -> Molecules:
    """From RDKit molecules with one conformer each, hydrogens as they are (add them with Chem.AddHs before)."""
    mols = list(mols)
    positions, numbers = [], []
    for b, mol in enumerate(mols):
        if mol is None or not mol.GetNumConformers():
            what = "could not be parsed" if mol is None else "has no conformer: embed it, or read it from a 3D file"
            raise ValueError(f"molecule {b} {what}")
        positions.append(mol.GetConformer().GetPositions())
        numbers.append([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    plain = Molecules.from_list(positions, numbers, **options)
    charges = torch.zeros_like(plain.types)
    bonds = torch.zeros(*plain.types.shape, plain.types.shape[1], dtype=torch.long)
    for b, mol in enumerate(mols):
        fill_graph(mol, charges[b], bonds[b])
    return plain.to(torch.float32).with_(charges=charges, bonds=bonds)


def fill_graph(mol, charges: torch.Tensor, bonds: torch.Tensor) -> None:
    """Writes an RDKit molecule's formal charges and orders of bonds, 4 where aromatic, into zeros (N,) and (N, N)."""
    for i, atom in enumerate(mol.GetAtoms()):
        charges[i] = atom.GetFormalCharge()
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[i, j] = bonds[j, i] = 4 if bond.GetIsAromatic() else int(bond.GetBondTypeAsDouble())


def to_rdkit(molecules: Molecules) -> list:
    """RDKit molecules, one conformer each, with the bonds and charges that are known; not sanitised."""
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE, 4: Chem.BondType.AROMATIC}
    numbers, positions = molecules.numbers.tolist(), molecules.positions.double().tolist()
    charges = molecules.charges.tolist() if molecules.charges is not None else None
    bonds = [[] for _ in range(len(molecules))]
    if molecules.bonds is not None:
        where = molecules.bonds.triu(1).nonzero()
        orders = molecules.bonds[tuple(where.T)]
        for (b, i, j), order in zip(where.tolist(), orders.tolist(), strict=True):
            bonds[b].append((i, j, order))
    mols = []
    for b, n in enumerate(molecules.sizes.tolist()):
        mol = Chem.RWMol()
        conformer = Chem.Conformer(n)
        for i in range(n):
            atom = Chem.Atom(numbers[b][i])
            if charges is not None:
                atom.SetFormalCharge(charges[b][i])
            mol.AddAtom(atom)
            conformer.SetAtomPosition(i, Point3D(*positions[b][i]))
        for i, j, order in bonds[b]:
            mol.AddBond(i, j, kinds[order])
        mol.AddConformer(conformer)
        mols.append(mol.GetMol())
    return mols


# -- PyTorch Geometric ------------------------------------------------------------------------------------------------


def from_pyg(data, **options) -> Molecules:
    """From a PyG `Data`, `Batch` or list of `Data` with `pos` (Å) and `z` (atomic numbers)."""
    items = data if isinstance(data, list | tuple) else data.to_data_list() if hasattr(data, "ptr") else [data]
    return Molecules.from_list([d.pos.cpu().numpy() for d in items], [d.z.cpu().numpy() for d in items], **options)


def to_pyg(molecules: Molecules):
    """A PyG `Batch` of `Data(pos, z)`; where bonds are known, also `edge_index` (2, E) and `edge_attr` (E,) orders."""
    from torch_geometric.data import Batch, Data

    numbers, items = molecules.numbers, []
    for b, n in enumerate(molecules.sizes.tolist()):
        item = Data(pos=molecules.positions[b, :n], z=numbers[b, :n])
        if molecules.bonds is not None:
            item.edge_index = molecules.bonds[b, :n, :n].nonzero().T.contiguous()
            item.edge_attr = molecules.bonds[b][tuple(item.edge_index)]
        items.append(item)
    return Batch.from_data_list(items)


# -- files ------------------------------------------------------------------------------------------------------------


def _read_sdf(path: Path, **options) -> Molecules:
    from rdkit import Chem, rdBase

    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with rdBase.BlockLogs():
        mols = list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))
    if None in mols:
        raise ValueError(f"record {mols.index(None)} is truncated or no MDL mol block")
    return from_rdkit(mols, **options)


def _write_sdf(molecules: Molecules, path: Path) -> None:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs(), Chem.SDWriter(str(path)) as writer:
        writer.SetKekulize(False)
        for mol in to_rdkit(molecules):
            writer.write(mol)


def _read_xyz(path: Path, **options) -> Molecules:
    lines = path.read_text().splitlines()
    positions, numbers, at = [], [], 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        try:
            n = int(lines[at])
            if n < 1:
                raise ValueError
        except ValueError:
            raise ValueError(f"line {at + 1}: expected a number of atoms, found {lines[at][:40]!r}") from None
        rows = [line.split() for line in lines[at + 2 : at + 2 + n]]
        if len(rows) < n:
            raise ValueError(f"line {at + 1} announces {n} atoms but only {len(rows)} lines follow: truncated?")
        try:
            # Fortran programs (and QM9's own files) write exponents as *^.
            positions.append(np.array([[float(v.replace("*^", "e")) for v in row[1:4]] for row in rows]).reshape(n, 3))
            numbers.append([ATOMIC_NUMBERS[row[0].capitalize()] if row[0].isalpha() else int(row[0]) for row in rows])
        except KeyError as error:
            raise ValueError(f"unknown element {error} in the frame at line {at + 1}") from None
        except (ValueError, IndexError):
            raise ValueError(f"a line of the frame at line {at + 1} is not 'element x y z'") from None
        at += 2 + n
    return Molecules.from_list(positions, numbers, **options).to(torch.float32)


def _write_xyz(molecules: Molecules, path: Path) -> None:
    with open(path, "w") as file:
        for one in molecules:
            print(len(one.numbers[0]), "", sep="\n", file=file)
            for number, (x, y, z) in zip(one.numbers[0].tolist(), one.positions[0].tolist(), strict=True):
                print(f"{SYMBOLS[number]:<2} {x:14.8f} {y:14.8f} {z:14.8f}", file=file)


def _read_npz(path: Path, **options) -> Molecules:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
    except Exception as error:  # zipfile, numpy and zlib each have their own way to say it
        raise ValueError(f"damaged or no npz file ({error})") from error
    if missing := {"positions", "numbers"} - arrays.keys():
        raise ValueError(f"has no array {sorted(missing)}: it needs positions (B, N, 3) in Å and numbers (B, N)")
    more = {k: torch.from_numpy(arrays[k]).long() for k in ("charges", "bonds") if k in arrays}
    return Molecules.from_arrays(arrays["positions"], arrays["numbers"], **options, **more)


def _write_npz(molecules: Molecules, path: Path) -> None:
    arrays = {"positions": molecules.positions, "numbers": molecules.numbers}
    arrays |= {k: v for k in ("charges", "bonds") if (v := getattr(molecules, k)) is not None}
    with open(path, "wb") as file:
        np.savez_compressed(file, **{k: v.cpu().numpy() for k, v in arrays.items()})
