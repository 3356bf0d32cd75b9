"""Random numbers that repeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global random numbers begin with `seed` within, and go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def repeatable(generator: torch.Generator | None) -> Iterator[None]:
    """Ties networks that draw at random (Symmetrised, dropout) to `generator`, which is left as it was; None: not."""
    if generator is None:
        yield
        return
    copy = generator.clone_state()
    with seeded(int(torch.randint(2**62, (), generator=copy, device=copy.device))):
        yield
