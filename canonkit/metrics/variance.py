r"""How noisy the training objective is, and how much of the noise comes from a random symmetry.

    loss L(x; t, eps, R),  gradient g = d mean_x L / d phi
    Var = E Var(. | t, eps) + Var E(. | t, eps):  the first term is what R brings; a canonicalizer draws no R

Of the loss per molecule, and of the gradient of a batch: noise = tr Var(g) / |E g|^2.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from canonkit.model import OrbitModel
from canonkit.molecules import Molecules
from canonkit.randomness import seeded
from canonkit.tables import Printed


@dataclass(frozen=True)
class ObjectiveVariance(Printed):
    """What `objective_variance` measured.

    Args:
        molecules, draws: the batch, and how often it was drawn.
        loss: mean of |eps - eps_hat|^2 / size.
        loss_variance: of a molecule's loss, over t, eps and R.
        loss_share: of that, what R brings.
        gradient_noise: tr Var(g) / |E g|^2 of the batch's gradient with respect to the network's weights.
        gradient_share: of that, what R brings.
        seconds: of one loss and gradient, canonicalization included; median.
    """

    molecules: int
    draws: int
    loss: float
    loss_variance: float
    loss_share: float
    gradient_noise: float
    gradient_share: float
    seconds: float

    def _text(self):
        text = {k: f"{v:.1%}" for k, v in asdict(self).items() if k.endswith("share")}
        return text | {k: f"{getattr(self, k):.4g}" for k in ("loss", "loss_variance", "gradient_noise", "seconds")}


def objective_variance(model: OrbitModel, x: Molecules, *, draws: int = 16, seed: int = 0) -> ObjectiveVariance:
    """Draws the loss and gradient of a batch again and again: with new t, eps and R, and with new R alone.

    Args:
        model: left as it was; its network's weights count, the canonicalizer's do not.
        x: the batch, of one length for speed.
        draws: of either kind, at least two; every draw of R alone keeps the t and eps of the draw it belongs to.
        seed: of all draws.

    Raises:
        ValueError: fewer than two draws.
    """
    if draws < 2:
        raise ValueError(f"draws {draws} is below 2")
    model = copy.deepcopy(model).train().requires_grad_(False)
    model.network.requires_grad_(True)
    weights = list(model.network.parameters())
    losses, gradients, seconds = [], [], []
    with seeded(seed):
        for _ in range(draws):
            draw = model.process.draw(x)
            for _ in range(2):  # the same t and eps, another R
                start = time.perf_counter()
                loss = model.process.squared_error(model.network, model.canonicalizer(x).x, draw)
                found = torch.autograd.grad(loss.mean(), weights, allow_unused=True)
                seconds.append(time.perf_counter() - start)
                losses.append(loss.detach())
                gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    loss, gradient = (torch.stack(values).double().unflatten(0, (draws, 2)) for values in (losses, gradients))

    def by_symmetry(values: Tensor) -> Tensor:
        return (values[:, 0] - values[:, 1]).square().mean(0) / 2

    loss_variance, gradient_variance = (values[:, 0].var(0) for values in (loss, gradient))
    noise = gradient_variance.sum()
    signal = gradient[:, 0].mean(0).square().sum() - noise / draws
    return ObjectiveVariance(
        molecules=len(x),
        draws=draws,
        loss=float(loss.mean()),
        loss_variance=float(loss_variance.mean()),
        loss_share=float(by_symmetry(loss).mean() / loss_variance.mean()),
        gradient_noise=float(noise / signal.clamp(min=torch.finfo(signal.dtype).tiny)),
        gradient_share=float(by_symmetry(gradient).sum() / noise),
        seconds=float(torch.tensor(seconds).median()),
    )
