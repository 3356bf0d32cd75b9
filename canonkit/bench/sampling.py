"""Seconds per molecule and per stable molecule: the shipped models of QM9 and EDM as published, all in one run.

Reference: EDM's network at paper scale in its authors' formulation (every molecule padded to 29 atoms), 1000 steps. One
of its evaluations is timed in every repetition and counted 1001 times, since each costs the same; its weights are
random, which changes no time. How many of its molecules are stable is the published figure. Flows are sampled in full,
and their shares are of the molecules of this very run. Diffusions are sampled for a few steps, whose time is counted
for as many evaluations as their card says; their shares are the card's.
"""

from __future__ import annotations

import time

import torch
from tqdm.auto import tqdm

from canonkit.bench.molecules import Case
from canonkit.data.qm9 import LONGEST
from canonkit.metrics.stability import stability
from canonkit.molecules import Molecules
from canonkit.names import choose
from canonkit.processes import FlowMatching
from canonkit.releases import cards, load
from canonkit.results import PUBLISHED, STEPS
from canonkit.tables import text_table
from canonkit.training import best_device, hardware, set_precision

BATCH = 64
EDM_EVALUATIONS = 1001
TIMED = 5  # evaluations of a diffusion


def bench_sampling(repeat: int = 5, *, names: tuple[str, ...] | None = None, progress: bool = True) -> list[dict]:
    """Samples 64 molecules of the same sizes from every shipped model of QM9, the reference in between.

    Models of heavy atoms draw sizes of their own; adding the hydrogens is part of their time.

    Returns:
        one dict per model and number of steps, the reference first: system, scale, steps, seconds (per molecule, median
        over repetitions), stable (share of stable molecules), stable_from (published, its card, or how many were
        sampled), seconds_per_stable (None where none was stable), ratio and stable_ratio (of the reference's times to
        these), hardware.

    Raises:
        ValueError: fewer than one repetition, no shipped weights of QM9 by one of `names`.
    """
    if repeat < 1:
        raise ValueError(f"repeat {repeat} is below 1")
    known = [name for name, card in cards().items() if card["data"]["name"] in ("QM9", "QM9-heavy")]
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"no weights of QM9 are called {unknown[0]!r}: {choose(unknown[0], known)}")
    device = best_device()
    runs = {name: load(name) for name in names or known}
    reference = Case("EDM", device)
    times: dict[tuple[str, int], list[float]] = {("EDM, plain", EDM_EVALUATIONS): []}
    stable: dict[tuple[str, int], list[bool]] = {}
    for run in runs.values():
        set_precision(run.model.to(device), run.recipe.settings.precision)
    for r in tqdm(range(repeat + 1), desc="bench", disable=not progress):
        generator = torch.Generator().manual_seed(r)
        sizes = load("CanonFlow").model.sample_sizes(BATCH, generator)  # of QM9 with hydrogens
        mask = torch.arange(LONGEST) < sizes[:, None]
        x = torch.randn(BATCH, LONGEST, 3, generator=generator) * mask[..., None]
        inputs = reference.inputs(Molecules(x, torch.zeros_like(mask, dtype=torch.long), mask))
        one = reference.seconds("evaluation", reference.reference, inputs)
        found: list[tuple] = [(("EDM, plain", EDM_EVALUATIONS), one * EDM_EVALUATIONS, None)]
        for name, run in runs.items():
            own = run.model.sample_sizes(BATCH, torch.Generator().manual_seed(r)) if run.recipe.form.heavy else sizes
            is_flow = isinstance(run.model.process, FlowMatching)
            for steps in STEPS if is_flow else (run.card["evaluation"]["steps"],):
                timed = steps if is_flow else TIMED
                start = time.perf_counter()
                made = run.recipe.form.complete(run.sample(steps=timed, sizes=own, seed=r, hydrogens=False))
                seconds = (time.perf_counter() - start) * steps / timed
                found.append(((name, steps), seconds, made if is_flow else None))
        for key, seconds, made in found[: None if r else 0]:  # the first time warms up
            times.setdefault(key, []).append(seconds / BATCH)
            if made is not None:
                stable.setdefault(key, []).extend(stability(made.molecules, made.refused).molecules.tolist())
    rows = []
    for (name, steps), seconds in times.items():
        mine = stable.get((name, steps))
        if mine:
            share, source = sum(mine) / len(mine), f"{len(mine)} samples"
        elif name in runs:
            share, source = runs[name].card["evaluation"]["molecule_stable"], "its card"
        else:
            share, source = float(PUBLISHED["EDM"][1].split("±")[0]) / 100, "published"
        median = float(torch.tensor(seconds).median())
        rows.append(
            {
                "system": name,
                "scale": runs[name].recipe.scale if name in runs else "paper",
                "steps": steps,
                "seconds": median,
                "stable": share,
                "stable_from": source,
                "seconds_per_stable": median / share if share else None,
                "hardware": hardware(device),
            }
        )
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
        each = row["seconds_per_stable"]
        row["stable_ratio"] = rows[0]["seconds_per_stable"] / each if each else None
    return rows


def describe_sampling(rows: list[dict]) -> str:
    """The rows as a table."""
    header = ["system", "scale", "steps", "s per molecule", "times faster", "stable %", "s per stable", "times faster"]
    cells = [
        [
            r["system"],
            r["scale"],
            r["steps"],
            f"{r['seconds']:.4g}",
            f"{r['ratio']:,.0f}",
            f"{100 * r['stable']:.1f} ({r['stable_from']})",
            f"{r['seconds_per_stable']:.3g}" if r["seconds_per_stable"] else "–",
            f"{r['stable_ratio']:,.0f}" if r["stable_ratio"] else "–",
        ]
        for r in rows
    ]
    return f"{text_table(header, cells)}\non {rows[0]['hardware']}"
