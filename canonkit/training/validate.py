"""The loss of validation samples."""

from __future__ import annotations

import torch

from canonkit.data.batches import Samples, lengths, take
from canonkit.model import OrbitModel
from canonkit.randomness import repeatable


@torch.no_grad()
def validate(model: OrbitModel, data: Samples, *, seed: int = 0, batch_size: int = 256) -> dict[str, float]:
    """Training loss by terms and, of diffusion, NLL bound (nats): means over samples, same noise at every call.

    The noise, and a flow's means over masked atoms, are those of batches of `batch_size`.
    The bound's terms at small t weigh most and are few in one draw per sample: its `nll_error` is the standard error.
    """
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, float] = {}
    nll = []
    for rows in torch.argsort(lengths(data).cpu(), stable=True).split(batch_size):
        x = model.canonicalizer(take(data, rows, model.size_counts.device)).x
        with repeatable(generator):
            loss = model.process.loss(model.network, x, model.process.draw(x, generator))
        for name, value in {"loss": loss.total, **loss.terms}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(x)
        if model.process.has_nll:
            nll.append(model.canonical_nll(x, generator).double().cpu())
    model.train(was_training)
    found = {k: v / len(data) for k, v in sums.items()}
    if nll:
        bound = torch.cat(nll)
        found |= {"nll": float(bound.mean()), "nll_error": float(bound.std() / len(bound) ** 0.5)}
    return found
