"""How good samples are: stability, chemistry and poses of molecules (`evaluate` computes all of EDM's numbers), and
denoising of images."""

from canonkit.chemistry.valencies import bond_orders
from canonkit.metrics.chemistry import Chemistry, chemistry, known_smiles, smiles_of
from canonkit.metrics.denoising import Interval, bootstrap, denoising_errors
from canonkit.metrics.distributions import distribution_distances
from canonkit.metrics.drugs import DrugEvaluation, evaluate_drugs
from canonkit.metrics.evaluation import Evaluation, evaluate
from canonkit.metrics.poses import (
    PoseStatistics,
    pose_changes,
    pose_statistics,
    pose_values,
    principal_rms,
    rank_spread,
    sliced_wasserstein,
)
from canonkit.metrics.properties import coulomb_spectrum, properties
from canonkit.metrics.stability import Stability, stability
from canonkit.metrics.valency import valency_stability
from canonkit.metrics.variance import ObjectiveVariance, objective_variance
from canonkit.metrics.velocity import velocity_variance

__all__ = [
    "Chemistry",
    "DrugEvaluation",
    "Evaluation",
    "Interval",
    "ObjectiveVariance",
    "PoseStatistics",
    "Stability",
    "bond_orders",
    "bootstrap",
    "chemistry",
    "denoising_errors",
    "distribution_distances",
    "evaluate",
    "evaluate_drugs",
    "known_smiles",
    "coulomb_spectrum",
    "objective_variance",
    "pose_changes",
    "pose_statistics",
    "pose_values",
    "principal_rms",
    "properties",
    "rank_spread",
    "sliced_wasserstein",
    "smiles_of",
    "stability",
    "valency_stability",
    "velocity_variance",
]
