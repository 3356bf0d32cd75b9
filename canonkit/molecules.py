r"""Molecules: a padded batch of atoms.

A molecule of n atoms is a set of positions x_i in R^3 (Å) and element types a_i. A batch stacks B of them, padded to
the longest: entries behind a molecule's last atom are zero and masked out. B batch, N atoms (padded).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from canonkit.groups import act

ELEMENTS = ("H", "C", "N", "O", "F")  # QM9's table, in EDM's order

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts "
    "Og"
).split()
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}
AROMATIC = 4  # the order of an aromatic bond, as in MDL files
MOST_CHARGED = 100  # elementary charges of an atom
CLOSEST = 0.1  # Å; atoms nearer than this are one atom twice
SLOTS = 2**23  # places for atoms; more than this must not be nearly all padding
FARTHEST = 1e9  # Å; beyond, float32 has no squares to add
WIDE = 2**27  # bonds of more pairs than this are kept in bytes
MOST = 2**34  # and of more than this not at all


@dataclass(frozen=True, eq=False)
class Molecules:
    """A padded batch of molecules; methods return new ones.

    Args:
        positions: coordinates in Å, (B, N, 3); zero at padding.
        types: index into `elements`, (B, N) int64; zero at padding.
        mask: True at real atoms, (B, N) bool; each molecule's atoms come first.
        elements: the element table, symbols.
        charges: formal charges, (B, N) integers, or None.
        bonds: bond orders, (B, N, N) integers, symmetric, 0 where there is none, 4 for aromatic, or None.
        radicals: unpaired electrons, (B, N) integers, or None where there are none.
        titles: one line of text per molecule, or None.
        data: named fields of text per molecule, such as an SDF record has, or None.
    """

    positions: Tensor
    types: Tensor
    mask: Tensor
    elements: tuple[str, ...] = ELEMENTS
    charges: Tensor | None = None
    bonds: Tensor | None = None
    radicals: Tensor | None = None
    titles: tuple[str, ...] | None = None
    data: tuple[dict[str, str], ...] | None = None

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_arrays(cls, positions, numbers, *, elements: Sequence[str] | None = None, **more) -> Molecules:
        """From positions (B, N, 3) in Å and atomic numbers (B, N), 0 for padding.

        `elements` defaults to QM9's table where that suffices, else to the elements present. `more` are charges, bonds,
        radicals, titles and data. In bonds 1.5 counts as aromatic.

        Raises:
            ValueError: for shapes that do not fit, an element that the table lacks, padding before an atom; numbers,
                charges or bonds that are no whole numbers; bonds that are one-sided, or reach padding.
        """
        numbers, positions = _whole("numbers", numbers), _floats(positions)
        if positions.ndim != 3 or positions.shape[-1] != 3 or positions.shape[:2] != numbers.shape:
            raise ValueError(
                f"positions {tuple(positions.shape)} and numbers {tuple(numbers.shape)} do not fit: "
                "give (B, N, 3) in Å and (B, N), with 0 for padding"
            )
        more = {k: v for k, v in more.items() if v is not None}
        for name in ("charges", "radicals", "bonds"):
            if name not in more:
                continue
            shape = (*numbers.shape, numbers.shape[1]) if name == "bonds" else tuple(numbers.shape)
            if (found := tuple(np.shape(more[name]))) != shape:
                raise ValueError(f"{name} {found} do not fit numbers {tuple(numbers.shape)}: give {shape}")
            more[name] = _whole(name, more[name])
        for name in ("titles", "data"):
            if name in more and len(more[name]) != len(numbers):
                raise ValueError(f"{len(more[name])} {name} for {len(numbers)} molecules: give one each")
        more |= {"titles": tuple(map(str, more["titles"]))} if "titles" in more else {}
        more |= {"data": tuple(map(dict, more["data"]))} if "data" in more else {}
        present = set(numbers.unique().tolist()) - {0}
        if unknown := [n for n in present if not 0 < n < len(SYMBOLS)]:
            raise ValueError(f"atomic number {unknown[0]} is not one from 1 to {len(SYMBOLS) - 1}")
        if elements is None:
            symbols = {SYMBOLS[n] for n in present}
            elements = ELEMENTS if symbols <= set(ELEMENTS) else tuple(SYMBOLS[n] for n in sorted(present))
        if unknown := [e for e in elements if e not in ATOMIC_NUMBERS]:
            raise ValueError(f"the table {tuple(elements)} has no element {unknown[0]!r}: give symbols, such as 'C'")
        table = torch.full((len(SYMBOLS),), -1)
        for k, symbol in enumerate(elements):
            table[ATOMIC_NUMBERS[symbol]] = k
        mask = numbers > 0
        types = torch.where(mask, table[numbers.clamp(0, len(SYMBOLS) - 1)], 0)
        if (types < 0).any():
            symbol = SYMBOLS[int(numbers[types < 0][0])]
            raise ValueError(f"element {symbol} is not in the table {tuple(elements)}: leave such molecules out")
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError("padding (number 0) stands before an atom: put each molecule's atoms first")
        positions = torch.where(mask[..., None], positions, 0)
        if "bonds" in more:
            _check_bonds(more["bonds"], mask)
        return cls(positions, types, mask, tuple(elements), **more)

    @classmethod
    def from_list(
        cls,
        positions: Sequence,
        numbers: Sequence,
        *,
        charges: Sequence | None = None,
        radicals: Sequence | None = None,
        bonds: Sequence | None = None,
        **options,
    ) -> Molecules:
        """From one (n, 3) array of positions and one (n,) array of atomic numbers per molecule.

        Charges and radicals are (n,) too; bonds are rows (i, j, order), (E, 3), each bond once.
        """
        if not len(numbers) or len(positions) != len(numbers):
            counts = f"{len(positions)} have positions, {len(numbers)} have numbers"
            raise ValueError(f"no molecules given: {counts}" if not len(numbers) else f"of the molecules {counts}")
        positions, numbers = [_array(xb) for xb in positions], [_array(zb) for zb in numbers]
        sizes = np.array([len(zb) for zb in numbers])
        for b, (xb, zb) in enumerate(zip(positions, numbers, strict=True)):
            if not len(zb):
                raise ValueError(f"molecule {b} has no atoms")
            if xb.shape != (len(zb), 3):
                raise ValueError(f"molecule {b} has {len(zb)} atoms but positions {xb.shape}: give ({len(zb)}, 3)")
        slots = len(sizes) * int(sizes.max())
        if slots > SLOTS and slots > 20 * sizes.sum():
            raise ValueError(
                f"{len(sizes):,} molecules of mostly few atoms would be padded to {sizes.max():,} atoms each: keep the "
                "longest molecules in a file of their own"
            )
        mask = np.arange(sizes.max()) < sizes[:, None]

        def padded(rows: Sequence, *width: int) -> np.ndarray:
            flat = np.concatenate([_array(row) for row in rows])
            out = np.zeros((*mask.shape, *width), dtype=flat.dtype)
            out[mask] = flat
            return out

        z = padded(numbers)
        if z.dtype.kind in "iuf" and (z < 1)[mask].any():
            raise ValueError(
                f"molecule {int(((z < 1) & mask).any(1).argmax())} has an atom of atomic number 0 or below"
            )
        more = {k: padded(v) for k, v in (("charges", charges), ("radicals", radicals)) if v is not None}
        made = cls.from_arrays(padded(positions, 3), z, **more, **options)
        return made if bonds is None else replace(made, bonds=_dense(bonds, made.mask))

    @classmethod
    def cat(cls, batches: Sequence[Molecules]) -> Molecules:
        """One batch of all molecules of `batches` (same element table), padded to the longest."""
        if not batches:
            raise ValueError("no molecules given")
        longest = max(m.mask.shape[1] for m in batches)
        tables = {m.elements for m in batches}
        if len(tables) > 1:
            raise ValueError(f"element tables differ: {sorted(tables)}; read all with the same `elements`")
        if any(m.radicals is not None for m in batches):
            batches = [m.with_(radicals=torch.zeros_like(m.types)) if m.radicals is None else m for m in batches]
        if len({tuple(m._tensors()) for m in batches}) > 1:
            raise ValueError("some of the batches know bonds or charges, some do not: drop them with with_(bonds=None)")
        padded = [m.pad(longest) for m in batches]
        tensors = {k: torch.cat([getattr(m, k) for m in padded]) for k in padded[0]._tensors()}
        return replace(padded[0], **tensors, titles=_joined(batches, "titles", ""), data=_joined(batches, "data", {}))

    def check(self) -> Molecules:
        """Itself, after checking that coordinates are finite and no two atoms coincide.

        Raises:
            ValueError: naming the molecule, for NaN or infinite coordinates, or atoms closer than 0.1 Å.
        """
        from scipy.spatial import KDTree

        self.check_finite()
        # One tree of all atoms, each molecule in a layer of its own: no table of all pairs.
        layer, atom = self.mask.nonzero().T.cpu().numpy()
        x = np.column_stack([self.positions[self.mask].detach().cpu().double().numpy(), layer])
        tree = KDTree(x, balanced_tree=False, compact_nodes=False)
        nearest, which = tree.query(x, k=2, distance_upper_bound=CLOSEST)
        if len(close := np.flatnonzero(np.isfinite(nearest[:, 1]))):
            k = close[0]
            other = next(o for o in np.asarray(which)[k].tolist() if o != k)
            i, j = sorted((atom[k], atom[other]))
            d = np.linalg.norm(x[k] - x[other])
            raise ValueError(f"atoms {i} and {j} of molecule {layer[k]} lie {d:.3f} Å apart (less than {CLOSEST} Å)")
        return self

    def check_finite(self) -> None:
        """Raises ValueError that names a molecule with a NaN, infinite or absurd coordinate."""
        x = self.positions.detach()
        odd = ~(x.isfinite() & (x.abs() <= FARTHEST)).flatten(1).all(1)
        if odd.any():
            b = int(odd.nonzero()[0])
            most = float(x[b].abs().max())
            what = f"coordinate of {most:g}" if most < float("inf") else "NaN or infinite coordinate"
            raise ValueError(f"molecule {b} has a {what}: {'give Å, or ' if most < float('inf') else ''}leave it out")

    # -- looking at it ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Molecules]:
        return (self[b : b + 1].trim() for b in range(len(self)))

    def __getitem__(self, index) -> Molecules:
        """Molecules chosen by an integer, a slice, a list or a tensor; always a batch."""
        if np.ndim(index) == 0 and not isinstance(index, slice):
            index = [range(len(self))[int(index)]]
        new = {k: v[index] for k, v in self._tensors().items()}
        if self.titles is not None or self.data is not None:
            rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index].tolist()
            new |= {k: tuple(v[b] for b in rows) for k in ("titles", "data") if (v := getattr(self, k)) is not None}
        return replace(self, **new)

    def __repr__(self) -> str:
        sizes = self.sizes
        span = f"{int(sizes.min())}-{int(sizes.max())} atoms" if len(self) else "none"
        return f"Molecules({len(self):,}: {span}, {' '.join(self.elements)}, {self.positions.dtype})"

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}

    @property
    def sizes(self) -> Tensor:
        """Atoms per molecule, (B,)."""
        return self.mask.sum(1)

    @property
    def numbers(self) -> Tensor:
        """Atomic numbers, (B, N), 0 at padding."""
        table = torch.tensor([ATOMIC_NUMBERS[e] for e in self.elements], device=self.types.device)
        return table[self.types] * self.mask

    def graph(self) -> tuple[Tensor, Tensor]:
        """Bonds and charges.

        Raises:
            ValueError: there are none.
        """
        if self.bonds is None or self.charges is None:
            where = "canonkit.chemistry.bonds.perceive_bonds(x) adds them"
            raise ValueError(f"these molecules have no bonds and charges: {where}")
        return self.bonds, self.charges

    @property
    def padding(self) -> Tensor | None:
        """The mask, or None where nothing is padded. During the capture of a CUDA graph: the mask."""
        if self.mask.is_cuda and torch.cuda.is_current_stream_capturing():
            return self.mask
        return None if bool(self.mask.all()) else self.mask

    @property
    def device(self) -> torch.device:
        return self.positions.device

    def distances(self) -> Tensor:
        """|x_i - x_j| in Å, (B, N, N)."""
        return torch.linalg.vector_norm(self.positions[:, :, None] - self.positions[:, None], dim=-1)

    # -- changing it --------------------------------------------------------------------------------------------------

    def with_(self, **changes) -> Molecules:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def with_elements(self, elements: Sequence[str]) -> Molecules:
        """The same molecules by another table of elements.

        Raises:
            ValueError: naming an element that is there and not in the table.
        """
        elements = tuple(elements)
        if elements == self.elements:
            return self
        present = self.types[self.mask].unique().tolist()
        if missing := [self.elements[k] for k in present if self.elements[k] not in elements]:
            raise ValueError(f"element {missing[0]} is not in the table {elements}: leave such molecules out")
        places = [elements.index(e) if e in elements else 0 for e in self.elements]
        return replace(self, types=torch.tensor(places, device=self.device)[self.types] * self.mask, elements=elements)

    def to(self, target: torch.dtype | torch.device | str) -> Molecules:
        """On another device, or with positions of another floating-point dtype."""
        if isinstance(target, torch.dtype):
            return replace(self, positions=self.positions.to(target))
        return replace(self, **{k: v.to(target) for k, v in self._tensors().items()})

    def centroid(self) -> Tensor:
        """Mean position of each molecule's atoms, (B, 1, 3)."""
        return self.positions.sum(1, keepdim=True) / self.sizes.clamp(min=1)[:, None, None]

    def centred(self) -> Molecules:
        """x_i - mean_j x_j."""
        return replace(self, positions=(self.positions - self.centroid()) * self.mask[..., None])

    def act(self, g: Tensor) -> Molecules:
        """g x for g of O(3), (B, 3, 3)."""
        return replace(self, positions=act(g, self.positions))

    def translate(self, v: Tensor) -> Molecules:
        """x_i + v for v (B, 3) in Å."""
        return replace(self, positions=(self.positions + v[:, None]) * self.mask[..., None])

    def permute(self, order: Tensor) -> Molecules:
        """Atoms reordered: new atom i is old atom order[b, i]; order (B, N) leaves padding last."""
        b = torch.arange(len(self), device=self.device)[:, None]
        new = {k: v[b, order] for k, v in self._tensors().items() if k != "bonds"}
        if self.bonds is not None:
            new["bonds"] = self.bonds[b[..., None], order[:, :, None], order[:, None, :]]
        return replace(self, **new)

    def pad(self, atoms: int) -> Molecules:
        """Padded to at least `atoms` atoms."""
        more = max(0, atoms - self.mask.shape[1])
        widths = {"positions": (0, 0, 0, more), "bonds": (0, more, 0, more)}
        grow = torch.nn.functional.pad
        return replace(self, **{k: grow(v, widths.get(k, (0, more))) for k, v in self._tensors().items()})

    def trim(self) -> Molecules:
        """Without the padding that no molecule of the batch needs."""
        n = int(self.sizes.max()) if len(self) else 0
        cut = {k: v[:, :n, :n] if k == "bonds" else v[:, :n] for k, v in self._tensors().items()}
        return replace(self, **cut)


def _array(values) -> np.ndarray:
    """A NumPy array of a list, an array, or a tensor of any device and type, with or without a gradient."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _floats(values) -> Tensor:
    """Positions as float32, or float64 where they are."""
    if isinstance(values, Tensor):  # keeps its gradient
        return values if values.dtype in (torch.float32, torch.float64) else values.float()
    values = np.asarray(values)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"positions are coordinates in Å, not {values.dtype}")
    return torch.as_tensor(values if values.dtype in (np.float32, np.float64) else values.astype(np.float32))


def _whole(name: str, values) -> Tensor:
    """Integers, or ValueError: nothing is rounded."""
    values = _array(values)
    meaning = {
        "numbers": "atomic numbers, such as 6 for carbon",
        "charges": "formal charges, whole numbers",
        "radicals": "counts of unpaired electrons",
        "bonds": "orders 0 to 3, and 4 for aromatic",
    }[name]
    if values.dtype.kind not in "iufb":
        raise ValueError(f"{name} are {meaning}, not {values.dtype}")
    if values.dtype.kind == "f":
        if name == "bonds":
            values = np.where(values == 1.5, AROMATIC, values)
        if (odd := values[values != np.round(values)]).size or (odd := values[~np.isfinite(values)]).size:
            raise ValueError(f"{name} are {meaning}, not {odd[0]}")
    if name == "charges" and values.size and (odd := values[np.abs(values) > MOST_CHARGED]).size:
        raise ValueError(f"{name} are {meaning}, not {odd[0]}")
    if name == "radicals" and (values < 0).any():
        raise ValueError(f"{name} are {meaning}, not {values.min()}")
    if name == "bonds" and values.size > WIDE:
        return torch.as_tensor(values.clip(-1, 127).astype(np.int8))
    return torch.as_tensor(values.astype(np.int64))


def _check_bonds(bonds: Tensor, mask: Tensor) -> None:
    """Raises ValueError that names the first molecule with bonds that cannot be."""
    for b, (one, real) in enumerate(zip(bonds, mask, strict=True)):  # one at a time: bounded memory
        if ((one < 0) | (one > AROMATIC)).any():
            odd = int(one[(one < 0) | (one > AROMATIC)][0])
            raise ValueError(f"molecule {b} has a bond of order {odd}: give 0 to 3, and 4 for aromatic")
        if not one.equal(one.T):
            i, j = (one != one.T).nonzero()[0].tolist()
            raise ValueError(f"molecule {b} has a one-sided bond of atoms {i} and {j}: give bonds[i, j] = bonds[j, i]")
        if one.diagonal().any() or one[~real].any():
            raise ValueError(f"molecule {b} has a bond from an atom to itself or to padding: set it to 0")


def _dense(bonds: Sequence, mask: Tensor) -> Tensor:
    """Bonds (B, N, N) of rows (i, j, order) per molecule."""
    pairs = len(mask) * mask.shape[1] ** 2
    if pairs > MOST:
        raise ValueError(
            f"bonds of {len(mask):,} molecules padded to {mask.shape[1]:,} atoms would take {pairs / 1e9:,.0f} GB: "
            "keep the longest molecules in a file of their own"
        )
    b = np.repeat(np.arange(len(bonds)), [len(rows) for rows in bonds])
    i, j, order = torch.as_tensor(np.concatenate([_array(rows).reshape(-1, 3) for rows in bonds]).astype(np.int64)).T
    b, sizes = torch.as_tensor(b), mask.sum(1)
    wrong = (i == j) | (torch.minimum(i, j) < 0) | (torch.maximum(i, j) >= sizes[b]) | (order < 1) | (order > AROMATIC)
    if wrong.any():
        k = int(wrong.nonzero()[0])
        raise ValueError(
            f"molecule {b[k]} has a bond of order {order[k]} between atoms {i[k]} and {j[k]}: "
            f"give two of its {sizes[b[k]]} atoms and an order 1 to 3, or 4 for aromatic"
        )
    dense = torch.zeros(*mask.shape, mask.shape[1], dtype=torch.int64 if pairs <= WIDE else torch.int8)
    dense[b, i, j] = dense[b, j, i] = order.to(dense.dtype)
    return dense


def _joined(batches: Sequence[Molecules], name: str, missing: object) -> tuple | None:
    """Titles or data of all batches, None where no batch has any."""
    if all(getattr(m, name) is None for m in batches):
        return None
    return tuple(entry for m in batches for entry in (getattr(m, name) or [missing] * len(m)))
