"""Images before and after canonicalization, and how a canonicalizer decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from canonkit.canonicalizers import ImageCanonicalizer
from canonkit.figures.base import Picture, blank

INK = {"cmap": "gray_r", "vmin": 0, "vmax": 1}


def _pixels(images: Tensor) -> np.ndarray:
    return images.detach().float().cpu().numpy()[:, 0]


def _bare(ax) -> None:
    ax.set(xticks=(), yticks=())
    for side in ax.spines.values():
        side.set_color("#cccccc")


def _grid(rows: int, columns: int, size: float, names: Sequence[str], title: str | None) -> tuple[Picture, np.ndarray]:
    """A figure of rows x columns bare axes with the rows' names on the left."""
    margin = 0.3 + 0.085 * max(map(len, names), default=0)
    figure = blank(size * columns + margin, size * rows + 0.25 + (0.25 if title else 0))
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        _bare(ax)
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, axes


def image_rows(
    sets: Mapping[str, Tensor], *, columns: int = 16, size: float = 0.6, title: str | None = None
) -> Picture:
    """One row of images (B, 1, H, W) per named set: the first `columns` of each.

    Args:
        sets: images by name.
        columns: images per row.
        size: of one image, in inches.
        title: of the figure.
    """
    columns = min(columns, max(map(len, sets.values())))
    figure, axes = _grid(len(sets), columns, size, list(sets), title)
    for row, images in zip(axes, sets.values(), strict=True):
        for ax, x in zip(row, _pixels(images[:columns]), strict=False):
            ax.imshow(x, **INK)
        for ax in row[len(images) :]:
            ax.axis("off")
    return figure


def class_means(sets: Mapping[str, Tensor], labels: Tensor, *, size: float = 0.8) -> Picture:
    """The mean image of every class, one row per named set, and the variance of each pixel within classes.

    If the means are sharp and the variance is low, a model of that set has little left to learn. The number above
    the last column is the mean of the variance over pixels.

    Args:
        sets: images (B, 1, H, W) by name, the same digits in all.
        labels: their classes, (B,).
        size: of one image, in inches.
    """
    classes = labels.unique().tolist()
    figure, axes = _grid(len(sets), len(classes) + 1, size, list(sets), None)
    means, spreads = {}, {}
    for name, images in sets.items():
        x = torch.from_numpy(_pixels(images))
        means[name] = torch.stack([x[labels == k].mean(0) for k in classes])
        spreads[name] = torch.stack([x[labels == k].var(0) * (labels == k).float().mean() for k in classes]).sum(0)
    top = max(float(spread.max()) for spread in spreads.values())
    for row, name in zip(axes, sets, strict=True):
        for ax, mean in zip(row, means[name], strict=False):
            ax.imshow(mean, **INK)
        row[-1].imshow(spreads[name], cmap="magma", vmin=0, vmax=top)
        row[-1].set_title(f"{float(spreads[name].mean()):.4f}", fontsize=8, pad=2)
    for ax, k in zip(axes[-1], [*map(str, classes), "variance"], strict=True):
        ax.set_xlabel(k, fontsize=9)
    return figure


def angle_histogram(angles: Mapping[str, Tensor], labels: Tensor, *, bins: int = 16) -> Picture:
    """How angles are spread over the circle, one panel per named set, bars stacked by class; dotted: evenly.

    Args:
        angles: degrees (B,) by name.
        labels: classes, (B,).
        bins: around the circle; the first is centred at 0.
    """
    figure = blank(3.4 * len(angles) + 0.6, 2.5)
    panels = figure.subplots(1, len(angles), squeeze=False, sharey=True)[0]
    width = 360 / bins
    for ax, (name, degrees) in zip(panels, angles.items(), strict=True):
        place = torch.floor(degrees.double() / width + 0.5).long() % bins
        bottom = np.zeros(bins)
        for group in labels.unique().tolist():
            share = np.bincount(place[labels == group].cpu().numpy(), minlength=bins) / len(place)
            ax.bar(np.arange(bins) * width, share, 0.9 * width, bottom, color=f"C{group % 10}", label=str(group))
            bottom += share
        ax.axhline(1 / bins, color="black", linewidth=0.8, linestyle=":")
        ax.set_title(name, fontsize=10)
        ax.set(xticks=(0, 90, 180, 270), xlabel="degrees")
    panels[0].set_ylabel("share")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], fontsize=7, loc="outside right center")
    return figure


@torch.no_grad()
def activations(canonicalizer: ImageCanonicalizer, image: Tensor, *, size: float = 2.0) -> Picture:
    """An image (1, H, H), its canonical image, and the activation over the group elements, the chosen one in red."""
    c = canonicalizer(image[None])
    order, k = canonicalizer.order, int(c.g)
    # Shown relative to their lowest, as only differences matter.
    a = canonicalizer.activations(image[None])[0].cpu()
    a = ((a - a.min()) / (a.max() - a.min()).clamp(min=1e-12)).numpy()
    figure = blank(3 * size, 1.3 * size)
    grid = figure.add_gridspec(1, 3)
    for column, (x, title) in enumerate(((image[None], "x"), (c.x, "c(x)"))):
        ax = figure.add_subplot(grid[column])
        ax.imshow(_pixels(x)[0], **INK)
        ax.set_title(title, fontsize=10)
        _bare(ax)
    ax = figure.add_subplot(grid[2], projection="polar")
    angles = 2 * np.pi * np.arange(order) / order
    ax.bar(angles, a + 0.03, 0.85 * 2 * np.pi / order, color=["#d00000" if i == k else "#9aa7b8" for i in range(order)])
    ax.set(yticks=(), xticks=np.deg2rad((0, 90, 180, 270)), ylim=(0, 1.05))
    ax.tick_params(labelsize=7, pad=0)
    ax.set_title(f"h(x) = {360 * k / order:g}°" + (" (ambiguous)" if bool(c.ambiguous) else ""), fontsize=10)
    return figure
