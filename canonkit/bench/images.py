"""Canonicalizers of images: the cost of a G-CNN and of rotated copies, and how well each follows a turn.

Published sizes, random weights, RotMNIST's test digits; both sides of a row alternate in one process. Seconds are
medians over repetitions; training steps in the precision that training uses, evaluations in float32.
"""

from __future__ import annotations

import time

import torch
from tqdm.auto import tqdm

from canonkit.canonicalizers import GCNN, Copies, ImageCanonicalizer
from canonkit.certificates import ImageCertificate, certify
from canonkit.data.rotmnist import load_rotmnist
from canonkit.tables import text_table
from canonkit.training import best_device, fast_dtype, hardware

ORDERS = (8, 16, 32)
BATCH = 32
CERTIFIED = 64  # images


def bench_images(repeat: int = 5, *, orders=ORDERS, progress: bool = True) -> list[dict]:
    """Times both kinds of canonicalizer at each order; one dict per kind and order.

    Returns:
        canonicalizer, order, batch, forward_s (no gradients), step_s (forward and backward), followed (share of turns
        by 360 k / K that the argmax follows), and for the copies forward_ratio and step_ratio, the G-CNN's over theirs.
    """
    if repeat < 1:
        raise ValueError(f"repeat {repeat} is below 1")
    device = best_device()
    images = load_rotmnist(progress=progress).part("test")[: max(BATCH, CERTIFIED)].to(device)
    rows = []
    for K in tqdm(orders, desc="bench", unit="order", disable=not progress):
        pair = {}
        for name, kind in (("gcnn", GCNN), ("copies", Copies)):
            torch.manual_seed(0)
            pair[name] = kind(K).to(device)
            pair[name].fast_dtype = fast_dtype("auto", device)
        times = {(name, what): [] for name in pair for what in ("forward", "step")}
        for r in range(-1, repeat):  # the first time warms up
            for name, h in pair.items():
                for what in ("forward", "step"):
                    seconds = _seconds(h, images[:BATCH], what)
                    if r >= 0:
                        times[name, what].append(seconds)
        median = {key: float(torch.tensor(values).quantile(0.5)) for key, values in times.items()}
        for name, h in pair.items():
            found = certify(h.cpu(), images[:CERTIFIED].cpu(), dtype=torch.float32, draws=1)
            row = {"canonicalizer": name, "order": K, "batch": BATCH}
            row |= {f"{what}_s": median[name, what] for what in ("forward", "step")}
            if name == "copies":
                row |= {f"{what}_ratio": median["gcnn", what] / median[name, what] for what in ("forward", "step")}
            assert isinstance(found, ImageCertificate)
            rows.append(row | {"followed": found.followed_share})
    return rows


def _seconds(h: ImageCanonicalizer, x: torch.Tensor, what: str) -> float:
    h.train(what == "step")
    start = time.perf_counter()
    with torch.set_grad_enabled(what == "step"):
        c = h(x).x
    if what == "step":
        c.square().mean().backward()
    float(c.detach()[0, 0, 0, 0])  # waits for the device
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def describe_images(rows: list[dict]) -> str:
    """The rows as a table."""
    header = ["canonicalizer", "K", "forward ms/image", "step ms/image", "G-CNN over it", "step", "follows a turn"]
    cells = [
        [
            r["canonicalizer"], r["order"], f"{1e3 * r['forward_s'] / r['batch']:.2f}",
            f"{1e3 * r['step_s'] / r['batch']:.2f}",
            *(f"{r[key]:.1f}" if key in r else "" for key in ("forward_ratio", "step_ratio")),
            f"{r['followed']:.0%}",
        ]
        for r in rows
    ]  # fmt: skip
    return "\n".join([text_table(header, cells), f"on {hardware(best_device())}"])
