r"""How much of a flow's velocity cannot be predicted from place and time.

    v = x_1 - x_0,   x_t = (1 - t) x_0 + t x_1,      sigma^2(t) = min over A, b of E |v - A x_t - b|^2 / 3 n

This is an upper bound of the conditional variance E Var(v | x_t), because the best affine predictor is one of all
predictors. No network has a smaller error than that variance, and Euler's steps make an error of its size. At t = 0,
and x_0 independent of x_1, it is that variance itself, the variance of the data. It is estimated from pairs that the
process draws as in training, coupling included, for molecules of one size, so that rank by rank their coordinates can
be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from canonkit.molecules import Molecules
from canonkit.processes.flow import FlowMatching


@torch.no_grad()
def velocity_variance(
    process: FlowMatching,
    x: Molecules,
    times: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
    *,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """sigma^2(t) in Å^2 per coordinate for each of `times`, (T,).

    Args:
        process: its prior and coupling count.
        x: molecules of one size in whatever pose and order, or the canonical one; half fit, half judge.
        times: in [0, 1).
        batch_size: number of molecules to which a coupling assigns the noise.
        seed: of the noise.

    Raises:
        ValueError: molecules of several sizes, or too few of them.
    """
    n = int(x.sizes[0]) if len(x) else 0
    if not len(x) or not bool((x.sizes == n).all()):
        raise ValueError("give molecules of one size, such as x[x.sizes == 18]")
    if len(x) < 20 * n:
        raise ValueError(f"{len(x)} molecules are too few for {3 * n} coordinates: give at least {20 * n}")
    generator = torch.Generator().manual_seed(seed)
    x = x.trim().centred()
    batches = torch.arange(len(x)).split(batch_size)
    start = torch.cat([process.draw(x[rows], generator).start for rows in batches]).flatten(1).double()
    end = x.positions.flatten(1).double()
    v, half = end - start, len(x) // 2
    found = []
    for t in times:
        x_t = torch.nn.functional.pad((1 - t) * start + t * end, (0, 1), value=1.0)
        # The mean is removed from both, so that x_t does not have full rank.
        best = torch.linalg.lstsq(x_t[:half], v[:half], driver="gelsd").solution
        found.append((v[half:] - x_t[half:] @ best).square().mean())
    return torch.stack(found)
