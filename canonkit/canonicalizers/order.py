r"""Canonicalizers of S_n x SE(3): a pose, then an order of atoms.

    c(x) = (h^-1 x)_pi,   pi sorts the atoms by a key that does not depend on their order

Keys: u_1 of the geometric spectrum, or RDKit's canonical ranks of the molecular graph. Atoms with equal keys are sorted
by their positions in the canonical pose. So mirrored pairs, whose distances are equal, have an order too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from canonkit.canonicalizers.base import Canonical, Canonicalizer
from canonkit.canonicalizers.spectral import spectrum
from canonkit.molecules import Molecules

EQUAL = 1e-3  # keys that differ by less count as equal
PLACE = (0.33, 0.57, 0.75)  # any direction in which no two atoms are likely to lie level
LAST = 1e9  # key of padding


class SpectralKey(nn.Module):
    """u_1, or where that is unclear, element and distance from the centre; (B, N), and where it is unclear (B,)."""

    def forward(self, canonical: Molecules) -> tuple[Tensor, Tensor]:
        found = spectrum(canonical)
        unclear = found.unclear[:, 0]
        other = 100 * canonical.numbers + torch.linalg.vector_norm(canonical.positions, dim=-1)
        return torch.where(unclear[:, None], other, found.u[..., 0]), unclear


class SmilesKey(nn.Module):
    """RDKit's canonical ranks, equal for atoms that the graph does not tell apart; bonds by EDM's rule."""

    def forward(self, canonical: Molecules) -> tuple[Tensor, Tensor]:
        from rdkit import Chem

        from canonkit.chemistry.formats import to_rdkit
        from canonkit.chemistry.valencies import bond_orders

        known = canonical if canonical.bonds is not None else canonical.with_(bonds=bond_orders(canonical))
        key = torch.zeros(canonical.mask.shape, dtype=canonical.positions.dtype)
        for b, mol in enumerate(to_rdkit(known)):
            mol.UpdatePropertyCache(strict=False)
            ranks = Chem.CanonicalRankAtoms(mol, breakTies=False, includeChirality=False)
            key[b, : len(ranks)] = torch.tensor(list(ranks), dtype=key.dtype)
        return key.to(canonical.device), torch.zeros(len(canonical), dtype=torch.bool, device=canonical.device)


class Ordered(Canonicalizer):
    """c(x) in the pose of another canonicalizer, its atoms in the order of a key.

    Args:
        posed: a canonicalizer of molecules.
        key: Molecules in canonical pose -> keys (B, N), and where they are unclear (B,).
    """

    def __init__(self, posed: Canonicalizer, key: nn.Module):
        super().__init__()
        self.posed, self.key = posed, key

    def together(self, x: Molecules) -> Canonical:
        c = self.posed(x)
        with torch.no_grad():
            key, unclear = self.key(c.x)
            order = sort_atoms(key, c.x.positions @ c.x.positions.new_tensor(PLACE), c.x.mask)
        return Canonical(c.x.permute(order), c.g, c.ambiguous | unclear, order)


def sort_atoms(key: Tensor, place: Tensor, mask: Tensor) -> Tensor:
    """The order (B, N) that sorts by key, atoms with equal keys by place; padding last."""
    key = torch.where(mask, key, LAST)
    by_place = torch.where(mask, place, LAST).argsort(dim=1, stable=True)
    sorted_key, by_key = key.gather(1, by_place).sort(dim=1, stable=True)
    # Keys that follow each other closely are one group, which keeps the order by place.
    group = torch.nn.functional.pad((sorted_key.diff(dim=1) > EQUAL).cumsum(1), (1, 0))
    where = torch.empty_like(group).scatter_(1, by_key, group)  # the group of the atom at each place
    return by_place.gather(1, where.argsort(dim=1, stable=True))
