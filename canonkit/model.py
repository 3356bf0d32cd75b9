r"""A model of p(X/G): canonicalizer + process + network.

training:  loss(c(x)),   c(x) = h(x)^-1 x          (h and phi together: the gradient flows through c(x) into h)
sampling:  n ~ p(n), the process on that size; canonical poses come out. Acting with g ~ Haar(G) on them gives
           samples of the invariant density. No canonicalizer is needed.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.data.batches import Samples, lengths, take
from canonkit.processes.base import Loss, Process
from canonkit.processes.trajectory import Trajectory, joined
from canonkit.randomness import Draws, Source, choose, repeatable

SAMPLING_MEMORY = 256 * 2**20  # bytes; on a CUDA device half of what is free
SIZES, TURNS = 1, 2  # streams of random numbers


class OrbitModel(nn.Module):
    """A density on orbits, learned on canonical representatives.

    Args:
        canonicalizer: h and c.
        process: diffusion or flow, with its space.
        network: phi(z_t, t, mask).
        size_counts: how often each number of atoms occurs in the training set, (longest + 1,), for p(n); images count
            as one atom each.
    """

    size_counts: Tensor

    def __init__(self, canonicalizer: Canonicalizer, process: Process, network: nn.Module, size_counts: Tensor):
        super().__init__()
        self.canonicalizer, self.process, self.network = canonicalizer, process, network
        self.register_buffer("size_counts", size_counts.float())

    def loss(self, x: Samples, draw=None) -> Loss:
        """The training loss of a batch, in whatever pose it comes."""
        return self.process.loss(self.network, self.canonicalizer(x).x, draw)

    def forward(self, x: Samples, draw=None) -> Loss:
        """A training step's loss: of a batch as it comes where h learns, else of one that is canonical already."""
        return self.loss(x, draw) if self.learned else self.process.loss(self.network, x, draw)

    @property
    def learned(self) -> bool:
        """Whether the canonicalizer has anything to learn."""
        return any(p.requires_grad for p in self.canonicalizer.parameters())

    @torch.no_grad()
    def canonical(self, data: Samples, batch_size: int = 512) -> Samples:
        """c(x) of a whole data set: where nothing is learned, once is enough."""
        rows = torch.argsort(lengths(data), stable=True)  # by length, so that little is padded
        parts = (take(data, part, self.size_counts.device) for part in rows.split(batch_size))
        done = self.process.space.cat([self.canonicalizer(part).x.to(data.device) for part in parts])
        return done[torch.argsort(rows)]

    def nll(self, x: Samples, generator: Source | None = None) -> Tensor:
        """A bound on -log p(c(x)) - log p(n), (B,) nats, one Monte Carlo draw.

        With a canonicalizer this is a bound for the density of canonical poses, with the identity for that of poses
        as they come: the two are not comparable.

        Raises:
            ValueError: the process has no such bound, as a flow.
        """
        with torch.no_grad():
            return self.canonical_nll(self.canonicalizer(x).x, generator)

    def canonical_nll(self, x: Samples, generator: Source | None = None) -> Tensor:
        """`nll` of samples that are canonical already."""
        with torch.no_grad(), repeatable(generator):
            log_p_n = (self.size_counts / self.size_counts.sum())[lengths(x)].log()
            return self.process.nll(self.network, x, generator) - log_p_n

    def sample_sizes(self, count: int, generator: Source | None = None) -> Tensor:
        """Numbers of atoms drawn from p(n), (count,)."""
        return choose(self.size_counts, count, generator)

    def _batches(self, sizes: Tensor, batch_size: int | None) -> list[Tensor]:
        """Rows of `sizes` by rising size, as many at a time as the memory holds or `batch_size` says."""
        order = torch.argsort(sizes, stable=True)
        if batch_size is not None:
            return list(order.split(batch_size))
        memory = SAMPLING_MEMORY
        if self.size_counts.is_cuda:
            memory = torch.cuda.mem_get_info(self.size_counts.device)[0] // 2
        batches = []
        while len(order):
            count = max(1, memory // int(self.network.sampling_bytes(int(sizes[order[-1]]))))
            batches.append(order[-count:])
            order = order[:-count]
        return batches[::-1]

    @overload
    def sample(self, *arguments: Any, trajectory: Literal[True], **options: Any) -> Trajectory: ...
    @overload
    def sample(self, *arguments: Any, trajectory: Literal[False] = False, **options: Any) -> Samples: ...
    def sample(
        self,
        count: int = 1,
        steps: int | None = None,
        *,
        sizes: Tensor | None = None,
        randomize: bool = False,
        seed: int | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        trajectory: bool = False,
        **options: Any,
    ) -> Samples | Trajectory:
        """New molecules or images, in canonical poses. Interrupted, it returns what is done, in batches of like sizes.

        Args:
            count: how many.
            steps: network evaluations, by default the process's own number: 1001 of diffusion, 100 of flow.
            sizes: atoms of each molecule instead of drawing them from p(n).
            randomize: act with random elements of the group (turns; of molecules also orders of the atoms), for samples
                of the invariant density.
            seed: for repeatable samples. Sample i is a function of seed and i: the same, up to rounding, whatever
                batch_size, memory and count.
            batch_size: samples at a time, grouped by length; by default as many as an estimate of the memory allows.
            progress: show a bar with the time left.
            trajectory: keep every state, and return a `Trajectory` for `canonkit.play`: for a few dozen samples. The
                same `sizes` and `seed` start two models of one process from the same noise.
            options: the process's own: `eta` of diffusion (0 is DDIM), `heun`, `temperature` and more of flow.
        """
        from tqdm.auto import tqdm

        if trajectory and randomize:
            raise ValueError("a trajectory ends in canonical poses: leave out randomize")
        device = self.size_counts.device
        seed = torch.Generator().seed() if seed is None else seed
        sizes = self.sample_sizes(count, Draws(seed, count, SIZES)) if sizes is None else torch.as_tensor(sizes).cpu()
        if (sizes < 1).any():
            raise ValueError(f"a size of {int(sizes.min())}: give each molecule one atom or more")
        draws = Draws(seed, len(sizes))
        batches = self._batches(sizes, batch_size)
        total = len(batches) * self.process.evaluations(steps)
        done, paths = [], []
        was_training = self.training
        self.eval()
        try:
            bar = tqdm(total=total, desc=f"sampling {len(sizes)}", unit="step", disable=not progress)
            with bar:
                for rows in batches:
                    path = {"path": []} if trajectory else {}
                    with repeatable(own := draws[rows]):
                        done.append(
                            self.process.sample(
                                self.network,
                                sizes[rows].to(device),
                                steps,
                                own,
                                **options,
                                **path,
                                on_step=lambda t, z: bar.update(),
                            )
                        )
                    paths += path.values()
        except KeyboardInterrupt:
            if not done:
                raise
            warnings.warn(f"interrupted: {sum(map(len, done))} of {len(sizes)} samples are done", stacklevel=2)
        finally:
            self.train(was_training)
        made, order = torch.cat(batches[: len(done)]).sort()
        order = order.to(device)
        if trajectory:
            return joined(paths, self.process.space, order)
        samples = self.process.space.cat(done)[order]
        return self.process.space.randomize(samples, Draws(seed, made, TURNS)) if randomize else samples
