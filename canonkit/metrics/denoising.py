r"""How well a model of images denoises: the figure of Table 2 (Sareen et al. 2024).

    error_i = |eps_i - phi(alpha_t c(x_i) + sigma_t eps_i, t)|^2 / pixels,   t_i uniform on {0..T}

t_i and eps_i depend only on i, so two models get the same noise and can be compared image by image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from canonkit.model import OrbitModel

BATCH = 250  # part of the protocol: noise is drawn batch by batch
AT_ONCE = 50  # with more the largest tensors pass 32 MB, and glibc would fetch their memory anew each time


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@torch.no_grad()
def denoising_errors(model: OrbitModel, images: Tensor, *, seed: int = 0, progress: bool = False) -> Tensor:
    """The error of every image, (B,), at one time and noise each; canonicalized first where the model does so."""
    from tqdm.auto import tqdm

    generator = torch.Generator().manual_seed(seed)
    device, process, was_training = model.size_counts.device, model.process, model.training
    model.eval()
    errors = []
    with tqdm(total=len(images), desc="denoising", unit="image", disable=not progress, leave=False) as bar:
        for x in images.split(BATCH):
            draw = process.draw(x, generator)
            for rows in torch.arange(len(x)).split(AT_ONCE):
                c = model.canonicalizer(x[rows].to(device)).x
                errors.append(process.squared_error(model.network, c, draw[rows]).cpu())
            bar.update(len(x))
    model.train(was_training)
    return torch.cat(errors)


def bootstrap(values: Tensor, *, draws: int = 1000, seed: int = 0) -> Interval:
    """The mean of values (B,) and where it lies in 95 % of resamples with replacement.

    For two models on the same images give the differences of their errors.
    """
    values = values.double()
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [values[torch.randint(len(values), (len(values),), generator=generator)].mean() for _ in range(draws)]
    )
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return Interval(float(values.mean()), low, high)
