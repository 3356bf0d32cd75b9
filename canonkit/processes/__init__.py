"""p_t: how noise becomes data. Each process knows its loss, its sampler and, where it can, its likelihood."""

from canonkit.processes.base import Loss, Network, Process
from canonkit.processes.diffusion import Diffusion, Draw, cosine_schedule, polynomial_schedule
from canonkit.processes.flow import FlowDraw, FlowMatching, MaskedMoleculeSpace
from canonkit.processes.priors import AlignedPrior, Gaussian
from canonkit.processes.spaces import Euclidean, ImageSpace, MoleculeSpace
from canonkit.processes.trajectory import Trajectory

__all__ = [
    "AlignedPrior",
    "Diffusion",
    "Draw",
    "Euclidean",
    "FlowDraw",
    "FlowMatching",
    "Gaussian",
    "ImageSpace",
    "Loss",
    "MaskedMoleculeSpace",
    "MoleculeSpace",
    "Network",
    "Process",
    "Trajectory",
    "cosine_schedule",
    "polynomial_schedule",
]
