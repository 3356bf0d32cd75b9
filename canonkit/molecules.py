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
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe"
).split()
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}


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
    """

    positions: Tensor
    types: Tensor
    mask: Tensor
    elements: tuple[str, ...] = ELEMENTS
    charges: Tensor | None = None
    bonds: Tensor | None = None

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_arrays(cls, positions, numbers, *, elements: Sequence[str] | None = None, **more) -> Molecules:
        """From positions (B, N, 3) in Å and atomic numbers (B, N), 0 for padding.

        `elements` defaults to QM9's table where that suffices, else to the elements present.

        Raises:
            ValueError: for shapes that do not fit, an element that the table lacks, padding before an atom.
        """
        numbers = np.asarray(numbers)
        if not np.issubdtype(numbers.dtype, np.number):
            raise ValueError(f"numbers are atomic numbers, such as 6 for carbon, not {numbers.dtype}")
        positions, numbers = torch.as_tensor(np.asarray(positions)), torch.as_tensor(numbers).long()
        if not positions.is_floating_point():
            positions = positions.float()
        if positions.ndim != 3 or positions.shape[-1] != 3 or positions.shape[:2] != numbers.shape:
            raise ValueError(
                f"positions {tuple(positions.shape)} and numbers {tuple(numbers.shape)} do not fit: "
                "give (B, N, 3) in Å and (B, N), with 0 for padding"
            )
        for name, value in more.items():
            shape = (*numbers.shape, numbers.shape[1]) if name == "bonds" else tuple(numbers.shape)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} {tuple(value.shape)} do not fit numbers {tuple(numbers.shape)}: give {shape}")
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
        return cls(positions, types, mask, tuple(elements), **more)

    @classmethod
    def from_list(cls, positions: Sequence, numbers: Sequence, **options) -> Molecules:
        """From one (n, 3) array of positions and one (n,) array of atomic numbers per molecule."""
        if not len(numbers) or len(positions) != len(numbers):
            counts = f"{len(positions)} have positions, {len(numbers)} have numbers"
            raise ValueError(f"no molecules given: {counts}" if not len(numbers) else f"of the molecules {counts}")
        positions = [np.asarray(xb) for xb in positions]
        longest = max(len(z) for z in numbers)
        x = np.zeros((len(numbers), longest, 3), dtype=np.result_type(*{xb.dtype for xb in positions}))
        z = np.zeros((len(numbers), longest), dtype=np.int64)
        for b, (xb, zb) in enumerate(zip(positions, numbers, strict=True)):
            if min(zb, default=0) < 1:
                raise ValueError(f"molecule {b} has no atoms, or one of atomic number 0 or below")
            if xb.shape != (len(zb), 3):
                raise ValueError(f"molecule {b} has {len(zb)} atoms but positions {xb.shape}: give ({len(zb)}, 3)")
            x[b, : len(zb)], z[b, : len(zb)] = xb, zb
        return cls.from_arrays(x, z, **options)

    @classmethod
    def cat(cls, batches: Sequence[Molecules]) -> Molecules:
        """One batch of all molecules of `batches` (same element table), padded to the longest."""
        if not batches:
            raise ValueError("no molecules given")
        longest = max(m.mask.shape[1] for m in batches)
        tables = {m.elements for m in batches}
        if len(tables) > 1:
            raise ValueError(f"element tables differ: {sorted(tables)}; read all with the same `elements`")
        if len({tuple(m._tensors()) for m in batches}) > 1:
            raise ValueError("some of the batches know bonds or charges, some do not: drop them with with_(bonds=None)")
        padded = [m.pad(longest) for m in batches]
        return replace(padded[0], **{k: torch.cat([getattr(m, k) for m in padded]) for k in padded[0]._tensors()})

    def check(self) -> Molecules:
        """Itself, after checking that coordinates are finite and no two atoms coincide.

        Raises:
            ValueError: naming the molecule, for NaN or infinite coordinates, or atoms closer than 0.1 Å.
        """
        finite = self.positions.isfinite().all(-1).all(-1)
        if not finite.all():
            raise ValueError(f"molecule {int((~finite).nonzero()[0])} has a NaN or infinite coordinate: leave it out")
        for at in range(0, len(self), 4096):  # bounded memory
            part = self[at : at + 4096]
            near = (part.distances() < 0.1).triu(1) & part.mask[:, :, None] & part.mask[:, None, :]
            if near.any():
                b, i, j = near.nonzero()[0].tolist()
                d = float((part.positions[b, i] - part.positions[b, j]).norm())
                raise ValueError(f"atoms {i} and {j} of molecule {at + b} lie {d:.3f} Å apart (less than 0.1 Å)")
        return self

    # -- looking at it ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Molecules]:
        return (self[b : b + 1].trim() for b in range(len(self)))

    def __getitem__(self, index) -> Molecules:
        """Molecules chosen by an integer, a slice, a list or a tensor; always a batch."""
        if np.ndim(index) == 0 and not isinstance(index, slice):
            index = [range(len(self))[int(index)]]
        return replace(self, **{k: v[index] for k, v in self._tensors().items()})

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

    @property
    def padding(self) -> Tensor | None:
        """The mask, or None where nothing is padded. While a CUDA graph is captured nobody can look: then the mask."""
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
