"""What a data set is: samples in three parts, and what a model and a table must know of them.

A new one is a subclass of `Dataset` in a file of its own; see the page on extending canonkit. Molecules in memory or
from a file are one already: `canonkit.data.own.OwnMolecules`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from canonkit.chemistry.hydrogens import WithHydrogens, add_hydrogens
from canonkit.chemistry.valencies import VALENCE, with_edm_bonds
from canonkit.data.batches import Samples
from canonkit.metrics.chemistry import chemistry
from canonkit.metrics.stability import stability
from canonkit.molecules import Molecules


@dataclass(frozen=True)
class Form:
    """What the samples of a data set are like: all that must be known of it to build a model.

    Args:
        elements: the table of elements; of images none.
        longest: atoms of the longest molecule; of images 0.
        shape: channels, height and width of an image; of molecules nothing.
        heavy: hydrogens are left out, and added by rule to what a model samples.
    """

    elements: tuple[str, ...] = ()
    longest: int = 0
    shape: tuple[int, ...] = ()
    heavy: bool = False

    def __post_init__(self):  # a card has lists
        object.__setattr__(self, "elements", tuple(self.elements))
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def kind(self) -> str:
        """What the samples are: molecules or images."""
        return "images" if self.shape else "molecules"

    @property
    def stable(self) -> bool:
        """Whether EDM's rule can tell which samples are stable: it knows H, C, N, O, F."""
        return not self.shape and set(self.elements) <= VALENCE.keys()

    def complete(self, samples: Samples) -> WithHydrogens:
        """What a model sampled, with hydrogens where they are added by rule.

        Heavy atoms without bonds get them from their distances first, by EDM's rule, and no charges.
        """
        if not isinstance(samples, Molecules):
            raise ValueError("these are images, which have no hydrogens")
        if self.heavy:
            return add_hydrogens(samples if samples.bonds is not None else with_edm_bonds(samples))
        return WithHydrogens(samples, torch.zeros(len(samples), dtype=torch.bool, device=samples.device))

    def measurable(self, graphs: bool) -> bool:
        """Whether `measure` finds something; `graphs`: the samples have bonds."""
        return self.stable or (graphs and not self.shape)

    def measure(self, samples: Samples) -> dict[str, float]:
        """What is measured of samples while training, where it applies.

        By EDM's rule the shares of stable molecules and atoms; of molecules with bonds the share that is valid by them
        and, of the valid, unique.
        """
        if not isinstance(samples, Molecules):
            return {}
        made, shares = self.complete(samples), {}
        if self.stable:
            found = stability(made.molecules, made.refused)
            shares |= {"molecule_stable": found.molecule_stable, "atom_stable": found.atom_stable}
        if samples.bonds is not None:
            graphs = chemistry(made.molecules, generated=True, refused=made.refused)
            shares |= {"valid_by_generated_bonds": graphs.valid, "unique": graphs.unique}
        return shares


class Dataset(ABC):
    """Samples in three parts.

    Args:
        name: what tables and cards call it.
        sha256: hash of the content, 64 hexadecimal digits.
        provenance: where it is from, in one line.
        form: what the samples are like.
    """

    name: str
    sha256: str
    provenance: str
    form: Form

    @abstractmethod
    def part(self, name: str) -> Any:
        """The samples of 'train', 'valid' or 'test': molecules, or a tensor of images."""

    def with_graphs(self, *, progress: bool = False) -> Dataset:
        """The same with bonds and charges.

        Raises:
            ValueError: there are none.
        """
        raise ValueError(f"{self.name} has no bonds: choose a system that does not learn them")

    def without_hydrogens(self, *, progress: bool = False) -> Dataset:
        """The same as heavy atoms with their bonds.

        Raises:
            ValueError: that is not possible.
        """
        raise ValueError(f"{self.name} has no hydrogens to leave out: choose a system that does not")

    def measurable(self, graphs: bool) -> bool:
        """Whether `measure` finds something; `graphs`: the model's samples have bonds."""
        return self.form.measurable(graphs)

    def measure(self, samples: Samples) -> dict[str, float]:
        """What is measured of samples while training."""
        return self.form.measure(samples)
