r"""The UNet behind the published table of RotMNIST: units of ShuffleNet V2 at falling resolution and back.

    unit:  [left(x_1), right(x_2)], channels shuffled, with x_1, x_2 the halves of the channels; where the unit halves
           the resolution both see all of x.  left = pointwise depthwise, right = pointwise depthwise pointwise
    level: units; SiLU(h + MLP(e_t)), e_t looked up in a table of one row per time; then down or up
    eps_hat = Conv(h), without attention: 1,084,897 parameters, a thirteenth of `UNet`'s arithmetic

Sources: Ma et al. 2018 (arXiv 1807.11164) for the units; the sizes are those of the code released with Sareen et al.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import channel_shuffle, interpolate, silu


def _conv(channels: int, out: int, kernel: int, *, stride: int = 1, depthwise: bool = False) -> nn.Sequential:
    """Convolution, batch normalisation and, unless it is depthwise, SiLU."""
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=channels if depthwise else 1)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.Identity() if depthwise else nn.SiLU())


class Unit(nn.Module):
    """A unit of ShuffleNet V2; with `halve` each side of the image becomes half as long."""

    def __init__(self, channels: int, out: int, halve: bool = False):
        super().__init__()
        self.halve, stride = halve, 2 if halve else 1
        seen = channels if halve else channels // 2
        inner, out = out // 2 if halve else seen, out // 2
        self.left = nn.Sequential(_conv(seen, seen, 3, stride=stride, depthwise=True), _conv(seen, out, 1))
        self.right = nn.Sequential(
            _conv(seen, inner, 1), _conv(inner, inner, 3, stride=stride, depthwise=True), _conv(inner, out, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.halve else x.chunk(2, dim=1)
        return channel_shuffle(torch.cat([self.left(left), self.right(right)], dim=1), 2)


class Level(nn.Module):
    """Four units to half the channels, the time added, and a last unit that halves the image or not."""

    def __init__(self, channels: int, middle: int, out: int, hidden: int, time_width: int, halve: bool):
        super().__init__()
        self.units = nn.Sequential(*(Unit(channels, channels) for _ in range(3)), Unit(channels, middle))
        self.time = nn.Sequential(nn.Linear(time_width, hidden), nn.SiLU(), nn.Linear(hidden, middle))
        self.last = Unit(middle, out, halve)

    def forward(self, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """What follows, and what the way up is given."""
        h = self.units(h)
        return self.last(silu(h + self.time(e)[:, :, None, None])), h


class ShuffleUNet(nn.Module):
    """eps_hat(z_t, t) for images.

    Args:
        channels: of the image.
        width: channels at full resolution.
        multipliers: channels after each halving over `width`; H and W must be multiples of 2^len.
        time_width: length of a time's row in the table.
        times: rows of the table, t = 0, 1 / (times - 1), ..., 1.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        multipliers: Sequence[int] = (2, 4),
        time_width: int = 256,
        times: int = 1000,
    ):
        super().__init__()
        widths = [width, *(width * m for m in multipliers)]
        self.width, self.shrink, self.times = width, 2 ** len(multipliers), times
        self.table = nn.Embedding(times, time_width)
        self.input = _conv(channels, width, 3)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(Level(a, b // 2, b, b, time_width, halve=True) for a, b in pairs)
        last = widths[-1]
        self.middle = nn.Sequential(Unit(last, last), Unit(last, last), Unit(last, last // 2))
        self.up = nn.ModuleList(Level(b, b // 2, a // 2, b, time_width, halve=False) for a, b in reversed(pairs))
        self.output = nn.Conv2d(width // 2, channels, 1)

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """eps_hat (B, C, H, W) for images z of that shape at times t (B,) in [0, 1]; images have no mask."""
        if z.shape[-1] % self.shrink or z.shape[-2] % self.shrink:
            raise ValueError(
                f"images of {z.shape[-2]} x {z.shape[-1]} pixels: sides must be multiples of {self.shrink}"
            )
        e = self.table((t * (self.times - 1)).round().long())
        # Channels beside each other in memory: on CPUs a training step takes a quarter less time.
        h, kept = self.input(z).contiguous(memory_format=torch.channels_last), []
        for level in self.down:
            h, beside = level(h, e)
            kept.append(beside)
        h = self.middle(h)
        for level in self.up:
            h = interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
            h, _ = level(torch.cat([h, kept.pop()], dim=1), e)
        return self.output(h)

    def sampling_bytes(self, size: int) -> int:
        """Memory in bytes that the evaluation of one image of 28 x 28 pixels takes, roughly."""
        return 4 * 28 * 28 * self.width * 16
