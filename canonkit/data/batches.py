r"""Batches by length: molecules of one length share a batch, so that next to nothing is padded.

The cost of a network on pairs of atoms grows with N^2; QM9 padded to 29 atoms costs (29/18)^2 = 2.6 times what its
mean length costs. An epoch sorts the molecules by length, shuffled within a length, cuts them into batches and shuffles
those: every molecule is seen once, every batch is full but the last, and only about one batch per length mixes two.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from canonkit.molecules import Molecules

Samples = Molecules | Tensor  # images are plain tensors


def lengths(data: Samples) -> Tensor:
    """Atoms of each molecule; 1 for each sample of a plain tensor. (B,)"""
    return data.sizes if isinstance(data, Molecules) else torch.ones(len(data), dtype=torch.long, device=data.device)


def take(data: Samples, rows: Tensor | slice, device: torch.device | None = None) -> Samples:
    """Some of the samples, on a device, padded no more than they need."""
    x = data[rows]
    return (x.trim() if isinstance(x, Molecules) else x).to(device or data.device)


class LengthBatches:
    """Index batches for any epoch, a pure function of (seed, epoch): what a run needs to resume is its step alone.

    Args:
        sizes: atoms per molecule, (M,).
        batch_size: molecules per batch.
        seed: of the order.
    """

    def __init__(self, sizes: Tensor, batch_size: int, seed: int = 0):
        if not 1 <= batch_size <= len(sizes):
            raise ValueError(f"batch_size {batch_size} is not between 1 and the {len(sizes)} molecules there are")
        self.sizes, self.batch_size, self.seed = sizes.cpu(), batch_size, seed

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.sizes) // self.batch_size)

    def epoch(self, number: int) -> list[Tensor]:
        """The batches of one epoch, in order: index tensors of at most `batch_size`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        shuffled = torch.randperm(len(self.sizes), generator=generator)
        by_length = shuffled[torch.argsort(self.sizes[shuffled], stable=True)]
        batches = by_length.split(self.batch_size)
        return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]

    def from_step(self, step: int) -> Iterator[Tensor]:
        """Endless batches, beginning at a step counted over all epochs."""
        epoch, place = divmod(step, len(self))
        while True:
            yield from self.epoch(epoch)[place:]
            epoch, place = epoch + 1, 0
