"""phi: networks (z_t, t, mask) -> a prediction of z_t's shape. They know nothing of canonicalizers or schedules."""

from canonkit.networks.canon import Canon
from canonkit.networks.dit import DiT
from canonkit.networks.egnn import EGNN
from canonkit.networks.gnn import GNN
from canonkit.networks.graph_egnn import GraphEGNN
from canonkit.networks.mc_egnn import MCEGNN
from canonkit.networks.shuffle_unet import ShuffleUNet
from canonkit.networks.symdiff import GaussianDiT, PositionTurn
from canonkit.networks.symmetrised import Haar, Recursive, Symmetrised, Turn
from canonkit.networks.unet import UNet

__all__ = [
    "EGNN",
    "GNN",
    "MCEGNN",
    "Canon",
    "DiT",
    "GaussianDiT",
    "GraphEGNN",
    "Haar",
    "PositionTurn",
    "Recursive",
    "ShuffleUNet",
    "Symmetrised",
    "Turn",
    "UNet",
]
