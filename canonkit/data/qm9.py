"""QM9: 130,831 small organic molecules of H, C, N, O, F with relaxed positions (Ramakrishnan et al. 2014).

The numbers come from the CSV files inside the installed qm9pack wheel (133,885 molecules less the 3,054 that failed the
authors' consistency check), are parsed once and kept in a cache file whose content hash is checked at every load.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canonkit.chemistry.bonds import padded, padded_graphs, perceive_bonds, ragged_graphs
from canonkit.chemistry.hydrogens import without_hydrogens
from canonkit.data.base import Dataset, Form
from canonkit.data.qm9_files import COUNT, QM9PACK, REINSTALL, parse_pyg, parse_qm9pack, parse_sdf, stated_smiles
from canonkit.data.stored import content_hash, load_stored, store
from canonkit.files import cache_folder
from canonkit.molecules import ATOMIC_NUMBERS, ELEMENTS, Molecules

ATOMS = 2_359_210
# Of the tensors parsed from qm9pack 1.0.3.
SHA256 = "ea30f52763660e7223e14e3f0ae0e14db8d784d7f92267b66f550914e3a7f238"
LONGEST = 29
HEAVY = tuple(e for e in ELEMENTS if e != "H")
MOST_HEAVY = 9  # heavy atoms of the longest molecules
FORM, HEAVY_FORM = Form(ELEMENTS, LONGEST), Form(HEAVY, MOST_HEAVY, heavy=True)


@dataclass(frozen=True, eq=False)
class QM9(Dataset):
    """The data set: all molecules, their numbers in GDB-9, and EDM's split.

    Args:
        molecules: all 130,831, in order of `index`.
        index: number in GDB-9, counted from 1, (M,).
        sha256: hash of the content, 64 hexadecimal digits.
        known: where bonds and charges can be relied on, (M,) bool, see `with_graphs`; None where there are none.
    """

    molecules: Molecules
    index: Tensor
    sha256: str
    known: Tensor | None = None
    provenance = f"qm9pack {QM9PACK}, Ramakrishnan et al. 2014"

    @property
    def name(self) -> str:
        return "QM9-heavy" if self.form.heavy else "QM9"

    @property
    def form(self) -> Form:
        return HEAVY_FORM if self.molecules.elements == HEAVY else FORM

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

    def with_graphs(self, *, progress: bool = True) -> QM9:
        """With bonds, formal charges, and `known`: where they agree with the data set's SMILES.

        The split leaves out the molecules that disagree. The first call takes about two minutes.
        """
        if self.molecules.bonds is not None:
            return self
        cache = cache_folder() / f"qm9-bonds-{self.sha256[:16]}.safetensors"
        found = load_stored(cache)
        if found is None:
            perceived, smiles = perceive_bonds(self.molecules, progress=progress)
            stated = stated_smiles(set(self.index.tolist()))
            known = torch.tensor(
                [s is not None and s == stated[k] for s, k in zip(smiles, self.index.tolist(), strict=True)]
            )
            stored = ragged_graphs(perceived) | {"known": known}
            found = stored, store(cache, stored)
        stored, about = found
        return replace(
            self,
            molecules=padded_graphs(self.molecules, stored),
            sha256=content_hash({"bonds": _digest(about["sha256"]), "positions": _digest(self.sha256)}),
            known=stored["known"],
        )

    def without_hydrogens(self, *, progress: bool = True) -> QM9:
        """The heavy atoms, C, N, O, F, at most nine of a molecule, with their bonds."""
        if self.form.heavy:
            return self
        qm9 = self.with_graphs(progress=progress)
        cache = cache_folder() / f"qm9-heavy-{qm9.sha256[:16]}.safetensors"
        found = load_stored(cache)
        rows = torch.ones(len(qm9.index)).nonzero()[:, 0] if qm9.known is None else qm9.known.nonzero()[:, 0]
        if found is None:
            heavy = without_hydrogens(qm9.molecules[rows], progress=progress)
            stored = {"positions": heavy.positions[heavy.mask], "types": heavy.types[heavy.mask], "sizes": heavy.sizes}
            stored |= ragged_graphs(heavy)
            found = stored, store(cache, stored)
        stored, about = found
        mask = torch.zeros(len(qm9.index), MOST_HEAVY, dtype=torch.bool)
        mask[rows] = torch.arange(MOST_HEAVY) < stored["sizes"][:, None]
        positions, types = torch.zeros(*mask.shape, 3), torch.zeros(mask.shape, dtype=torch.long)
        positions[mask], types[mask] = stored["positions"], stored["types"]
        counts = torch.zeros(len(qm9.index), dtype=torch.uint8)
        counts[rows] = stored["counts"]
        plain = Molecules(positions, types, mask, HEAVY)
        molecules = padded_graphs(plain, stored | {"counts": counts})
        sha256 = content_hash({"heavy": _digest(about["sha256"]), "all": _digest(qm9.sha256)})
        return replace(qm9, molecules=molecules, sha256=sha256)

    def __repr__(self) -> str:
        return f"{self.name}({self.molecules}, sha256 {self.sha256[:12]})"


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
        cache, parse = cache_folder() / "qm9.safetensors", parse_qm9pack
    else:
        source = Path(path).resolve()
        if not source.is_file():
            raise FileNotFoundError(f"there is no file {source}: give gdb9.sdf or PyG's processed data_v3.pt")
        key = hashlib.sha256(f"{source} {source.stat().st_size} {source.stat().st_mtime_ns}".encode()).hexdigest()
        cache = cache_folder() / f"qm9-{key[:16]}.safetensors"

        def parse(progress):
            if source.suffix == ".sdf":
                return parse_sdf(source, _numbers(progress), progress)
            return parse_pyg(source, progress)

    found = load_stored(cache)
    if found is None or (path is None and found[1]["sha256"] != SHA256):
        stored = parse(progress)
        _check(stored, "qm9pack" if path is None else str(path))
        if path is None and (wrong := content_hash(stored)) != SHA256:
            raise ValueError(f"qm9pack's content hash is {wrong[:12]}, expected {SHA256[:12]}: {REINSTALL}")
        found = stored, store(cache, stored)
    stored, about = found
    return QM9(padded(stored, ELEMENTS, LONGEST), stored["index"].long(), about["sha256"])


def _numbers(progress: bool) -> set[int]:
    """The numbers in GDB-9 of QM9's molecules."""
    return set(load_qm9(progress=progress).index.tolist())


# -- the ragged form: positions (A, 3), numbers (A,), sizes (M,), index (M,) ------------------------------------------


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
        padded(stored, ELEMENTS, LONGEST).check()
    except ValueError as error:
        raise ValueError(f"{source}: {error}: {remedy}") from error


def _digest(digest: str) -> Tensor:
    """A hexadecimal hash as bytes, to be hashed with others."""
    return torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)
