"""Numbers that differ between molecules, one for every molecule of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from canonkit.chemistry.valencies import VALENCE
from canonkit.metrics.chemistry import smiles_of
from canonkit.metrics.poses import principal_rms
from canonkit.metrics.stability import stability
from canonkit.molecules import Molecules


@torch.no_grad()
def properties(
    molecules: Molecules, train: Molecules | None = None, known: set[str] | None = None
) -> dict[str, Tensor]:
    """Properties by name, (B,) float64 each.

    atoms, heavy atoms; stable atoms: share by EDM's rule (H, C, N, O, F only); thickness (Å): rms along the thinnest
    principal axis, 0 for planar molecules; elongation: rms along the longest over that along the middle one; with
    `train` the distance to the nearest training molecule, between Coulomb spectra, and the number of that molecule;
    with `known` SMILES whether the molecule is not among them (NaN if it is not valid).
    """
    molecules = molecules.to("cpu").to(torch.float64)
    short, middle, long = principal_rms(molecules).unbind(1)
    found = {
        "atoms": molecules.sizes.double(),
        "heavy atoms": (molecules.mask & (molecules.numbers > 1)).sum(1).double(),
        "thickness (Å)": short,
        "elongation": long / middle.clamp(min=0.1),
    }
    if set(molecules.elements) <= set(VALENCE):
        stable = (stability(molecules).atoms & molecules.mask).sum(1) / molecules.sizes
        found["stable atoms"] = stable.double()
    if train is not None:
        longest = max(molecules.mask.shape[1], train.mask.shape[1])
        own, theirs = (coulomb_spectrum(m.pad(longest)) for m in (molecules, train.to("cpu").to(torch.float64)))
        distance, index = torch.cdist(own, theirs).min(1)
        found |= {"distance to training set": distance, "nearest training molecule": index.double()}
    if known is not None:
        smiles, _ = smiles_of(molecules)
        found["novel"] = torch.tensor([float("nan") if s is None else float(s not in known) for s in smiles]).double()
    return found


def coulomb_spectrum(molecules: Molecules, *, batch_size: int = 4096) -> Tensor:
    """Eigenvalues of the Coulomb matrix, falling, zeros last, (B, N) (Rupp et al. 2012).

    C_ii = 0.5 Z_i^2.4, C_ij = Z_i Z_j / |x_i - x_j| with distances in bohr: invariant under rotations, translations and
    the order of atoms.
    """
    bohr, found = 0.529177, []
    for at in range(0, len(molecules), batch_size):
        part = molecules[at : at + batch_size]
        z = part.numbers.to(part.positions.dtype)
        own = torch.eye(z.shape[1], dtype=torch.bool)
        d = (part.distances() / bohr).masked_fill(own, 1.0).clamp(min=0.1)
        c = torch.where(own, 0.5 * z[:, :, None] ** 2.4, z[:, :, None] * z[:, None] / d)
        found.append(torch.linalg.eigvalsh(c).flip(1))
    return torch.cat(found)
