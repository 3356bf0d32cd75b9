"""What a process is: how data becomes noise in training, and noise data in sampling.

A new one is a subclass of `Process` in a file of its own; see the page on extending canonkit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from canonkit.randomness import Source

Network = Callable[..., Tensor]  # (z_t, t in [0, 1], mask) -> what the process asks for, of z_t's shape


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss, and the terms it is the sum of, by name; scalars."""

    total: Tensor
    terms: dict[str, Tensor]

    @classmethod
    def of(cls, terms: dict[str, Tensor]) -> Loss:
        """The loss that is the sum of these terms."""
        return cls(sum(terms.values()), terms)  # pyright: ignore[reportArgumentType]


class Process(nn.Module):
    """Loss and sampler for any network.

    Subclasses define `draw`, `loss` and `sample`, and `nll` and `fit` where there is something to say.

    Args:
        space: how data becomes tensors.
        default: network evaluations of a sample where nothing else is said.
        least: network evaluations that a sample needs.
        most: network evaluations that a sample can use; None for any number.
    """

    has_nll = False

    def __init__(self, space, default: int, least: int = 1, most: int | None = None):
        super().__init__()
        self.space, self.default, self.least, self.most = space, default, least, most

    def evaluations(self, steps: int | None = None) -> int:
        """Network evaluations for a sample: `steps`, or the default.

        Raises:
            ValueError: too few or too many steps.
        """
        steps = self.default if steps is None else steps
        if steps < self.least:
            raise ValueError(f"steps {steps} is below {self.least}")
        if self.most is not None and steps > self.most:
            raise ValueError(f"steps {steps} is above {self.most}")
        return steps

    def draw(self, x, generator: Source | None = None):
        """The randomness of a training step for a batch; `draw[rows]` is that of some of its samples."""
        raise NotImplementedError

    def loss(self, network: Network, x, draw=None) -> Loss:
        """The training loss of a batch; `x` is taken as it is (canonicalize it before)."""
        raise NotImplementedError

    def sample(
        self, network: Network, sizes: Tensor, steps=None, generator=None, *, on_step=None, path=None, **options
    ):
        """Samples of the given sizes (B,), with `steps` network evaluations.

        `path` is a list to which every state is appended as data, from the noise to the samples.
        """
        raise NotImplementedError

    def fit(self, canonical) -> None:
        """Fits what is known of the data before training, such as a prior, to canonical samples; by default nothing."""

    def shared(self, x, draw):
        """The draw of a batch that several processes are to share: what a part of it must know of the whole."""
        return draw

    def nll(self, network: Network, x, generator: Source | None = None) -> Tensor:
        """A bound on -log p(x), (B,) nats, where the process has one (`has_nll`).

        Raises:
            ValueError: there is none.
        """
        raise ValueError(f"{type(self).__name__} has no likelihood: train a diffusion for an NLL bound")
