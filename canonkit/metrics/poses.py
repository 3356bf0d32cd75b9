r"""Numbers for poses: how near to a canonical pose the molecules of a set are.

Per molecule, with centred positions: rms_k = sqrt(mean_i x_ik^2), k = x, y, z. A molecule is planar if the smallest of
its principal rms is below 0.05 Å. For a canonicalizer that aligns molecules, planar ones lie in one plane of the frame
(the same coordinate is small in all) and long ones along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from canonkit.canonicalizers.base import Canonical
from canonkit.groups import cosine_between
from canonkit.molecules import Molecules
from canonkit.tables import html_table

PLANAR = 0.05  # Å


@dataclass(frozen=True)
class PoseStatistics:
    """Pose statistics of a set of molecules.

    Args:
        molecules: how many.
        rms: root mean square of x, y and z over all atoms, in Å.
        planar_share: share of planar molecules.
        planar_rms_z: root mean square of z over the atoms of planar molecules, in Å (0: all lie in the xy plane).
        long_axis: mean of |cos| between each molecule's longest principal axis and x (1: along x; 1/2: random).
    """

    molecules: int
    rms: tuple[float, float, float]
    planar_share: float
    planar_rms_z: float
    long_axis: float

    def _repr_html_(self) -> str:
        rms = ", ".join(f"{r:.2f}" for r in self.rms)
        return html_table(
            ["pose statistics", ""],
            [
                ("molecules", f"{self.molecules:,}"),
                ("rms of x, y, z (Å)", rms),
                ("planar", f"{self.planar_share:.1%}"),
                ("rms of z of planar ones (Å)", f"{self.planar_rms_z:.3f}"),
                ("mean |cos(long axis, x)|", f"{self.long_axis:.3f}"),
            ],
        )


def _principal(molecules: Molecules) -> tuple[Tensor, Tensor]:
    """Variances along the principal axes, rising, (B, 3), and the axes as columns, (B, 3, 3), of centred molecules."""
    x, n = molecules.positions, molecules.sizes.clamp(min=1).to(molecules.positions.dtype)
    variance, axes = torch.linalg.eigh(x.mT @ x / n[:, None, None])
    return variance.clamp(min=0), axes


def principal_rms(molecules: Molecules) -> Tensor:
    """rms of the atoms along the thinnest, the middle and the longest principal axis in Å, (B, 3)."""
    return _principal(molecules.centred())[0].sqrt()


@dataclass(frozen=True, eq=False)
class PoseValues:
    """What pose statistics are made of, per molecule (B,).

    Args:
        planar: whether it is planar.
        rms_z: root mean square of z over its atoms, in Å.
        long_axis: |cos| between its longest principal axis and x.
    """

    planar: Tensor
    rms_z: Tensor
    long_axis: Tensor


@torch.no_grad()
def pose_values(molecules: Molecules, planar: float = PLANAR) -> PoseValues:
    """Pose values of molecules with at least three atoms each; smaller ones are left out.

    `planar` is the rms in Å along the thinnest principal axis below which a molecule counts as planar.

    Raises:
        ValueError: no such molecule.
    """
    molecules = molecules[molecules.sizes >= 3].centred().to(torch.float64)
    if not len(molecules):
        raise ValueError("no molecule of three atoms or more given")
    variance, axes = _principal(molecules)
    z = (molecules.positions[..., 2].square().sum(1) / molecules.sizes).sqrt()
    return PoseValues(variance[:, 0].sqrt() < planar, z, axes[:, 0, 2].abs())


@torch.no_grad()
def pose_statistics(molecules: Molecules, planar: float = PLANAR) -> PoseStatistics:
    """Pose statistics of molecules with at least three atoms each; `planar` as for `pose_values`."""
    values = pose_values(molecules, planar)
    molecules = molecules[molecules.sizes >= 3].centred().to(torch.float64)
    n = molecules.sizes.double()
    flat = values.planar
    z = (values.rms_z.square() * n)[flat].sum() / n[flat].sum() if flat.any() else torch.tensor(torch.nan)
    return PoseStatistics(
        molecules=len(molecules),
        rms=tuple((molecules.positions.square().sum((0, 1)) / n.sum()).sqrt().tolist()),
        planar_share=float(flat.double().mean()),
        planar_rms_z=float(z.sqrt()),
        long_axis=float(values.long_axis.mean()),
    )


@torch.no_grad()
def rank_spread(molecules: Molecules) -> Tensor:
    """How much the position of atom number r varies between molecules, sqrt(mean |x_r - mean x_r|^2) in Å, (N,).

    NaN if fewer than two molecules have an atom r. It is small if pose and order determine where an atom is.
    """
    molecules = molecules.centred().to(torch.float64)
    real = molecules.mask[..., None].double()
    count = real.sum(0)
    mean = (molecules.positions * real).sum(0) / count.clamp(min=1)
    spread = ((molecules.positions - mean).square() * real).sum(0).sum(-1) / count[:, 0].clamp(min=1)
    return torch.where(count[:, 0] > 1, spread.sqrt(), torch.nan)


@torch.no_grad()
def pose_changes(c: Canonical) -> tuple[Tensor, Tensor]:
    """From each of the canonical forms of one molecule that changes step by step to the next.

    Args:
        c: of a batch, the same atoms in the same order before.

    Returns:
        The angle of h(x_k)^-1 h(x_k+1) in degrees, and how many atoms have another place, both (B - 1,); of a
        canonicalizer that does not order atoms, none has.
    """
    assert isinstance(c.x, Molecules)
    angle = torch.rad2deg(cosine_between(c.g[:-1].double(), c.g[1:].double()).clamp(-1, 1).acos())
    place = torch.zeros_like(c.x.types) if c.order is None else c.order.argsort(1)
    return angle, ((place[1:] != place[:-1]) & c.x.mask[:-1]).sum(1)


@torch.no_grad()
def sliced_wasserstein(a: Molecules, b: Molecules, *, directions: int = 128, seed: int = 0) -> float:
    """Sliced Wasserstein distance in Å between the clouds of heavy atoms of two sets in the poses they have.

    Mean over random directions u of the 1-Wasserstein distance between the atoms' projections x . u. It is near zero
    only if both sets have the same poses, so it shows whether generated molecules have the poses of the training
    molecules.

    Raises:
        ValueError: a set without heavy atoms.
    """
    generator = torch.Generator().manual_seed(seed)
    u = torch.nn.functional.normalize(torch.randn(3, directions, generator=generator, dtype=torch.float64), dim=0)
    quantiles = torch.linspace(0, 1, 512, dtype=torch.float64)
    sides = []
    for molecules in (a, b):
        m = molecules.to("cpu").centred().to(torch.float64)
        x = m.positions[m.mask & (m.numbers > 1)]
        if not len(x):
            raise ValueError("a set of molecules has no heavy atoms to compare")
        along = (x @ u).sort(0).values
        sides.append(along[(quantiles * (len(x) - 1)).round().long()])
    return float((sides[0] - sides[1]).abs().mean())
