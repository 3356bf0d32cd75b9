"""Random numbers that repeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def checked_seed(seed: int) -> int:
    """The seed itself.

    Raises:
        ValueError: it has more than 64 bits.
    """
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed = {seed} has more than 64 bits, which torch does not take: give one below {2**64}")
    return int(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global random numbers begin with `seed` within, and go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(checked_seed(seed))
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
