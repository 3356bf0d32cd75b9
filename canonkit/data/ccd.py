"""The Chemical Component Dictionary: drug-size molecules of the Protein Data Bank, in PyPI's biotite.

Every ligand that was ever seen in a structure, with bonds, charges and the ideal coordinates that Corina or OpenEye
computed for it: one conformer each, hydrogens included. It is not GEOM-Drugs, whose molecules have up to hundreds of
conformers from CREST. Taken are released non-polymers of 15 to 60 heavy atoms, at least eight of them carbon, of the
elements in `ELEMENTS`, with all coordinates, formal charges -1, 0 or 1, and as many hydrogens as RDKit's rule asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canonkit.chemistry.bonds import padded, padded_graphs
from canonkit.chemistry.formats import to_rdkit
from canonkit.data.own import OwnMolecules, graph_keys
from canonkit.data.stored import content_hash, installed_files, load_stored, store
from canonkit.extras import require
from canonkit.files import cache_folder
from canonkit.molecules import ATOMIC_NUMBERS, Molecules

BIOTITE = "1.6.0"
ELEMENTS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "As", "Se", "Br", "I")
FEWEST, MOST, CARBONS = 15, 60, 8  # heavy atoms, and carbons among them
ORDERS = {"SING": 1, "DOUB": 2, "TRIP": 3}
# Of what biotite 1.6.0 holds of these, before RDKit has looked; another version's dictionary is another data set.
SHA256 = "035799891a25c6005abecb7bb43777e7a2d6f1f28a8ac5b30dd77b5ead3a08b5"


@dataclass(frozen=True, eq=False)
class CCD(OwnMolecules):
    """The data set: molecules in the dictionary's order, titled by their component's identifier.

    Those with one graph of heavy atoms, such as stereoisomers, are in one part.

    Args:
        ragged: what the cache holds.
        digest: its hash.
    """

    ragged: dict[str, Tensor] | None = field(default=None, repr=False)
    digest: str = ""

    @property
    def sha256(self) -> str:
        return content_hash({"heavy" if self.heavy else "all": _bytes(self.digest)})

    @property
    def keys(self) -> Tensor:
        assert self.ragged is not None
        return self.ragged["keys"]

    def without_hydrogens(self, *, progress: bool = False) -> CCD:
        return self if self.heavy or self.ragged is None else _made(_heavy(self.ragged), self.digest, heavy=True)


def load_ccd(*, heavy: bool = False, progress: bool = True) -> CCD:
    """The dictionary from the cache, parsed first where it is missing or damaged, in about a minute.

    Args:
        heavy: heavy atoms alone, which needs little memory: 0.2 GB instead of 2.
        progress: show bars.

    Raises:
        ModuleNotFoundError: biotite is not installed.
        ValueError: its file is damaged.
    """
    cache = cache_folder() / f"ccd-{BIOTITE}.safetensors"
    found = load_stored(cache)
    if found is None:
        stored = _parsed(progress)
        found = stored, store(cache, stored)
    stored, about = found
    return _made(_heavy(stored) if heavy else stored, about["sha256"], heavy)


def _made(stored: dict[str, Tensor], digest: str, heavy: bool) -> CCD:
    molecules = _padded(stored, tuple(e for e in ELEMENTS if e != "H") if heavy else ELEMENTS)
    name = "CCD-heavy" if heavy else "CCD"
    where = f"biotite {BIOTITE}, Chemical Component Dictionary of the wwPDB, ideal coordinates"
    return CCD(molecules, name, where, heavy, ragged=stored, digest=digest)


def _padded(stored: dict[str, Tensor], elements: tuple[str, ...]) -> Molecules:
    titles = tuple(bytes(row).decode().strip() for row in stored["ids"].numpy())
    return padded_graphs(padded(stored, elements).with_(titles=titles), stored)


def _heavy(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ragged form without hydrogens: the dictionary's bonds are in Kekulé form already."""
    kept, sizes = stored["numbers"] != 1, stored["sizes"].long()
    molecule = torch.arange(len(sizes)).repeat_interleave(sizes)
    first = sizes.cumsum(0) - sizes
    heavy_sizes = torch.bincount(molecule[kept], minlength=len(sizes))
    heavy_first = heavy_sizes.cumsum(0) - heavy_sizes
    place = kept.long().cumsum(0) - 1 - heavy_first[molecule]  # of an atom that is kept, in its molecule
    b = torch.arange(len(sizes)).repeat_interleave(stored["counts"].long())
    ends = stored["ends"].long() + first[b]
    both = kept[ends].all(0)
    return stored | {
        "positions": stored["positions"][kept],
        "numbers": stored["numbers"][kept],
        "charges": stored["charges"][kept],
        "sizes": heavy_sizes.to(torch.uint8),
        "ends": place[ends[:, both]].to(torch.uint8),
        "orders": stored["orders"][both],
        "counts": torch.bincount(b[both], minlength=len(sizes)).to(torch.uint8),
    }


# -- from biotite's file ----------------------------------------------------------------------------------------------


def _parsed(progress: bool) -> dict[str, Tensor]:
    """positions (A, 3), numbers and charges (A,), sizes (M,), ends (2, E), orders (E,), counts (M,), ids (M, 5)."""
    require("biotite")
    path = next(iter(installed_files("biotite", "structure/info/components.bcif")), Path("components.bcif"))
    remedy = f"pip install --force-reinstall biotite=={BIOTITE}"
    try:
        found = _selected(path)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): {remedy}") from error
    if content_hash(found) != SHA256:
        raise ValueError(f"{path} is not the dictionary of biotite {BIOTITE}: {remedy}")
    kept = _by_rule(found, progress)
    stored = _rows(found, kept)
    keys = []
    heavy, elements = _heavy(stored), tuple(e for e in ELEMENTS if e != "H")
    for rows in torch.arange(len(kept[kept])).split(4096):
        keys.append(graph_keys(_padded(_rows(heavy, rows), elements)))
    stored["keys"] = torch.cat(keys)
    return stored


def _selected(path: Path) -> dict[str, Tensor]:
    """The molecules that the file's own columns admit."""
    from biotite.structure.io.pdbx import BinaryCIFFile

    block = BinaryCIFFile.read(path).block
    component, atom, bond = block["chem_comp"], block["chem_comp_atom"], block["chem_comp_bond"]
    identifiers = component["id"].as_array()
    released = component["pdbx_release_status"].as_array() == "REL"
    whole = np.char.lower(component["type"].as_array()) == "non-polymer"
    admitted = dict(zip(identifiers.tolist(), (released & whole).tolist(), strict=True))

    owner, symbol = atom["comp_id"].as_array(), np.char.capitalize(atom["type_symbol"].as_array())
    symbol[symbol == "D"] = "H"
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    ids, of = owner[starts], np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(owner)]))
    positions = np.stack([_floats(atom[f"pdbx_model_Cartn_{k}_ideal"]) for k in "xyz"], 1)
    charges = atom["charge"].as_array()
    heavy = np.bincount(of, symbol != "H")
    fits = np.array([admitted[c] for c in ids.tolist()]) & (heavy >= FEWEST) & (heavy <= MOST)
    fits &= np.bincount(of, symbol == "C") >= CARBONS
    odd = ~np.isin(symbol, ELEMENTS) | np.isnan(positions).any(1) | (np.abs(charges) > 1)
    fits &= np.bincount(of, odd) == 0

    chosen = fits[of]
    rank = np.arange(len(owner)) - starts[of]
    row = {c: k for k, c in enumerate(ids.tolist()) if fits[k]}
    atoms = (v[chosen].tolist() for v in (owner, atom["atom_id"].as_array(), rank))
    where = {(c, a): k for c, a, k in zip(*atoms, strict=True)}
    columns = [bond[k].as_array().tolist() for k in ("comp_id", "atom_id_1", "atom_id_2", "value_order")]
    bonds = sorted(
        (row[c], *sorted((where[c, a], where[c, b])), ORDERS[order])
        for c, a, b, order in zip(*columns, strict=True)
        if c in row
    )
    numbers = np.array([ATOMIC_NUMBERS[s] for s in symbol[chosen].tolist()])
    table = np.array(bonds)
    count = {c: k for k, c in enumerate(np.flatnonzero(fits).tolist())}
    molecule = np.array([count[r] for r in table[:, 0].tolist()])
    names = np.array([c.ljust(5) for c in ids[fits].tolist()], dtype="S5")
    return {
        "positions": torch.from_numpy(positions[chosen]).float(),
        "numbers": torch.from_numpy(numbers).to(torch.uint8),
        "charges": torch.from_numpy(charges[chosen].astype(np.int8)),
        "sizes": torch.from_numpy(np.bincount(of)[fits]).to(torch.uint8),
        "ends": torch.from_numpy(table[:, 1:3].T.copy()).to(torch.uint8),
        "orders": torch.from_numpy(table[:, 3]).to(torch.uint8),
        "counts": torch.from_numpy(np.bincount(molecule, minlength=len(names))).to(torch.uint8),
        "ids": torch.from_numpy(names.view(np.uint8).reshape(-1, 5).copy()),
    }


def _floats(column) -> np.ndarray:
    """A column of numbers, NaN where there is none."""
    values = column.as_array(np.float64)
    return values if column.mask is None else np.where(column.mask.array != 0, np.nan, values)


def _rows(stored: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Some of the molecules of a ragged form; `rows` are numbers in order, or a mask."""
    chosen = torch.zeros(len(stored["sizes"]), dtype=torch.bool)
    chosen[rows] = True
    atoms = chosen.repeat_interleave(stored["sizes"].long())
    bonds = chosen.repeat_interleave(stored["counts"].long())
    which = dict.fromkeys(("positions", "numbers", "charges"), atoms) | {"orders": bonds}
    picked = {k: v[which.get(k, chosen)] for k, v in stored.items() if k != "ends"}
    return picked | {"ends": stored["ends"][:, bonds]}


def _by_rule(stored: dict[str, Tensor], progress: bool) -> Tensor:
    """Which molecules RDKit sanitises and adds no hydrogens to, with no two atoms in one place, (M,) bool."""
    from rdkit import Chem, rdBase
    from tqdm.auto import tqdm

    kept = torch.zeros(len(stored["sizes"]), dtype=torch.bool)
    with rdBase.BlockLogs(), tqdm(total=len(kept), desc="CCD: parsing once", unit="mol", disable=not progress) as bar:
        for rows in torch.arange(len(kept)).split(512):
            piece = _padded(_rows(stored, rows), ELEMENTS)
            apart = piece.distances().add(torch.eye(piece.mask.shape[1])).masked_fill(~_pairs(piece), 9) > 0.5
            for k, mol in zip(rows.tolist(), to_rdkit(piece), strict=True):
                try:
                    Chem.SanitizeMol(mol)
                except Chem.MolSanitizeException:
                    continue
                kept[k] = all(a.GetNumImplicitHs() == 0 and a.GetNumRadicalElectrons() == 0 for a in mol.GetAtoms())
            kept[rows] &= apart.flatten(1).all(1)
            bar.update(len(rows))
    return kept


def _pairs(x: Molecules) -> Tensor:
    return x.mask[:, :, None] & x.mask[:, None]


def _bytes(digest: str) -> Tensor:
    """A hexadecimal hash as bytes, to be hashed with others."""
    return torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)
