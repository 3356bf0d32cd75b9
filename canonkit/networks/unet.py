r"""A UNet for small images: residual blocks at falling resolution and back, with a shortcut per block.

    h_0 = Conv(z);   down: h <- Block(h, e), kept, then halved;   middle: Block, attention, Block;
    up:   h <- Block([h, kept], e), then doubled;   eps_hat = Conv(SiLU(Norm(h))),   e = MLP(sinusoids of t)

The plain denoiser of images, as in Ho et al. 2020: it has no rotational symmetry.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from canonkit.networks.time import time_features

GROUPS = 8  # of channels, for normalisation
HEADS = 4


class Block(nn.Module):
    """h -> skip(h) + Conv SiLU Norm' Conv SiLU Norm h, where Norm' is scaled and shifted by the time e."""

    def __init__(self, channels: int, out: int, width: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, out), nn.Conv2d(out, out, 3, padding=1)
        self.time = nn.Linear(width, 2 * out)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # every block begins as its shortcut

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.time(e)[:, :, None, None].chunk(2, dim=1)
        inner = self.conv1(silu(self.norm1(h)))
        return self.skip(h) + self.conv2(silu(self.norm2(inner) * (1 + scale) + shift))


class Attention(nn.Module):
    """Multi-head attention among all pixels, added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.inputs = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        B, C, H, W = h.shape
        q, k, v = self.inputs(self.norm(h)).view(B, 3, HEADS, C // HEADS, H * W).mT.unbind(1)
        return h + self.output(scaled_dot_product_attention(q, k, v).mT.reshape(B, C, H, W))


class UNet(nn.Module):
    """eps_hat(z_t, t) for images.

    Args:
        channels: of the image.
        width: channels at full resolution (published: 64).
        multipliers: channels at each resolution over `width`; each is half the one before, so H and W must be multiples
            of 2^(len - 1).
        blocks: per resolution on the way down; one more on the way up.
    """

    def __init__(self, channels: int = 1, width: int = 64, multipliers: Sequence[int] = (1, 2, 4), blocks: int = 2):
        super().__init__()
        if width % GROUPS:
            raise ValueError(f"width {width} is not a multiple of {GROUPS}")
        self.width, self.shrink = width, 2 ** (len(multipliers) - 1)
        self.fast_dtype: torch.dtype | None = None  # bfloat16: products in it, normalisation and output in float32
        time_width = 4 * width
        self.time = nn.Sequential(nn.Linear(width, time_width), nn.SiLU(), nn.Linear(time_width, time_width), nn.SiLU())
        self.input = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept, now = [width], width
        for level, multiplier in enumerate(multipliers):
            out = width * multiplier
            for _ in range(blocks):
                self.down.append(Block(now, out, time_width))
                kept.append(now := out)
            if level < len(multipliers) - 1:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                kept.append(now)
        self.middle = nn.ModuleList([Block(now, now, time_width), Attention(now), Block(now, now, time_width)])
        for level, multiplier in reversed(list(enumerate(multipliers))):
            out = width * multiplier
            for _ in range(blocks + 1):
                self.up.append(Block(now + kept.pop(), out, time_width))
                now = out
            if level:
                self.up.append(nn.Conv2d(now, now, 3, padding=1))
        self.norm, self.output = nn.GroupNorm(GROUPS, now), nn.Conv2d(now, channels, 3, padding=1)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """eps_hat (B, C, H, W) for images z of that shape at times t (B,) in [0, 1]; images have no mask."""
        if z.shape[-1] % self.shrink or z.shape[-2] % self.shrink:
            raise ValueError(
                f"images of {z.shape[-2]} x {z.shape[-1]} pixels: sides must be multiples of {self.shrink}"
            )
        fast = self.fast_dtype
        with torch.autocast(z.device.type, dtype=fast, enabled=fast is not None):
            e = self.time(time_features(t.to(z.dtype), self.width).to(z.dtype))
            # Channels beside each other in memory: on CPUs a training step takes a sixth less time.
            kept = [h := self.input(z).contiguous(memory_format=torch.channels_last)]
            for layer in self.down:
                h = layer(h, e) if isinstance(layer, Block) else layer(h)
                kept.append(h)
            first, attention, last = self.middle
            h = last(attention(first(h, e)), e)
            for layer in self.up:
                if isinstance(layer, Block):
                    h = layer(torch.cat([h, kept.pop()], dim=1), e)
                else:
                    h = layer(interpolate(h, scale_factor=2.0))
            return self.output(silu(self.norm(h))).to(z.dtype)

    def sampling_bytes(self, size: int) -> int:
        """Memory in bytes that the evaluation of one image of 28 x 28 pixels takes, roughly."""
        return 4 * 28 * 28 * self.width * 16
