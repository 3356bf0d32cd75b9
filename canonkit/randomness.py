"""Random numbers that repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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


_part: tuple[int, Tensor] | None = None  # of a batch that several processes share: its length, and the rows here


@contextmanager
def part_of_batch(length: int, rows: Tensor) -> Iterator[None]:
    """The batch here is the `rows` of one of that length: `for_batch` draws for all of it."""
    global _part
    before, _part = _part, (length, rows)
    try:
        yield
    finally:
        _part = before


def for_batch(draw: Callable[[int], Tensor], length: int) -> Tensor:
    """draw(length); within `part_of_batch`, the rows here of what is drawn for the whole batch."""
    if _part is None:
        return draw(length)
    whole, rows = _part
    return draw(whole)[rows]
