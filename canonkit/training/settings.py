"""How to train."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import cos, pi

from canonkit.described import checked


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        batch_size: samples per step, over all processes.
        lr, canonicalizer_lr: AdamW's, for phi and for h.
        muon_lr: Muon's, for the matrices of phi's blocks, which AdamW then leaves alone; None for AdamW everywhere.
        weight_decay: AdamW's.
        ema: decay of the averaged weights per step.
        warmup: steps over which the learning rates grow linearly.
        cool_from, cool_to: steps between which they fall linearly to zero; None for never.
        one_cycle: steps of the one-cycle policy, which then takes the place of warmup and cooling; None for none.
        clip: largest norm of the gradient; None for EDM's rule, from the norms before.
        first: train on the first so many samples only; None for all.
        augment: act with a random element of the symmetry group on every training sample.
        distance_weight: of flow's loss of distances between near atoms.
        correction: largest standard deviation, in Å, of what flow pushes atoms by in training; 0 for none.
        unrolled: whether a flow trains on steps of its own, for few steps in sampling.
        precision: of what is per pair of atoms: "float32", "bfloat16", or "auto" (bfloat16 where it is faster).
        seed: of initial weights, order and noise.
        log_every, validate_every, sample_every: in steps, and when the budget is spent; 0 for never.
        samples, sample_steps: how many are generated to be measured, and network evaluations for each.

    Raises:
        ValueError: a value out of its bounds, which `canonkit.described` lists.
    """

    batch_size: int = 64
    lr: float = 1e-4
    canonicalizer_lr: float = 1e-6
    muon_lr: float | None = None
    weight_decay: float = 1e-12
    ema: float = 0.9999
    warmup: int = 0
    cool_from: int | None = None
    cool_to: int | None = None
    one_cycle: int | None = None
    clip: float | None = None
    first: int | None = None
    augment: bool = False
    distance_weight: float | None = None
    correction: float | None = None
    unrolled: bool | None = None
    precision: str = "auto"
    seed: int = 0
    log_every: int = 20
    validate_every: int = 500
    sample_every: int = 1000
    samples: int = 64
    sample_steps: int = 100

    def __post_init__(self):
        checked("Settings", asdict(self), "training settings")

    def rate(self, step: int) -> float:
        """The share of the learning rates that step number `step`, from 0, is taken with."""
        if self.one_cycle is not None:
            return _one_cycle(step, self.one_cycle)
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.cool_to is None:
            return warm
        first = self.cool_from or 0
        return warm * min(1.0, max(0.0, (self.cool_to - step) / max(1, self.cool_to - first)))


def _one_cycle(step: int, steps: int, rise: float = 0.25, first: float = 1 / 25, last: float = 4e-6) -> float:
    """The one-cycle policy (Smith and Topin 2018) as torch's `OneCycleLR` has it, of rates alone.

    Over the share `rise` of the steps from `first` to 1, then to `last`, both along half a cosine.
    """
    top, end = rise * steps - 1, steps - 1
    begin, to, done = (first, 1.0, step / top) if step <= top else (1.0, last, (step - top) / (end - top))
    return to + (begin - to) * (1 + cos(pi * min(1.0, done))) / 2
