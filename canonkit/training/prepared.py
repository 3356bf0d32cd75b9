"""What training takes: an untrained model, and data in the form that it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from canonkit.data.batches import Samples
from canonkit.model import OrbitModel
from canonkit.training.settings import Settings


@dataclass(frozen=True, eq=False)
class Prepared:
    """What `canonkit.training.train` takes; `Recipe.prepare` makes it.

    Args:
        model: with the counts of sizes, and whatever is fitted to the data before training; trained in place.
        train, valid: samples; validation uses the first 1,024.
        settings: how to train.
        about: what run.json should say of the model and the data, compared at resumption.
        measure: what is measured of generated samples while training; None for nothing.
        canonical: `train` stands in canonical form.
    """

    model: OrbitModel
    train: Samples
    valid: Samples
    settings: Settings
    about: dict = field(default_factory=dict)
    measure: Callable[[Samples], dict] | None = None
    canonical: bool = False

    def ready(self, x: Samples, generator: torch.Generator | None = None) -> Samples:
        """A batch of `train` as the model's loss takes it: augmented if that is set, and canonical unless h learns."""
        if self.settings.augment:
            x = self.model.process.space.randomize(x, generator)
        # Before noise is drawn: a flow assigns it to canonical molecules.
        return x if self.canonical or self.model.learned else self.model.canonicalizer(x).x
