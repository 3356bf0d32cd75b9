"""The optimisers of a run."""

from __future__ import annotations

import torch

from canonkit.model import OrbitModel
from canonkit.training.settings import Settings


def make_optimizers(model: OrbitModel, settings: Settings) -> dict[str, torch.optim.Optimizer]:
    """AdamW, by the name of "optimizer", for all weights, or Muon, "muon", for the matrices of phi's blocks.

    Every parameter group says its full learning rate as `base_lr`. On CUDA AdamW can be recorded as a graph, and its
    rates are tensors.

    Args:
        model: on its device.
        settings: the rates and the weight decay; Muon where there is a `muon_lr`.

    Raises:
        ValueError: a `muon_lr` where torch has no Muon or the network no blocks.
    """
    capturable = model.size_counts.is_cuda
    matrices = [] if settings.muon_lr is None else _block_matrices(model.network)
    apart = {id(p) for p in matrices}
    groups = []
    for part, lr in ((model.network, settings.lr), (model.canonicalizer, settings.canonicalizer_lr)):
        if params := [p for p in part.parameters() if p.requires_grad and id(p) not in apart]:
            groups.append({"params": params, "lr": torch.tensor(lr, device=params[0].device) if capturable else lr})
    decay = settings.weight_decay
    made: dict[str, torch.optim.Optimizer] = {}
    made["optimizer"] = torch.optim.AdamW(groups, amsgrad=True, weight_decay=decay, capturable=capturable)
    if settings.muon_lr is not None:
        made["muon"] = torch.optim.Muon(
            matrices, lr=settings.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
    for group in parameter_groups(made):
        group["base_lr"] = float(group["lr"])
    return made


def parameter_groups(optimizers: dict[str, torch.optim.Optimizer]) -> list[dict]:
    """The parameter groups of all optimisers."""
    return [group for optimizer in optimizers.values() for group in optimizer.param_groups]


def _block_matrices(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weight matrices of a network's blocks or layers: what Muon, which makes updates orthogonal, is for.

    Matrices of one row, as of attention in graph networks, are AdamW's.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"muon_lr needs torch 2.9 or newer, this is {torch.__version__}: leave it None")
    found = [
        p
        for name, p in network.named_parameters()
        if ("blocks." in name or "layers." in name) and p.ndim == 2 and min(p.shape) > 1 and p.requires_grad
    ]
    if not found:
        raise ValueError(f"{type(network).__name__} has no blocks for Muon: leave muon_lr None")
    return found
