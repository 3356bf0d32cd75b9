"""What a sampler passes through on its way from noise to samples, and molecules on their way to a canonical pose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from canonkit.groups import angle_and_axis, turn_about
from canonkit.molecules import Molecules

Samples = Molecules | Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The states of samples: `frames[0]` is noise, `frames[-1]` are the samples.

    Every frame is a batch of the same samples. A flow's frame shows kinds of atoms that are not drawn yet as the
    network guesses them then; its bonds are those that are drawn.
    """

    frames: tuple[Samples, ...]

    @property
    def samples(self) -> Samples:
        """The last frame."""
        return self.frames[-1]

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.frames[0])

    def __getitem__(self, index) -> Trajectory:
        """Some of the samples, chosen by what a batch can be indexed with; always a batch."""
        index = [index] if isinstance(index, int) else index
        return replace(self, frames=tuple(frame[index] for frame in self.frames))

    def __repr__(self) -> str:
        return f"Trajectory({len(self)} samples, {len(self.frames)} frames)"

    def thinned(self, most: int) -> Trajectory:
        """At most `most` frames, evenly spread, the first and the last among them.

        Raises:
            ValueError: fewer than two are asked for.
        """
        if most < 2:
            raise ValueError(f"{most} frames: give two or more, for noise and samples")
        return replace(self, frames=tuple(self.frames[k] for k in spread(len(self.frames), most)))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of 0, ..., count - 1, evenly spread, the first and the last among them."""
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)}) if count > most else list(range(count))


def joined(paths: Sequence[list[Samples]], space, order) -> Trajectory:
    """The trajectory of several batches that made equally many steps, with its samples in the order `order`."""
    return Trajectory(tuple(space.cat(frames)[order] for frames in zip(*paths, strict=True)))


def fold(canonicalizer: Callable[[Molecules], Any], molecules: Molecules, frames: int = 30) -> Trajectory:
    """Molecules that turn into their canonical poses: exp(-s log h(x)) x for s from 0 to 1, for `canonkit.play`.

    Turned copies of one molecule, played with `overlay=True`, show an orbit that folds onto one pose.

    Raises:
        ValueError: h(x) is not a rotation.
    """
    x = molecules.centred()
    with torch.no_grad():
        g = canonicalizer(x).g
    if g.shape[1:] != (3, 3) or (torch.linalg.det(g) < 0).any():
        raise ValueError("only rotations can be followed: h(x) of these molecules is none, or reflects")
    angle, axis = angle_and_axis(g.to(x.positions))
    shares = torch.linspace(0, 1, frames).tolist()
    return Trajectory(tuple(x.act(turn_about(axis, -share * angle)) for share in shares))
