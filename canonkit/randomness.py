r"""Random numbers that repeat.

A torch generator gives numbers in the order in which they are asked for: samples then depend on how many are made at a
time. Those of `Draws` are a function of where they stand,

    u = mix(mix(seed, stream, sample, number of the draw) xor mix(place in the draw)),    mix: SplitMix64's finaliser

(Steele, Lea and Flood 2014), and a place is that of an atom, a pair of atoms or a pixel, whatever the padding.
"""

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


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, on int64 tensors taken as 64 bits."""
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return z ^ (z >> 31 & (1 << 33) - 1)


class Draws:
    """Random numbers for each sample of a batch, in whatever batch it stands.

    Draw number k of sample i is a function of (seed, stream, i, k): all samples must be drawn for equally often.

    Args:
        seed: of at most 64 bits.
        samples: numbers of the samples, (B,), or how many there are.
        stream: for independent numbers of one seed.
    """

    def __init__(self, seed: int, samples: Tensor | int, stream: int = 0):
        self.seed, self.stream = checked_seed(seed), stream
        self.samples = torch.arange(samples) if isinstance(samples, int) else samples.cpu().long()
        signed = (self.seed + 2**63) % 2**64 - 2**63
        self._keys = _mix(_mix(_mix(torch.tensor(signed)) + stream) + self.samples)
        self._drawn = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: Tensor | slice) -> Draws:
        """Those of some of the samples, from the first draw on."""
        return Draws(self.seed, self.samples[rows], self.stream)

    def _bits(self, shape: tuple[int, ...], device: torch.device | str | None) -> Tensor:
        """The next draw, 64 bits at each place of (B, ...), of which no side may be longer than 65,535."""
        if shape[0] != len(self) or len(shape) > 4 or max(shape[1:], default=0) >= 2**16:
            raise ValueError(f"numbers of shape {shape} cannot be drawn for {len(self)} samples")
        # On GPUs where they are needed; the bits are the same everywhere.
        device = torch.device(device or "cpu")
        device = device if device.type == "cuda" else torch.device("cpu")
        self._drawn += 1
        place = torch.zeros((), dtype=torch.long, device=device)
        for side in shape[1:]:
            place = (place[..., None] << 16) + torch.arange(1, side + 1, device=device)
        keys = _mix(self._keys + self._drawn).to(device)
        return _mix(keys.view(-1, *[1] * (len(shape) - 1)) ^ _mix(place))

    def uniform(self, shape: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
        """Uniform numbers strictly between 0 and 1, float32 of the shape (B, ...)."""
        return _between(self._bits(shape, device) >> 41).to(device)

    def normal(self, shape: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
        """Standard normal numbers, float32 of the shape (B, ...), by Box and Muller's rule."""
        bits = self._bits(shape, device)
        radius = _between(bits >> 41).log_().mul_(-2).sqrt_()
        return _between(bits >> 18).mul_(2 * torch.pi).cos_().mul_(radius).to(device)


def _between(bits: Tensor) -> Tensor:
    """(k + 1/2) / 2^23 of the last 23 bits, exact in float32."""
    return (bits & (1 << 23) - 1).float().add_(0.5).mul_(2.0**-23)


Source = torch.Generator | Draws  # of random numbers


def uniform(shape: tuple[int, ...], source: Source | None, device=None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers, drawn where a generator lives so that all devices share one stream; None: torch's own."""
    if isinstance(source, Draws):
        return source.uniform(shape, device).to(dtype)
    home = device if source is None else source.device
    return torch.rand(shape, generator=source, device=home, dtype=dtype).to(device)


def normal(shape: tuple[int, ...], source: Source | None, device=None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers; otherwise as `uniform`."""
    if isinstance(source, Draws):
        return source.normal(shape, device).to(dtype)
    home = device if source is None else source.device
    return torch.randn(shape, generator=source, device=home, dtype=dtype).to(device)


def choose(p: Tensor, count: int, source: Source | None) -> Tensor:
    """`count` numbers 0..K-1 with probabilities in proportion to p (K,), where they were drawn."""
    if isinstance(source, Draws):
        p = p.cpu().double().cumsum(0)
        return torch.searchsorted(p, source.uniform((count,)).double() * p[-1])
    home = p.device if source is None else source.device
    return torch.multinomial(p.to(home), count, replacement=True, generator=source)


@contextmanager
def repeatable(source: Source | None) -> Iterator[None]:
    """Ties networks that draw at random (Symmetrised, dropout) to `source`; a generator is left as it was. None: not.

    Within, `for_batch` takes from `Draws`; what draws from torch's global numbers repeats with seed and batch.
    """
    global _draws
    if source is None:
        yield
        return
    if isinstance(source, Draws):
        seed, before = int(_mix(source._keys[:1]).sum()), _draws
    else:
        copy = source.clone_state()
        seed, before = int(torch.randint(2**62, (), generator=copy, device=copy.device)), None
    with seeded(seed):
        _draws = source if isinstance(source, Draws) else None
        try:
            yield
        finally:
            _draws = before


_draws: Draws | None = None  # from which networks draw
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


def for_batch(draw: Callable[[int, Source | None], Tensor], length: int) -> Tensor:
    """draw(length, source), as networks draw at random for a batch.

    The source is the `Draws` of `repeatable`, else None. Within `part_of_batch` these are the rows here of what is
    drawn for the whole batch.
    """
    if _draws is not None or _part is None:
        return draw(length, _draws)
    whole, rows = _part
    return draw(whole, None)[rows]
