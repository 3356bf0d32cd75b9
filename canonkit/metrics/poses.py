r"""Numbers for poses: how canonical a set of molecules stands.

Per molecule, with centred positions: rms_k = sqrt(mean_i x_ik^2), k = x, y, z. A molecule is planar if the smallest of
its principal rms is below 0.05 Å. For a canonicalizer that aligns molecules, planar ones lie in one plane of the frame
(the same coordinate is small in all) and long ones along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

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


@torch.no_grad()
def pose_statistics(molecules: Molecules) -> PoseStatistics:
    """Pose statistics of molecules with at least three atoms each; smaller ones are left out."""
    molecules = molecules[molecules.sizes >= 3].centred().to(torch.float64)
    if not len(molecules):
        raise ValueError("no molecule of three atoms or more given")
    x, n = molecules.positions, molecules.sizes.double()[:, None]
    variance, axes = torch.linalg.eigh(x.mT @ x / n[..., None])
    planar = variance[:, 0].clamp(min=0).sqrt() < PLANAR
    square = x.square().sum(1)
    z = (square[planar, 2].sum() / n[planar].sum()).sqrt() if planar.any() else torch.tensor(torch.nan)
    return PoseStatistics(
        molecules=len(molecules),
        rms=tuple((square.sum(0) / n.sum()).sqrt().tolist()),
        planar_share=float(planar.double().mean()),
        planar_rms_z=float(z),
        long_axis=float(axes[:, 0, 2].abs().mean()),
    )
