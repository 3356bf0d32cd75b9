"""GEOM-Drugs (Axelrod and Gomez-Bombarelli 2022) from the files that people have, converted once into shards.

    drugs_crude.msgpack         50 GB: dicts of about 1,000 SMILES each; read as a stream, one SMILES at a time
    geom_drugs_30.npy           EDM's: rows (conformer, Z, x, y, z); mapped into memory
    {train,val,test}_data.pickle  MiDi's: lists of (SMILES, RDKit molecules), read one SMILES at a time
    rdkit_folder/drugs/*.pickle   one dict for each SMILES, with RDKit molecules
    a folder of .sdf files

Shards are safetensors files with a few million atoms each. A manifest beside them says how far the source was read, so
that a conversion that was stopped goes on. Of each SMILES the 30 conformers of lowest energy are kept. Of pickles only
RDKit molecules, numbers, strings, lists and dicts are read, and nothing that they name is run.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from canonkit.chemistry.bonds import padded, padded_graphs
from canonkit.data.own import OwnMolecules, graph_keys
from canonkit.data.pickles import read_entries, read_pickle
from canonkit.data.stored import load_stored, store
from canonkit.extras import require
from canonkit.files import cache_folder, replacing
from canonkit.molecules import ATOMIC_NUMBERS, SYMBOLS

ELEMENTS = ("H", "B", "C", "N", "O", "F", "Al", "Si", "P", "S", "Cl", "As", "Br", "I", "Hg", "Bi")
ADMITTED = frozenset(ATOMIC_NUMBERS[e] for e in ELEMENTS)
LOWEST = 30  # conformers of a molecule
SHARD = 2_000_000  # atoms
EDM_SPLIT = "geom_permutation.npy"


class Conformer(NamedTuple):
    """Positions (n, 3) in Å, atomic numbers (n,), energy, and where they are known charges (n,) and bonds (E, 3)."""

    positions: np.ndarray
    numbers: np.ndarray
    energy: float
    charges: np.ndarray | None = None
    bonds: np.ndarray | None = None


class Record(NamedTuple):
    """The conformers of one molecule, or an error; and where in the source the next one begins, None within a file."""

    name: str
    conformers: list[Conformer] | Exception
    after: list[int] | None


# -- sources ----------------------------------------------------------------------------------------------------------


def _msgpack(path: Path, start: list[int], lowest: int) -> Iterator[Record]:
    """Position: byte, and how many SMILES are left of the dict that it lies in."""
    require("msgpack")
    import msgpack

    byte, left = start or [0, 0]
    with open(path, "rb") as file:
        file.seek(byte)
        stream = msgpack.Unpacker(file, raw=False, strict_map_key=False, read_size=2**20, max_buffer_size=2**30)
        smiles = "?"
        try:
            while True:
                if not left:
                    try:
                        left = stream.read_map_header()
                    except msgpack.OutOfData:
                        return
                    continue
                smiles = stream.unpack()
                value = stream.unpack()
                left -= 1
                yield Record(str(smiles), _crude(value, lowest), [byte + stream.tell(), left])
        except (msgpack.OutOfData, msgpack.UnpackException, ValueError) as error:
            at = byte + stream.tell()
            raise ValueError(
                f"{path} is damaged or cut off near byte {at:,}, after {smiles!r} ({type(error).__name__}): get the "
                "file anew; what was read is kept, and the conversion goes on from there"
            ) from error


def _crude(value: Any, lowest: int) -> list[Conformer] | Exception:
    try:
        ones = sorted(value["conformers"], key=lambda one: one["totalenergy"])[:lowest]
        arrays = [(np.array(one["xyz"], dtype=np.float64), float(one["totalenergy"])) for one in ones]
        return [Conformer(xyz[:, 1:], xyz[:, 0].astype(np.int64), energy) for xyz, energy in arrays]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return error


def _npy(path: Path, start: list[int], lowest: int) -> Iterator[Record]:
    """Position: row. The ids are of conformers: which of them are one molecule the graphs say."""
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise ValueError(f"{path} has shape {rows.shape}, expected (atoms, 5): give EDM's geom_drugs_30.npy")
    first = start[0] if start else 0
    while first < len(rows):
        block = np.array(rows[first : first + 500_000])
        ends = np.flatnonzero(np.diff(block[:, 0])) + 1
        if first + len(block) == len(rows):
            ends = np.append(ends, len(block))
        begin = 0
        for end in ends.tolist():
            part = block[begin:end]
            one = Conformer(part[:, 2:], part[:, 1].astype(np.int64), 0.0)
            yield Record(f"conformer {part[0, 0]:.0f}", [one], [first + end])
            begin = end
        if not begin:
            raise ValueError(
                f"{path}: conformer {block[0, 0]:.0f} has more than {len(block):,} rows: get the file anew"
            )
        first += begin


def _conformer(mol: Any, energy: float) -> Conformer:
    from rdkit import Chem

    mol = Chem.Mol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
    return Conformer(
        mol.GetConformer().GetPositions(),
        np.array([a.GetAtomicNum() for a in mol.GetAtoms()]),
        energy,
        np.array([a.GetFormalCharge() for a in mol.GetAtoms()]),
        np.array(bonds, dtype=np.int64).reshape(-1, 3),
    )


def _rdkit(mols: Any, energies: Any) -> list[Conformer] | Exception:
    try:
        return [_conformer(m, float(e)) for m, e in zip(mols, energies, strict=True)]
    except Exception as error:  # RDKit has its own
        return error


def _midi(files: list[Path], start: list[int], lowest: int) -> Iterator[Record]:
    """Position: file, and item in it. Conformers come by rising energy."""
    which, item = start or [0, 0]
    for k in range(which, len(files)):
        for i, entry in enumerate(read_entries(files[k])):
            if i < item:
                continue
            try:
                smiles, mols = entry
                found = _rdkit(mols, range(len(mols)))
            except (TypeError, ValueError) as error:
                smiles, found = f"{files[k].name}, item {i}", error
            yield Record(str(smiles), found, [k, i + 1])
        item = 0


def _pickles(files: list[Path], start: list[int], lowest: int) -> Iterator[Record]:
    """Position: file."""
    for k in range(start[0] if start else 0, len(files)):
        name, found = files[k].stem, None
        try:
            about = read_pickle(files[k])
            name = str(about.get("smiles", name))
            ones = about["conformers"]
            found = _rdkit([one["rd_mol"] for one in ones], [one["totalenergy"] for one in ones])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found = error
        yield Record(name, found, [k + 1])


def _sdf(files: list[Path], start: list[int], lowest: int) -> Iterator[Record]:
    """Position: file. The molecules of a file with one SMILES are conformers."""
    from rdkit import Chem, rdBase

    for k in range(start[0] if start else 0, len(files)):
        groups: dict[str, list] = {}
        with rdBase.BlockLogs():
            for i, mol in enumerate(Chem.SDMolSupplier(str(files[k]), removeHs=False)):
                if mol is None:
                    yield Record(f"{files[k].name}, record {i + 1}", ValueError("RDKit cannot read it"), None)
                    continue
                groups.setdefault(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False), []).append(mol)
        for n, (smiles, mols) in enumerate(groups.items()):
            yield Record(smiles, _rdkit(mols, range(len(mols))), [k + 1] if n + 1 == len(groups) else None)


def _source(path: Path) -> tuple[Any, Any, list[Path]]:
    """What reads it, what it takes, and the files it is made of."""
    if path.suffix == ".msgpack":
        return _msgpack, path, [path]
    if path.suffix == ".npy":
        return _npy, path, [path]
    if path.is_dir():
        midi = [f for f in (path / f"{part}_data.pickle" for part in ("train", "val", "test")) if f.exists()]
        if midi:
            return _midi, midi, midi
        inner = path / "drugs" if (path / "drugs").is_dir() else path
        for pattern, reader in (("*.pickle", _pickles), ("*.sdf", _sdf)):
            if files := sorted(inner.glob(pattern)):
                return reader, files, files
        if (path / "geom_drugs_30.npy").exists():
            return _source(path / "geom_drugs_30.npy")
        raise ValueError(f"{path} holds no .pickle, no .sdf file and no geom_drugs_30.npy")
    if path.suffix == ".pickle":
        return _midi, [path], [path]
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    raise ValueError(f"{path} is none of GEOM's: give drugs_crude.msgpack, geom_drugs_30.npy or a folder")


# -- shards -----------------------------------------------------------------------------------------------------------


def convert_geom(
    path: str | Path, out: Path | None = None, *, lowest: int = LOWEST, skip: bool = False, progress: bool = True
) -> Path:
    """Converts a source into shards, or goes on with it; returns the folder.

    Args:
        path: the source, see above.
        out: the folder; by default one in the cache that is named after the source, its size and its date.
        lowest: how many conformers of each molecule are kept, those of lowest energy.
        skip: leave out damaged records, which the manifest counts and names; by default the first one is an error.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: what is no source; a damaged record, by its name.
        ModuleNotFoundError: msgpack is not installed.
    """
    from tqdm.auto import tqdm

    path = Path(path).resolve()
    reader, source, files = _source(path)
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(json.dumps([str(path), stats, lowest]).encode()).hexdigest()[:16]
    out = out or cache_folder() / f"geom-{key}"
    manifest = out / "manifest.json"
    state = {"source": str(path), "key": key, "shards": 0, "at": [], "molecules": 0, "conformers": 0, "skipped": []}
    if manifest.exists():
        state = json.loads(manifest.read_text())
        if state.get("key") != key:
            raise ValueError(f"{out} holds shards of another source, or of an earlier one: choose another folder")
    if state.get("done"):
        return out

    def save(**more: Any) -> None:
        state.update(more)
        with replacing(manifest) as temporary:
            temporary.write_text(json.dumps(state, indent=1) + "\n")

    kept: list[tuple[int, Conformer]] = []
    atoms, at, molecules, skipped = 0, state["at"], state["molecules"], list(state["skipped"])
    with tqdm(unit="mol", initial=molecules, desc=f"GEOM: {path.name}", disable=not progress) as bar:
        for record in reader(source, at, lowest):
            found, wrong = record.conformers, None
            if isinstance(found, Exception):
                found, wrong = [], found
            found = sorted(found, key=lambda c: c.energy)[:lowest]
            wrong = wrong or next((e for e in map(_fault, found) if e), None)
            if wrong is not None and not skip:
                raise ValueError(f"{path}: {record.name!r} is damaged ({wrong}): skip=True leaves such records out")
            if wrong is not None:
                skipped.append(record.name)
            else:
                kept += [(molecules, c) for c in found]
                atoms += sum(len(c.numbers) for c in found)
                molecules += 1
            bar.update()
            if record.after is None:
                continue
            at = record.after
            if atoms >= SHARD:
                _flush(out, state, kept)
                save(at=at, molecules=molecules, skipped=skipped)
                kept, atoms = [], 0
    if kept:
        _flush(out, state, kept)
    if not state["conformers"]:
        raise ValueError(f"{path} holds no molecule")
    save(at=at, molecules=molecules, skipped=skipped, done=True)
    if skipped:
        warnings.warn(f"{len(skipped):,} damaged records of {path} were left out, such as {skipped[0]!r}", stacklevel=2)
    return out


def _fault(c: Conformer) -> str | None:
    """What is wrong with a conformer."""
    if c.positions.shape != (len(c.numbers), 3) or not 0 < len(c.numbers) < 256:
        return f"{len(c.numbers)} atoms with positions {c.positions.shape}"
    if not np.isfinite(c.positions).all():
        return "NaN or infinite coordinate"
    if other := set(c.numbers.tolist()) - ADMITTED:
        z = min(other)
        return f"element {SYMBOLS[z] if 0 < z < len(SYMBOLS) else z}"
    return None


def _flush(out: Path, state: dict[str, Any], kept: list[tuple[int, Conformer]]) -> None:
    """Writes one shard."""
    ones = [c for _, c in kept]
    tensors = {
        "positions": torch.from_numpy(np.concatenate([c.positions for c in ones])).float(),
        "numbers": torch.from_numpy(np.concatenate([c.numbers for c in ones])).to(torch.uint8),
        "sizes": torch.tensor([len(c.numbers) for c in ones], dtype=torch.uint8),
        "molecule": torch.tensor([m for m, _ in kept]),
    }
    if all(c.bonds is not None for c in ones):
        bonds = np.concatenate([c.bonds for c in ones if c.bonds is not None])
        tensors |= {
            "ends": torch.from_numpy(bonds[:, :2].T.copy()).to(torch.uint8),
            "orders": torch.from_numpy(bonds[:, 2]).to(torch.uint8),
            "counts": torch.tensor([len(c.bonds) for c in ones if c.bonds is not None], dtype=torch.int16),
            "charges": torch.from_numpy(np.concatenate([c.charges for c in ones if c.charges is not None])).char(),
        }
    store(out / f"shard-{state['shards']:05d}.safetensors", tensors)
    state["shards"] += 1
    state["conformers"] += len(kept)


# -- the data set -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Geom(OwnMolecules):
    """Conformers of GEOM-Drugs. Those of one molecule are in one part, unless EDM's split is asked for.

    Args:
        molecule: number of each conformer's molecule, or of its graph, (M,).
        digest: hash of the shards.
        order: EDM's permutation of the conformers, where its split is wanted.
    """

    molecule: Tensor | None = field(default=None, repr=False)
    digest: str = ""
    order: Tensor | None = field(default=None, repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.digest} {self.heavy} {self.order is not None}".encode()).hexdigest()

    @property
    def keys(self) -> Tensor:
        assert self.molecule is not None
        return self.molecule

    @cached_property
    def split(self) -> dict[str, Tensor]:
        if self.order is None:
            return super().split
        tenth = len(self.order) // 10
        valid, test, train = self.order.split([tenth, tenth, len(self.order) - 2 * tenth])
        return {"train": train, "valid": valid, "test": test}


def load_geom(
    path: str | Path,
    *,
    lowest: int = LOWEST,
    most: int | None = None,
    split: str = "molecules",
    skip: bool = False,
    progress: bool = True,
) -> Geom:
    """GEOM-Drugs from a source, converted first where it was not yet.

    All conformers are padded in memory: with N atoms in the longest, 21 N bytes each, and N^2 more with bonds.

    Args:
        path: the source, see the module's text.
        lowest: conformers of each molecule.
        most: how many conformers to take, from the first, by default all.
        split: "molecules"; or "edm", by the conformers in geom_permutation.npy beside the source, as EDM's and GeoLDM's
            numbers are: conformers of one molecule are then in training and in test.
        skip: leave out damaged records.
        progress: show bars.

    Raises:
        FileNotFoundError, ValueError: see `convert_geom`; no permutation for EDM's split.
    """
    if split not in ("molecules", "edm"):
        raise ValueError(f"no split is called {split!r}: molecules or edm")
    path = Path(path)
    folder = convert_geom(path, lowest=lowest, skip=skip, progress=progress)
    stored, digests, count = [], [], 0
    for file in sorted(folder.glob("shard-*.safetensors")):
        if most is not None and count >= most:
            break
        if (found := load_stored(file)) is None:
            raise ValueError(f"{file} is damaged: delete the folder {folder} and convert again")
        stored.append(found[0])
        digests.append(found[1]["sha256"])
        count += len(found[0]["sizes"])
    names = set.intersection(*(set(s) for s in stored)) - {"ends"}
    whole = {k: torch.cat([s[k] for s in stored]) for k in names}
    graphs = "counts" in whole
    if graphs:
        whole["ends"] = torch.cat([s["ends"] for s in stored], 1)
    if most is not None and most < count:
        whole = _first(whole, most)
    x = padded(whole, ELEMENTS)
    if graphs:
        x = padded_graphs(x, whole)
    molecule = graph_keys(x) if _source(path)[0] is _npy else whole["molecule"]
    order = _edm_order(path, len(x)) if split == "edm" else None
    digest = hashlib.sha256(" ".join([*digests, str(most)]).encode()).hexdigest()
    where = f"{path.name}, {lowest} lowest conformers"
    return Geom(x, "GEOM-Drugs", where, molecule=molecule, digest=digest, order=order)


def _first(whole: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    atoms = int(whole["sizes"][:count].long().sum())
    cut = {k: v[:atoms] if k in ("positions", "numbers", "charges") else v[:count] for k, v in whole.items()}
    if "counts" in whole:
        bonds = int(whole["counts"][:count].long().sum())
        cut |= {"ends": whole["ends"][:, :bonds], "orders": whole["orders"][:bonds]}
    return cut


def _edm_order(path: Path, count: int) -> Tensor:
    file = (path if path.is_dir() else path.parent) / EDM_SPLIT
    if not file.exists():
        raise FileNotFoundError(f"EDM's split is that of {file}, which is not there")
    order = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.int64))
    if not torch.equal(order.sort().values, torch.arange(count)):
        raise ValueError(f"{file} is no permutation of the {count:,} conformers: take the one that belongs to them")
    warnings.warn(
        "EDM's split of GEOM permutes conformers: conformers of one molecule are in training and in test, so that "
        "novelty and losses look better than they are",
        stacklevel=3,
    )
    return order
