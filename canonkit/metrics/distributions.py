r"""How far the statistics of generated molecules are from those of data.

    shares        total variation, 1/2 sum_k |p_k - q_k|, of elements, bond orders, ring sizes and atoms per molecule
    lengths       Wasserstein-1 of bond lengths, Å, for each kind of bond (two elements and an order)
    angles        Wasserstein-1 of bond angles, degrees, for each element in the middle
                  both averaged over kinds by their share in the data; a kind that is never generated counts as at zero

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
    return far | {name: between(ours[name], theirs[name]) for name in ("lengths", "angles")}


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
    pairs = bonds.triu(1).nonzero()  # (bonds, 3)
    b, i, j = pairs.unbind(1)
    orders = bonds[b, i, j].tolist()
    lengths: dict[tuple, list] = {}
    ends = zip(names[b, i], names[b, j], orders, _norm(x.positions[b, i] - x.positions[b, j]).tolist(), strict=True)
    for one, other, order, d in ends:
        lengths.setdefault((*sorted((one, other)), order), []).append(d)
    angles: dict[str, list] = {}
    for centre, degrees in zip(*_angles(x, names), strict=True):
        angles.setdefault(centre, []).append(degrees)
    return {
        "elements": Counter(names[x.mask.numpy()].tolist()),
        "bonds": Counter(orders),
        "rings": rings,
        "sizes": Counter(x.sizes.tolist()),
        "lengths": {k: np.array(v) for k, v in lengths.items()},
        "angles": {k: np.array(v) for k, v in angles.items()},
    }


def _ring_sizes(mol) -> list[int]:
    from rdkit import Chem

    Chem.FastFindRings(mol)
    return [len(ring) for ring in Chem.GetSSSR(mol)]


def _angles(x: Molecules, names: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The element in the middle and the angle in degrees of every pair of bonds that meet."""
    near = x.graph()[0] > 0
    found = torch.cat([_meeting(near[k : k + 1024], k) for k in range(0, len(near), 1024)])
    b, i, j, k = found.unbind(1)
    u, v = x.positions[b, i] - x.positions[b, j], x.positions[b, k] - x.positions[b, j]
    cosine = (u * v).sum(-1) / (_norm(u) * _norm(v)).clamp(min=1e-12)
    return names[b, j], torch.rad2deg(cosine.clamp(-1, 1).acos()).tolist()


def _meeting(near: Tensor, first: int) -> Tensor:
    """(molecule, i, j, k) of bonds i-j and j-k, i < k."""
    triples = near[:, :, :, None] & near[:, None]  # i, j, k
    later = torch.ones(near.shape[1], near.shape[1], dtype=torch.bool).triu(1)
    found = (triples & later[:, None]).nonzero()
    found[:, 0] += first
    return found


def _norm(x: Tensor) -> Tensor:
    return x.double().square().sum(-1).sqrt()
