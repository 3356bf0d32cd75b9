r"""How far the statistics of generated molecules are from those of data.

    shares        total variation, 1/2 sum_k |p_k - q_k|, of elements, bond orders, ring sizes and atoms per molecule
    lengths       Wasserstein-1 of bond lengths, Å, for each kind of bond (two elements and an order)
    angles        Wasserstein-1 of bond angles, degrees, for each element in the middle
    torsions      Wasserstein-1 of torsion angles without sign, 0 to 180 degrees, for each kind of bond in the middle
                  all averaged over kinds by their share in the data; a kind that is never generated counts as at zero

Both sets must be in the same form: with or without hydrogens, aromatic bonds marked or in Kekulé form. To know how
small a distance can be, measure it between two parts of the data as well.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from canonkit.chemistry.formats import to_rdkit
from canonkit.molecules import Molecules

STRAIGHT = 0.09  # sine of 175 degrees


def distribution_distances(molecules: Molecules, data: Molecules) -> dict[str, float]:
    """The distances above between two sets of molecules with bonds.

    Raises:
        ValueError: molecules without bonds, or none at all.
    """
    from scipy.stats import wasserstein_distance

    for name, x in (("generated", molecules), ("data", data)):
        if not len(x):
            raise ValueError(f"there are no {name} molecules to compare")
        x.graph()

    def between(found: dict, truth: dict) -> float:
        apart = {k: wasserstein_distance(found.get(k, np.zeros(1)), v) for k, v in truth.items()}
        return float(sum(len(truth[k]) * d for k, d in apart.items()) / max(1, sum(map(len, truth.values()))))

    ours, theirs = _statistics(molecules), _statistics(data)
    far = {name: _total_variation(ours[name], theirs[name]) for name in ("elements", "bonds", "rings", "sizes")}
    return far | {name: between(ours[name], theirs[name]) for name in ("lengths", "angles", "torsions")}


def _total_variation(a: Counter, b: Counter) -> float:
    p, q = (max(1, sum(x.values())) for x in (a, b))
    return 0.5 * sum(abs(a[k] / p - b[k] / q) for k in a.keys() | b.keys())


def _statistics(x: Molecules) -> dict[str, Any]:
    x = x.to("cpu")
    names = np.array(x.elements)[x.types.numpy()]
    rings: Counter = Counter()
    for mol in to_rdkit(x):
        rings.update(_ring_sizes(mol) or ["none"])
    bonds = x.graph()[0]
    b, i, j = bonds.nonzero().unbind(1)  # each bond in both directions
    order = bonds[b, i, j]
    atom, other = b * x.mask.shape[1] + i, b * x.mask.shape[1] + j
    flat, place = names.reshape(-1), x.positions.double().flatten(0, 1)
    once = i < j
    a, c, order = atom[once], other[once], order[once].tolist()
    kinds = [(*sorted(ends), o) for *ends, o in zip(flat[a], flat[c], order, strict=True)]
    lengths: dict[tuple, list] = {}
    for kind, length in zip(kinds, _norm(place[a] - place[c]).tolist(), strict=True):
        lengths.setdefault(kind, []).append(length)
    near = _neighbours(atom, other, len(flat))
    angles: dict[str, list] = {}
    for centre, degrees in zip(*_angles(near, place, flat), strict=True):
        angles.setdefault(centre, []).append(degrees)
    torsions: dict[tuple, list] = {}
    for k, degrees in zip(*_torsions(near, a, c, place), strict=True):
        torsions.setdefault(kinds[k], []).append(degrees)
    return {
        "elements": Counter(names[x.mask.numpy()].tolist()),
        "bonds": Counter(order),
        "rings": rings,
        "sizes": Counter(x.sizes.tolist()),
        "lengths": {k: np.array(v) for k, v in lengths.items()},
        "angles": {k: np.array(v) for k, v in angles.items()},
        "torsions": {k: np.array(v) for k, v in torsions.items()},
    }


def _ring_sizes(mol) -> list[int]:
    from rdkit import Chem

    Chem.FastFindRings(mol)
    return [len(ring) for ring in Chem.GetSSSR(mol)]


def _neighbours(atom: Tensor, other: Tensor, atoms: int) -> Tensor:
    """Row i has the atoms bonded to atom i, then -1, (atoms, most bonds); `atom` ascends."""
    degree = torch.bincount(atom, minlength=atoms)
    start = degree.cumsum(0) - degree
    near = torch.full((atoms, max(2, int(degree.max()))), -1)
    near[atom, torch.arange(len(atom)) - start[atom]] = other
    return near


def _angles(near: Tensor, x: Tensor, names: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The element in the middle and the angle in degrees of every pair of bonds that meet."""
    first, second = torch.combinations(torch.arange(near.shape[1])).T
    found = near[:, second] >= 0  # the later of two is missing first
    j, pair = found.nonzero().unbind(1)
    u, v = x[near[j, first[pair]]] - x[j], x[near[j, second[pair]]] - x[j]
    return names[j], _degrees(u, v).tolist()


def _torsions(near: Tensor, j: Tensor, k: Tensor, x: Tensor) -> tuple[list[int], list[float]]:
    """Which bond j-k and the angle in degrees, 0 to 180, of every chain i-j-k-l; straight chains have none."""
    i, l = near[j][:, :, None], near[k][:, None]
    # i and l are the same atom in a ring of three
    real = (i >= 0) & (l >= 0) & (i != k[:, None, None]) & (l != j[:, None, None]) & (i != l)
    bond, p, q = real.nonzero().unbind(1)
    j, k = j[bond], k[bond]
    u, v, w = x[j] - x[near[j, p]], x[k] - x[j], x[near[k, q]] - x[k]
    m, n = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    bent = (_norm(m) > STRAIGHT * _norm(u) * _norm(v)) & (_norm(n) > STRAIGHT * _norm(v) * _norm(w))
    return bond[bent].tolist(), _degrees(m[bent], n[bent]).tolist()


def _degrees(u: Tensor, v: Tensor) -> Tensor:
    cosine = (u * v).sum(-1) / (_norm(u) * _norm(v)).clamp(min=1e-12)
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


def _norm(x: Tensor) -> Tensor:
    return x.double().square().sum(-1).sqrt()
