r"""Canonicalizers of images over C_K, the rotations by multiples of 360 / K degrees (Sareen et al. 2024).

    a(x) in R^K with a_k(g_j x) = a_{k - j}(x),   h(x) = g_k,  k = argmax a(x),   c(x) = h(x)^-1 x.

Two networks give such activations:

    GCNN     a group-equivariant CNN with regular representations of C_K (Weiler and Cesa 2019; Kaba et al. 2023)
    Copies   a_k(x) = s(g_k^-1 x): a plain CNN s scores the K rotated copies (Mondal et al. 2023)

Training goes straight through the argmax, angle = sum_k w_k 360 k / K with w = onehot + soft - stopgrad(soft) and
soft = softmax(a), and through the rotation. Pixels are a square grid, so equivariance is exact for quarter turns, and
holds up to interpolation for the others. Corners outside the inscribed circle are cut off: no turn keeps them.
`Arbitrary` is the control: it has the smoothing of interpolation without alignment.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, one_hot, relu

from canonkit.canonicalizers.base import Canonical, Canonicalizer
from canonkit.extras import IMAGES, require
from canonkit.groups import disk, rotate

TIE = 1e-4  # of the activations' spread: a smaller lead is none


class ImageCanonicalizer(Canonicalizer):
    """h and c for images (B, 1, H, H). Subclasses define `activations`.

    Args:
        order: K.
        frozen: keep the random weights, in eval mode; no parameter is trained.
    """

    fast_dtype: torch.dtype | None = None  # for training; poses are always decided in float32 when evaluating

    def __init__(self, order: int = 16, frozen: bool = False):
        super().__init__()
        if order < 4 or order % 4:
            raise ValueError(f"order {order} is not a multiple of 4, so quarter turns would not be in C_{order}")
        self.order, self.frozen = order, frozen

    def activations(self, x: Tensor) -> Tensor:
        """a(x), (B, K), of images with their corners cut off."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> ImageCanonicalizer:
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor) -> Canonical:
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] != x.shape[3]:
            raise ValueError(f"images of shape {tuple(x.shape)}: give (B, 1, H, H)")
        x = x * disk(x.shape[-1], device=x.device).to(x.dtype)
        fast = self.fast_dtype if self.training else None
        with torch.autocast(x.device.type, dtype=fast, enabled=fast is not None):
            a = self.activations(x)
        a = a.to(x.dtype)
        k = a.argmax(1)
        soft = a.softmax(1)
        weights = one_hot(k, self.order).to(x.dtype) + (soft - soft.detach())
        angle = weights @ (torch.arange(self.order, device=x.device).to(x.dtype) * (360 / self.order))
        top = a.detach().topk(2, dim=1).values
        lead, spread = top[:, 0] - top[:, 1], top[:, 0] - a.detach().amin(1)
        return Canonical(rotate(x, -angle), k, lead <= TIE * spread)


class GCNN(ImageCanonicalizer):
    """Activations of a G-CNN: `layers` convolutions without padding between stacks of regular representations.

    Filters lie in escnn's steerable basis, psi[o, i, r, s] = sum_d w[o, i, d] basis[d, r, s], so that a turned input
    gives turned, cyclically shifted features; batch norm, ReLU and dropout act alike on all K. The mean over places and
    channels is a(x). As in equiadapt, which the published system uses.

    Args:
        order: K (published: 8, 16, 32).
        channels: regular representations per layer (published: 16).
        layers, kernel: published 5 and 5.
        dropout: after each layer but the last, in training.
        frozen: see `ImageCanonicalizer`.
    """

    def __init__(
        self,
        order: int = 16,
        channels: int = 16,
        layers: int = 5,
        kernel: int = 5,
        dropout: float = 0.5,
        frozen: bool = False,
    ):
        super().__init__(order, frozen)
        first, basis = steerable_bases(order, kernel)
        # Not part of the weights: rebuilt from escnn whenever the model is.
        self.register_buffer("first_basis", first, persistent=False)
        self.register_buffer("basis", basis, persistent=False)
        self.weights = nn.ParameterList()
        for k in range(layers):
            b, before = (basis, channels) if k else (first, 1)
            # The variance of the output is then twice the mean square of the input, halved again by ReLU.
            scale = (2 * order / (before * b.square().sum())).sqrt()
            self.weights.append(nn.Parameter(scale * torch.randn(channels, before, len(b))))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(channels)) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm3d(channels, momentum=0.9) for _ in range(layers - 1))
        self.dropout = nn.Dropout(dropout)
        self.channels = channels
        self.requires_grad_(not frozen)
        self.train()

    def filters(self) -> list[tuple[Tensor, Tensor]]:
        """Filter and bias of every layer, expanded: (C K, C' K', k, k) and (C K,)."""
        found = []
        for k, (w, bias) in enumerate(zip(self.weights, self.bias, strict=True)):
            psi = torch.einsum("oid,drsyx->orisyx", w, self.basis if k else self.first_basis)
            found.append((psi.flatten(2, 3).flatten(0, 1), bias.repeat_interleave(self.order)))
        return found

    def activations(self, x: Tensor) -> Tensor:
        filters = self.filters()
        for k, (psi, bias) in enumerate(filters):
            if x.shape[-1] < psi.shape[-1]:
                raise ValueError(f"images are too small for {len(filters)} convolutions of {psi.shape[-1]} pixels")
            x = conv2d(x, psi, bias)
            if k < len(filters) - 1:
                fields = x.unflatten(1, (self.channels, self.order))
                x = self.dropout(relu(self.norms[k](fields))).flatten(1, 2)
        return x.unflatten(1, (self.channels, self.order)).mean((1, 3, 4))


def steerable_bases(order: int, kernel: int) -> tuple[Tensor, Tensor]:
    """escnn's bases of equivariant filters from one channel and from a regular representation of C_K to a regular one.

    Returns:
        (D, K, 1, k, k) and (D', K, K, k, k). The first time takes seconds, so a bar says what is going on.
    """
    from tqdm.auto import tqdm

    require(*IMAGES)
    bar = tqdm(total=3, desc=f"building the G-CNN of C_{order}", leave=False)
    with bar, warnings.catch_warnings():  # that optional packages are missing
        warnings.simplefilter("ignore")
        from escnn import gspaces
        from escnn.nn import FieldType, R2Conv

        bar.update()
        space = gspaces.rot2dOnR2(order)
        regular = FieldType(space, [space.regular_repr])
        bases = []
        for before in (FieldType(space, [space.trivial_repr]), regular):
            expand = R2Conv(before, regular, kernel, initialize=False).basisexpansion
            # Expanding is linear in the weights, so unit vectors give the basis.
            # escnn shares its bases among layers, in whatever precision somebody moved them to.
            unit = torch.eye(expand.dimension(), dtype=next(expand.buffers()).dtype)
            bases.append(torch.vmap(expand)(unit).detach().float().unflatten(-1, (kernel, kernel)))
            bar.update()
    return tuple(bases)


class Arbitrary(ImageCanonicalizer):
    """A control, not a canonicalizer: every image gets an element of C_K that has nothing to do with its pose.

    Its images went through the same interpolation as canonical images. This makes them smoother and easier to denoise,
    but they are not aligned.
    """

    def activations(self, x: Tensor) -> Tensor:
        # Fixed by the image's ink, so that an image is turned alike in all epochs.
        k = torch.arange(1, self.order + 1, device=x.device)
        return torch.sin(1e3 * x.float().sum((1, 2, 3))[:, None] * k)


class Copies(ImageCanonicalizer):
    """Activations a_k(x) = s(g_k^-1 x) of the K rotated copies, s a plain CNN at half the resolution.

    Args:
        order: K.
        width: channels of the first convolution, half those of the others.
        frozen: see `ImageCanonicalizer`.
    """

    def __init__(self, order: int = 16, width: int = 16, frozen: bool = False):
        super().__init__(order, frozen)
        self.score = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(1, width, 5),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 5),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 5),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(2 * width, 1, 1, bias=False),
        )
        self.requires_grad_(not frozen)
        self.train()

    def activations(self, x: Tensor) -> Tensor:
        angles = -torch.arange(self.order, device=x.device).to(x.dtype) * (360 / self.order)
        copies = rotate(x.repeat_interleave(self.order, 0), angles.repeat(len(x)))
        return self.score(copies).view(len(x), self.order)
