"""p_t: how noise becomes data. Each process knows its loss, its sampler and, where it can, its likelihood."""

from canonkit.processes.diffusion import Diffusion, Draw, Loss, polynomial_schedule
from canonkit.processes.spaces import Euclidean, MoleculeSpace

__all__ = ["Diffusion", "Draw", "Euclidean", "Loss", "MoleculeSpace", "polynomial_schedule"]
