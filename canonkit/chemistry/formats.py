"""Molecules to and from RDKit, PyTorch Geometric, ASE and files: SDF, XYZ, npz. Images to files: PNG, npz.

Coordinates are Å everywhere. Bond orders are 1, 2, 3 and, as in MDL files, 4 for aromatic. What a format cannot hold is
listed in notebooks/pages/formats.md; what would change a molecule is refused.
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from canonkit.described import checked, parsed
from canonkit.extras import require
from canonkit.files import read_arrays, replacing
from canonkit.molecules import AROMATIC, ATOMIC_NUMBERS, SYMBOLS, Molecules

SUFFIXES = (".sdf", ".xyz", ".npz")
IMAGE_SUFFIXES = (".png", ".npz")
FAR = 1000.0  # Å; beyond, float32 would move atoms by more than files' four decimals tell
BRIGHT = 8.0  # pixels above this are no shades in [0, 1], however noisy
MOST_NEIGHBOURS = 20  # no real atom has more than half as many; on tangles of 45 RDKit crashes, and Python with it
HEAVY_HYDROGEN = {"D": 1, "T": 1}


def read(path: str | Path, *, elements: Sequence[str] | None = None, progress: bool = True) -> Molecules:
    """Molecules from an .sdf, .xyz (one or many frames, plain or extended) or .npz file.

    An npz holds `positions` (B, N, 3) in Å and `numbers` (B, N), atomic numbers with 0 for padding; `charges`,
    `bonds`, `radicals`, `titles` and `data` where they are known. Positions of text files are float32, or float64 where
    some lie farther than 1,000 Å from the origin. Atoms closer than 0.1 Å, as a poor model makes them, are a warning.

    Args:
        path: of the file.
        elements: the element table, so that files agree on one; by default QM9's where that suffices, else the elements
            present.
        progress: show a bar where an SDF file takes longer than a few seconds.

    Raises:
        FileNotFoundError, ValueError: naming the file, what is wrong in it, and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    readers = {".sdf": _read_sdf, ".xyz": _read_xyz, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: cannot read '{path.suffix}' files, only {', '.join(SUFFIXES)}")
    more = {"progress": progress} if path.suffix.lower() == ".sdf" else {}
    try:
        molecules = readers[path.suffix.lower()](path, elements=elements, **more)
        molecules.check_finite()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        molecules.check()
    except ValueError as error:  # what `write` wrote must be read again, and be measured as it is
        warnings.warn(f"{path}: {error}: no real molecule; leave such ones out before you train on them", stacklevel=2)
    return molecules


def write(samples: Molecules | torch.Tensor, path: str | Path) -> Path:
    """Writes samples to a file, whole or not at all; returns its path.

    Args:
        samples: molecules, or images (B, 1, H, W), or in colour (B, 3, H, W): uint8, or values in [0, 1].
        path: .sdf, .xyz or .npz for molecules; an .sdf of molecules without bonds gets those that EDM's rule sees in
            the distances, for QM9's elements. For images .png (a sheet of them) or .npz (`images`, uint8).

    Raises:
        ValueError: for another suffix; for what the format cannot hold and would change.
    """
    path = Path(path)
    writers: dict[str, Callable] = {".sdf": _write_sdf, ".xyz": _write_xyz, ".npz": _write_npz}
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


def _pixels(images: torch.Tensor) -> np.ndarray:
    """Images as bytes: those that are bytes already as they are, others from [0, 1]."""
    if images.dtype == torch.uint8:
        return images.numpy()
    if not images.is_floating_point():
        raise ValueError(f"images of {images.dtype} cannot be written: give uint8, or values in [0, 1]")
    images = images.detach().float()
    if not images.isfinite().all():
        raise ValueError("images with NaN or infinite pixels cannot be written: leave them out")
    if len(images) and (most := float(images.abs().max())) > BRIGHT:
        raise ValueError(f"images have values up to {most:g}: give uint8, or values in [0, 1]")
    return (255 * images.clamp(0, 1)).round().byte().numpy()


def _write_images(images: torch.Tensor, path: Path) -> None:
    _save_arrays(path, images=_pixels(images))


def _write_sheet(images: torch.Tensor, path: Path) -> None:
    """A sheet of images, grey or in colour, as many across as down, four times enlarged."""
    from matplotlib.image import imsave

    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images of shape {tuple(images.shape)} make no sheet: give (B, 1, H, W) or (B, 3, H, W)")
    across = math.ceil(math.sqrt(len(images)))
    missing = across * math.ceil(len(images) / across) - len(images)
    pixels = np.concatenate([_pixels(images), np.zeros((missing, *images.shape[1:]), np.uint8)])
    rows = pixels.reshape(-1, across, *images.shape[1:]).transpose(0, 3, 1, 4, 2)
    sheet = rows.reshape(rows.shape[0] * rows.shape[1], -1, images.shape[1])
    buffer = io.BytesIO()
    imsave(buffer, sheet.repeat(3 // images.shape[1], 2).repeat(4, 0).repeat(4, 1), format="png")
    path.write_bytes(buffer.getbuffer())


# -- RDKit ------------------------------------------------------------------------------------------------------------


class _Graph(NamedTuple):
    """One molecule as arrays: (n, 3), (n,), (n,), (n,), and bonds (E, 3) as rows i, j, order."""

    positions: np.ndarray
    numbers: np.ndarray
    charges: np.ndarray
    radicals: np.ndarray
    bonds: np.ndarray


def from_rdkit(mols: Iterable, **options) -> Molecules:
    """From RDKit molecules with one conformer each, hydrogens as they are (add them with Chem.AddHs before).

    Raises:
        ValueError: naming the molecule: no conformer or several; a bond that is not single, double, triple or aromatic;
            a query.
    """
    mols = list(mols)
    graphs = [_graph(mol, f"molecule {b}") for b, mol in enumerate(mols)]
    flat = sum(not mol.GetConformer().Is3D() and len(g.numbers) > 1 for mol, g in zip(mols, graphs, strict=True))
    titles = [mol.GetProp("_Name") if mol.HasProp("_Name") else "" for mol in mols]
    data = [{k: str(v) for k, v in mol.GetPropsAsDict(False, False, False).items()} for mol in mols]
    return _assembled(graphs, titles, data, flat, **options)


def _assembled(graphs: list[_Graph], titles: Sequence[str], data: Sequence[dict], flat: int, **options) -> Molecules:
    if flat:
        warnings.warn(
            f"{flat} of {len(graphs)} molecules have 2D coordinates: make 3D ones first (RDKit's EmbedMolecule)",
            stacklevel=4,
        )
    fields: dict = dict(zip(_Graph._fields, zip(*graphs, strict=True), strict=True)) if graphs else {}
    if not any(radicals.any() for radicals in fields.get("radicals", ())):
        fields["radicals"] = None
    positions, numbers = fields.pop("positions", ()), fields.pop("numbers", ())
    return _rounded(Molecules.from_list(positions, numbers, **fields, **_texts(titles, data), **options))


def _texts(titles: Sequence[str], data: Sequence[dict]) -> dict:
    """Titles and data for a batch, None where there are none."""
    return {"titles": titles if any(titles) else None, "data": data if any(data) else None}


def _rounded(molecules: Molecules) -> Molecules:
    """Positions in float32, or float64 where that would move atoms visibly."""
    return molecules if (molecules.positions.abs() > FAR).any() else molecules.to(torch.float32)


def _graph(mol, name: str) -> _Graph:
    if mol is None:
        raise ValueError(f"{name} could not be parsed")
    if not mol.GetNumConformers():
        raise ValueError(f"{name} has no conformer: embed it, or read it from a 3D file")
    if (count := mol.GetNumConformers()) > 1:
        raise ValueError(f"{name} has {count} conformers: give one each, Chem.Mol(mol, False, conformer's id)")
    atoms = list(mol.GetAtoms())
    if odd := [atom.GetIdx() for atom in atoms if atom.HasQuery() and atom.GetAtomicNum()]:
        raise ValueError(f"{name}: atom {odd[0]} is a query, which names no element: leave it out")
    return _Graph(
        mol.GetConformer().GetPositions(),
        np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.int64),
        np.array([atom.GetFormalCharge() for atom in atoms], dtype=np.int64),
        np.array([atom.GetNumRadicalElectrons() for atom in atoms], dtype=np.int64),
        np.array(
            [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), _order(bond, name)) for bond in mol.GetBonds()],
            dtype=np.int64,
        ).reshape(-1, 3),
    )


def _order(bond, name: str) -> int:
    """A bond's order, 4 where aromatic."""
    kind = "AROMATIC" if bond.GetIsAromatic() else bond.GetBondType().name
    orders = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": AROMATIC}
    if bond.HasQuery() or kind not in orders:
        ends = f"atoms {bond.GetBeginAtomIdx()} and {bond.GetEndAtomIdx()}"
        what = "a query" if bond.HasQuery() else kind.lower()
        raise ValueError(f"{name}: the bond of {ends} is {what}: give single, double, triple or aromatic ones")
    return orders[kind]


def fill_graph(mol, charges: torch.Tensor, bonds: torch.Tensor) -> None:
    """Writes an RDKit molecule's formal charges and orders of bonds, 4 where aromatic, into zeros (N,) and (N, N)."""
    for i, atom in enumerate(mol.GetAtoms()):
        charges[i] = atom.GetFormalCharge()
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[i, j] = bonds[j, i] = _order(bond, "the molecule")


def to_rdkit(molecules: Molecules, *, stereo: bool = False) -> list:
    """RDKit molecules, one conformer each, with what is known of bonds, charges, radicals, titles and data.

    Not sanitised. `stereo` assigns centres and double bonds from the positions, as Chem.AssignStereochemistryFrom3D
    does; it is off by default, for it makes two SMILES of a pair of mirror images.

    Raises:
        ValueError: naming the molecule: a bond of another order; with `stereo`, an atom of more than 20 bonds.
    """
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE, 4: Chem.BondType.AROMATIC}
    numbers, positions = molecules.numbers.tolist(), molecules.positions.detach().cpu().double().tolist()
    charges = molecules.charges.tolist() if molecules.charges is not None else None
    radicals = molecules.radicals.tolist() if molecules.radicals is not None else None
    mols = []
    for b, n in enumerate(molecules.sizes.tolist()):
        mol = Chem.RWMol()
        conformer = Chem.Conformer(n)
        for i in range(n):
            atom = Chem.Atom(numbers[b][i])
            if charges is not None:
                atom.SetFormalCharge(charges[b][i])
            if radicals is not None:
                atom.SetNumRadicalElectrons(radicals[b][i])
            mol.AddAtom(atom)
            conformer.SetAtomPosition(i, Point3D(*positions[b][i]))
        for i, j, order in _rows(molecules, b, n):
            if order not in kinds:
                raise ValueError(f"molecule {b} has a bond of order {order}: give 1 to 3, and 4 for aromatic")
            mol.AddBond(i, j, kinds[order])
        mol.AddConformer(conformer)
        if stereo:
            if (most := max((atom.GetDegree() for atom in mol.GetAtoms()), default=0)) > MOST_NEIGHBOURS:
                raise ValueError(
                    f"molecule {b} has an atom of {most} bonds, on which RDKit may crash: leave it out, or write .npz"
                )
            mol.UpdatePropertyCache(strict=False)
            Chem.AssignStereochemistryFrom3D(mol)
        if molecules.titles is not None:
            mol.SetProp("_Name", molecules.titles[b])
        if molecules.data is not None:
            for name, value in molecules.data[b].items():
                mol.SetProp(name, value)
        mols.append(mol.GetMol())
    return mols


def _rows(molecules: Molecules, b: int, n: int) -> list[list[int]]:
    """The bonds of molecule b, of n atoms, as rows i, j, order; none where they are not known."""
    if molecules.bonds is None:
        return []
    bonds = molecules.bonds[b, :n, :n].triu(1)
    where = bonds.nonzero()
    return torch.column_stack([where, bonds[tuple(where.T)]]).tolist()


# -- PyTorch Geometric ------------------------------------------------------------------------------------------------


def from_pyg(data, **options) -> Molecules:
    """From a PyG `Data`, `Batch` or list of `Data` with `pos` (Å) and `z` (atomic numbers).

    Also read, where they are there: `charges`, `radicals` (n,), `title`; and bonds, from `edge_index` with orders in
    `edge_attr`, as whole numbers (E,) or as PyG's QM9 has them, one of four columns. Other edges are no bonds.

    Raises:
        ValueError: no `pos` or `z`; what `Molecules.from_arrays` refuses.
    """
    items = data if isinstance(data, list | tuple) else _apart(data)
    for b, d in enumerate(items):
        for key in ("pos", "z"):
            if getattr(d, key, None) is None:
                raise ValueError(f"molecule {b}, {d}, has no {key}: a molecule is `pos` in Å and atomic numbers `z`")
    more = {}
    for key in ("charges", "radicals"):
        if any(getattr(d, key, None) is not None for d in items):
            more[key] = [torch.zeros_like(d.z) if getattr(d, key, None) is None else d[key] for d in items]
    edges = [_edges(d) for d in items]
    if all(rows is not None for rows in edges):
        more["bonds"] = edges
    titles = [t if isinstance(t := getattr(d, "title", ""), str) else "" for d in items]
    return Molecules.from_list([d.pos for d in items], [d.z for d in items], **more, **_texts(titles, ()), **options)


def _apart(data) -> list:
    """The molecules of a `Data` or `Batch`, also of one that has lost its `ptr`."""
    if hasattr(data, "ptr"):
        return data.to_data_list()
    if getattr(data, "batch", None) is None:
        return [data]
    return [data.subgraph(data.batch == b) for b in range(int(data.batch.max()) + 1)]


def _edges(d) -> np.ndarray | None:
    """The bonds (E, 3) of a PyG molecule, or None where its edges are no bonds."""
    ends, orders = getattr(d, "edge_index", None), getattr(d, "edge_attr", None)
    if ends is None or orders is None:
        return None
    orders = orders.detach()
    if (
        orders.ndim == 2
        and orders.shape[1] == AROMATIC
        and (orders.sum(1) == 1).all()
        and (orders.max(1)[0] == 1).all()
    ):
        orders = orders.argmax(1) + 1
    if orders.ndim != 1 or orders.is_floating_point() or len(orders) != ends.shape[1]:
        return None
    rows = torch.column_stack([ends.T, orders]).cpu().unique(dim=0)
    back = rows[:, [1, 0, 2]].unique(dim=0)
    return rows[rows[:, 0] < rows[:, 1]].numpy() if rows.equal(back) and (rows[:, 0] != rows[:, 1]).all() else None


def to_pyg(molecules: Molecules):
    """A PyG `Batch` of `Data(pos, z)`; with `charges`, `radicals` (n,) and `title` where there are some.

    Where bonds are known, also `edge_index` (2, E) and `edge_attr` (E,) orders.
    """
    require("torch_geometric")
    from torch_geometric.data import Batch, Data

    numbers, items = molecules.numbers, []
    for b, n in enumerate(molecules.sizes.tolist()):
        item = Data(pos=molecules.positions[b, :n], z=numbers[b, :n])
        if molecules.bonds is not None:
            item.edge_index = molecules.bonds[b, :n, :n].nonzero().T.contiguous()
            item.edge_attr = molecules.bonds[b][tuple(item.edge_index)]
        for key in ("charges", "radicals"):
            if (values := getattr(molecules, key)) is not None:
                item[key] = values[b, :n]
        if molecules.titles is not None:
            item.title = molecules.titles[b]
        items.append(item)
    return Batch.from_data_list(items)


# -- ASE --------------------------------------------------------------------------------------------------------------


def from_ase(frames, **options) -> Molecules:
    """From ASE `Atoms`, one or a list: positions, numbers, whole initial charges as formal ones, and what is in `info`.

    `info["title"]` becomes the title, other text and numbers in `info` the data. Bonds are not known to ASE.

    Raises:
        ValueError: what `Molecules.from_arrays` refuses.
    """
    frames = [frames] if hasattr(frames, "get_positions") else list(frames)
    if periodic := sum(bool(atoms.pbc.any()) for atoms in frames):
        warnings.warn(f"{periodic:,} of {len(frames):,} molecules are periodic: their cell is left out", stacklevel=2)
    more = {}
    charges = [atoms.get_initial_charges() for atoms in frames]
    if any(atoms.has("initial_charges") for atoms in frames):
        if all((q == np.round(q)).all() for q in charges):
            more["charges"] = charges
        else:
            warnings.warn("partial charges are left out: formal charges are whole numbers", stacklevel=2)
    if any(atoms.has("radicals") for atoms in frames):
        more["radicals"] = [atoms.arrays.get("radicals", np.zeros(len(atoms), int)) for atoms in frames]
    data = [{k: str(v) for k, v in atoms.info.items() if isinstance(v, str | int | float)} for atoms in frames]
    titles = [fields.pop("title", "") for fields in data]
    positions, numbers = [atoms.positions for atoms in frames], [atoms.numbers for atoms in frames]
    return _rounded(Molecules.from_list(positions, numbers, **more, **_texts(titles, data), **options))


def to_ase(molecules: Molecules) -> list:
    """ASE `Atoms`, one per molecule: formal charges as initial charges, title and data in `info`; without bonds.

    Raises:
        ModuleNotFoundError: ASE is not installed.
    """
    require("ase")
    from ase import Atoms

    numbers, positions = molecules.numbers.cpu().numpy(), molecules.positions.detach().cpu().double().numpy()
    frames = []
    for b, n in enumerate(molecules.sizes.tolist()):
        atoms = Atoms(numbers[b, :n], positions[b, :n])
        if molecules.charges is not None:
            atoms.set_initial_charges(molecules.charges[b, :n].cpu().numpy())
        if molecules.radicals is not None:
            atoms.set_array("radicals", molecules.radicals[b, :n].cpu().numpy())
        atoms.info |= molecules.data[b] if molecules.data is not None else {}
        atoms.info |= {"title": molecules.titles[b]} if molecules.titles is not None else {}
        frames.append(atoms)
    return frames


# -- SDF --------------------------------------------------------------------------------------------------------------

# What most records look like: V2000, atoms without isotope or query, bonds of order 1 to 4. RDKit reads the
# others.
_PLAIN = re.compile(
    r".*\n.*\n.*\n([ \d]{3})([ \d]{3})  0.*V2000 *\n"
    r"((?:(?:[ \d-]{4}\d\.\d{4}){3} [A-Z][a-z ]  0  0(?:  [0-3](?:  0)*)? *\n)+)"
    r"((?:[ \d]{3}[ \d]{3}  [1-4](?:  [0-6](?:  0)*)? *\n)*)"
    r"((?:M  CHG(?: [ \d]\d)(?: [ \d]{2}\d [ \d-]{2}\d)+ *\n)*)M  END *(?:\n|$)"
)
_FIELD = re.compile(r"^>[^<\n]*<(.+)>[^>\n]*\n((?:(?!>[^<\n]*<.+>).+\n?)*)", re.MULTILINE)
PIECE = 2**22  # bytes of a file looked at together


def _read_sdf(path: Path, *, progress: bool, **options) -> Molecules:
    from rdkit import rdBase
    from tqdm.auto import tqdm

    graphs, titles, data, flat = [], [], [], 0
    size = path.stat().st_size
    if not size:
        raise ValueError("the file is empty")
    bar = tqdm(total=size, desc=path.name, unit="B", unit_scale=True, delay=3, leave=False, disable=not progress)
    with bar, rdBase.BlockLogs():
        for texts, read_bytes in _records(path):
            for text, graph in zip(texts, _plain_graphs(texts), strict=True):
                if graph is None:
                    graph, is_flat = _rdkit_graph(text, f"record {len(graphs)}")
                    flat += is_flat
                graphs.append(graph)
                titles.append(text[: text.find("\n")].strip())
                end = text.find("M  END")
                data.append(dict(_fields(text[end:])) if text.find(">", end) >= 0 else {})
            bar.update(read_bytes)
    return _assembled(graphs, titles, data, flat, **options)


def _records(path: Path) -> Iterator[tuple[list[str], int]]:
    """The records of an SDF file, some at a time, and how many bytes they took."""
    rest = b""
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            rest += piece if piece[-1:] != b"\r" else piece + file.read(1)
            *whole, rest = re.split(rb"^\$\$\$\$.*\n?", rest, flags=re.MULTILINE) if b"\n" in piece else [rest]
            yield [_text(record) for record in whole], len(piece)
    if rest.strip():
        yield [_text(rest)], 0


def _text(content: bytes) -> str:
    """Text in UTF-8, with or without a byte order mark, else Latin-1; lines end at a newline and nowhere else."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of a record's data fields."""
    for match in _FIELD.finditer(text):
        yield match[1], match[2].rstrip("\n")


def _rdkit_graph(text: str, name: str) -> tuple[_Graph, bool]:
    """A molecule read by RDKit, and whether it is drawn in the plane."""
    from rdkit import Chem

    mol = Chem.MolFromMolBlock(text, sanitize=False, removeHs=False)
    if mol is None:
        raise ValueError(f"{name} is truncated or no MDL mol block")
    graph = _graph(mol, name)
    return graph, not mol.GetConformer().Is3D() and len(graph.numbers) > 1


def _plain_graphs(texts: list[str]) -> list[_Graph | None]:
    """Molecules of plain records, read all at once; None for those that are left to RDKit."""
    found: list[_Graph | None] = [None] * len(texts)
    matches = {k: m for k, text in enumerate(texts) if (m := _PLAIN.match(text))}
    matches = {k: m for k, m in matches.items() if int(m[1]) == m[3].count("\n") and int(m[2] or 0) == m[4].count("\n")}
    if not matches:
        return found
    atoms = np.array("".join(m[3] for m in matches.values()).splitlines(), dtype="S34").view("S1").reshape(-1, 34)
    bonds = np.array("".join(m[4] for m in matches.values()).splitlines(), dtype="S9").view("S1").reshape(-1, 9)

    def column(table: np.ndarray, start: int, stop: int, kind: type | str) -> np.ndarray:
        return np.ascontiguousarray(table[:, start:stop]).view(f"S{stop - start}")[:, 0].astype(kind)

    try:
        positions = np.column_stack([column(atoms, k, k + 10, float) for k in (0, 10, 20)])
        rows = np.column_stack([column(bonds, k, k + 3, int) for k in (0, 3, 6)])
    except ValueError:  # a number with a blank in it: RDKit says which
        return found
    symbols, which = np.unique(column(atoms, 31, 33, "S2"), return_inverse=True)
    numbers = np.array([ATOMIC_NUMBERS.get(s.decode().strip(), 0) for s in symbols])[which]
    sizes, counts = (np.array([int(m[k]) for m in matches.values()]) for k in (1, 2))
    ends = sizes.cumsum()
    rows[:, :2] -= 1
    low, high = rows[:, :2].min(1), rows[:, :2].max(1)
    record = np.repeat(np.arange(len(sizes)), counts)
    twice = np.zeros(len(rows), dtype=bool)
    keys = (record * 1000 + low) * 1000 + high
    twice[np.unique(keys, return_index=True)[1]] = True
    wrong = np.bincount(record, (low < 0) | (low == high) | (high >= sizes[record]) | ~twice, len(sizes)) > 0
    wrong |= np.minimum.reduceat(numbers, ends - sizes) == 0
    wrong |= np.abs(np.maximum.reduceat(np.abs(positions[:, 2]), ends - sizes)) == 0
    zeros = np.zeros(sizes.max(), dtype=np.int64)
    starts = (counts.cumsum() - counts).tolist()
    for k, bad, end, n, start, e in zip(
        matches, wrong.tolist(), ends.tolist(), sizes.tolist(), starts, counts.tolist(), strict=True
    ):
        if not bad:
            atoms = slice(end - n, end)
            charges = _charges(matches[k][5], n) if matches[k][5] else zeros[:n]
            found[k] = _Graph(positions[atoms], numbers[atoms], charges, zeros[:n], rows[start : start + e])
    return found


def _charges(lines: str, n: int) -> np.ndarray:
    """Formal charges by the lines M  CHG, of which each lists some atoms and their charges."""
    charges = np.zeros(n, dtype=np.int64)
    for line in lines.splitlines():
        pairs = np.array(line[9:].split(), dtype=np.int64).reshape(-1, 2)
        charges[pairs[:, 0] - 1] = pairs[:, 1]
    return charges


def _write_sdf(molecules: Molecules, path: Path) -> None:
    from rdkit import Chem, rdBase

    from canonkit.chemistry.valencies import VALENCE, bond_orders

    if molecules.bonds is None and set(molecules.elements) <= set(VALENCE):
        molecules = molecules.with_(bonds=bond_orders(molecules))
    _check_texts(molecules)
    with rdBase.BlockLogs(), open(path, "w", encoding="utf-8") as file:
        for start in range(0, len(molecules), 1024):  # bounded memory
            for b, mol in enumerate(to_rdkit(molecules[start : start + 1024].with_(data=None), stereo=True), start):
                text = Chem.MolToMolBlock(_plain_cations(mol), kekulize=False)
                file.write(text if molecules.radicals is None else _with_radicals(text, mol, b))
                for name, value in (molecules.data[b] if molecules.data is not None else {}).items():
                    file.write(f"> <{name}>\n{value}\n\n")
                file.write("$$$$\n")


def _plain_cations(mol):
    """A molecule in Kekulé form if it has a charged aromatic atom, which other programs misread; others as they are."""
    from rdkit import Chem

    if not any(atom.GetFormalCharge() and atom.GetIsAromatic() for atom in mol.GetAtoms()):
        return mol
    plain = Chem.Mol(mol)
    try:
        Chem.SanitizeMol(plain)
        Chem.Kekulize(plain, clearAromaticFlags=True)
    except Chem.MolSanitizeException:
        return mol
    return plain


def _with_radicals(text: str, mol, b: int) -> str:
    """A mol block that names all unpaired electrons; RDKit's own leaves out those of metals."""
    wanted = [atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()]
    if " V2000" in text:
        text = re.sub(r"^M  RAD.*\n", "", text, flags=re.MULTILINE)
        said = "".join(f"M  RAD  1 {i:3d} {n + 1:3d}\n" for i, n in enumerate(wanted, 1) if n)
        text = text.replace("M  END", f"{said}M  END")
    found = _rdkit_graph(text, f"molecule {b}")[0].radicals.tolist() if max(wanted) < 3 else []
    if found != wanted:
        raise ValueError(f"molecule {b} has unpaired electrons that SDF cannot name: write an .npz")
    return text


def _check_texts(molecules: Molecules) -> None:
    """Raises ValueError for what an SDF file cannot hold and would lose."""
    for b, title in enumerate(molecules.titles or ()):
        if re.search(r"[\r\n]|^\$\$\$\$", title):
            raise ValueError(f"the title of molecule {b}, {title!r}, is not one line of text: change it")
    for b, fields in enumerate(molecules.data or ()):
        for name, value in fields.items():
            if not re.fullmatch(r"[^<>\r\n]+", name) or re.search(r"\r|^\n|\n\n|\n$|^>|^\$\$\$\$", value, re.MULTILINE):
                raise ValueError(
                    f"field {name!r} of molecule {b} has a blank line, or a line that begins with > or $$$$"
                )


# -- XYZ --------------------------------------------------------------------------------------------------------------

_PAIR = re.compile(r"""([^\s="']+)=("(?:\\.|[^"\\])*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|[^\s"']*)""")
_EXTENDED = re.compile(r"(?:^|\s)Properties=")
_SYMBOL_COLUMNS, _NUMBER_COLUMNS = ("species", "element", "symbols"), ("Z", "numbers", "atomic_numbers")


def _read_xyz(path: Path, **options) -> Molecules:
    lines = _text(path.read_bytes()).split("\n")
    positions, numbers, titles, data, cells, at = [], [], [], [], 0, 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        frame = f"the frame at line {at + 1}"
        try:
            n = int(lines[at])
            if n < 1:
                raise ValueError
        except ValueError:
            raise ValueError(f"line {at + 1}: expected a number of atoms, found {lines[at][:40]!r}") from None
        rows = [line.split() for line in lines[at + 2 : at + 2 + n]]
        while len(rows) and not rows[-1]:
            rows.pop()
        if len(rows) < n:
            raise ValueError(f"line {at + 1} announces {n} atoms but only {len(rows)} lines follow: truncated?")
        title, fields = lines[at + 1].strip(), {}
        symbol, place, width = 0, 1, 4
        if _EXTENDED.search(title):
            fields = {k: _unquoted(v) for k, v in _PAIR.findall(title)}
            symbol, place, width = _columns(fields.pop("Properties"), frame)
            cells += "T" in fields.pop("pbc", "T" if "Lattice" in fields else "F").upper()
            fields.pop("Lattice", None)
            title = fields.pop("title", "")
        try:
            if any(len(row) < width for row in rows):
                raise ValueError
            positions.append(np.array([[_number(v) for v in row[place : place + 3]] for row in rows]).reshape(n, 3))
            numbers.append([_atomic_number(row[symbol]) for row in rows])
        except KeyError as error:
            raise ValueError(f"unknown element {error} in {frame}") from None
        except ValueError:
            raise ValueError(f"a line of {frame} is not 'element x y z'") from None
        at += 2 + n
        if len(lines) > at + 2 and lines[at + 2].startswith("InChI="):  # QM9's own files
            fields |= dict(zip(("frequencies", "SMILES", "InChI"), map(str.strip, lines[at : at + 3]), strict=True))
            at += 3
        titles.append(title)
        data.append(fields)
    if cells:
        warnings.warn(f"{path}: {cells:,} of {len(titles):,} frames are periodic: their cell is left out", stacklevel=3)
    return _rounded(Molecules.from_list(positions, numbers, **_texts(titles, data), **options))


def _number(text: str) -> float:
    """A number as Python writes it, or Fortran (1.0D-3), or QM9's files (1.0*^-3)."""
    return float(re.sub(r"(?<=[\d.])(?:\*\^|[dD])(?=[+-]?\d)", "e", text.replace("_", "?")))


def _atomic_number(text: str) -> int:
    return int(text) if text.isdigit() else (ATOMIC_NUMBERS | HEAVY_HYDROGEN)[text.capitalize()]


def _columns(properties: str, frame: str) -> tuple[int, int, int]:
    """Where the element and the position are in a line of extended XYZ, and how many columns it has."""
    parts, where, at = properties.split(":"), {}, 0
    try:
        for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            where[name] = at, kind, int(count)
            at += int(count)
        symbol = next(where[k][0] for k in (*_SYMBOL_COLUMNS, *_NUMBER_COLUMNS) if k in where and where[k][2] == 1)
        if where["pos"][1:] != ("R", 3):
            raise ValueError
    except (ValueError, KeyError, StopIteration):
        raise ValueError(f"Properties={properties} of {frame} does not say species:S:1 and pos:R:3") from None
    return symbol, where["pos"][0], at


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _unquoted(text: str) -> str:
    if text[:1] == '"':
        return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text[1:-1])
    return text[1:-1] if text[:1] == "'" else text


def _comment(molecules: Molecules, b: int) -> str:
    """The title alone, or where there are data, a comment of extended XYZ."""
    title = molecules.titles[b] if molecules.titles is not None else ""
    fields = molecules.data[b] if molecules.data is not None else {}
    if re.search(r"[\r\n]", title):
        raise ValueError(f"the title of molecule {b}, {title!r}, is not one line of text: change it")
    if not fields and not _EXTENDED.search(title):
        return title
    taken = {"Properties", "Lattice", "pbc", "title"}
    if wrong := [k for k in fields if k in taken or not re.fullmatch(r"""[^\s="']+""", k)]:
        raise ValueError(f"molecule {b} has a field {wrong[0]!r}, which XYZ cannot hold: rename it, or use .sdf")
    pairs = {"title": title} | fields
    return " ".join(["Properties=species:S:1:pos:R:3", *(f"{k}={_quoted(v)}" for k, v in pairs.items())])


def _write_xyz(molecules: Molecules, path: Path) -> None:
    numbers, positions = molecules.numbers.tolist(), molecules.positions.detach().tolist()
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for b, n in enumerate(molecules.sizes.tolist()):
            print(n, _comment(molecules, b), sep="\n", file=file)
            for number, (x, y, z) in zip(numbers[b][:n], positions[b][:n], strict=True):
                print(f"{SYMBOLS[number]:<2} {x:14.8f} {y:14.8f} {z:14.8f}", file=file)


# -- npz --------------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, **options) -> Molecules:
    arrays = read_arrays(path)
    if missing := {"positions", "numbers"} - arrays.keys():
        raise ValueError(f"has no array {sorted(missing)}: it needs positions (B, N, 3) in Å and numbers (B, N)")
    more: dict = {k: arrays[k] for k in ("charges", "bonds", "radicals") if k in arrays}
    texts = {k: parsed(str(arrays[k]), k) for k in ("titles", "data") if k in arrays}
    return Molecules.from_arrays(
        arrays["positions"], arrays["numbers"], **options, **more, **checked("Texts", texts, "the file")
    )


def _write_npz(molecules: Molecules, path: Path) -> None:
    arrays = {"positions": molecules.positions, "numbers": molecules.numbers}
    if molecules.positions.dtype == torch.bfloat16:
        arrays["positions"] = molecules.positions.float()
    arrays |= {k: v for k in ("charges", "bonds", "radicals") if (v := getattr(molecules, k)) is not None}
    arrays = {k: v.detach().cpu().numpy() for k, v in arrays.items()}
    arrays |= {k: np.array(json.dumps(v)) for k in ("titles", "data") if (v := getattr(molecules, k)) is not None}
    _save_arrays(path, **arrays)


def _save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """An npz file, made in memory first: on a full disk zipfile's own errors would hide the system's."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    path.write_bytes(buffer.getbuffer())
