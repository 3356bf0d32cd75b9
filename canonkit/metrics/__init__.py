"""How good samples are: stability, chemistry, poses. `evaluate` gathers them by EDM's protocol."""

from canonkit.metrics.chemistry import Chemistry, chemistry, known_smiles, smiles_of
from canonkit.metrics.evaluation import Evaluation, evaluate
from canonkit.metrics.poses import PoseStatistics, pose_statistics
from canonkit.metrics.stability import Stability, bond_orders, stability

__all__ = [
    "Chemistry",
    "Evaluation",
    "PoseStatistics",
    "Stability",
    "bond_orders",
    "chemistry",
    "evaluate",
    "known_smiles",
    "pose_statistics",
    "smiles_of",
    "stability",
]
