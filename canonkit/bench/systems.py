"""What every system of molecules costs at laptop scale: a training step and a sample, all systems in one run.

In each repetition every system takes the same batch of 64 molecules of one length, one after the other, so that other
work on the machine slows all of them alike. Seconds are medians over repetitions.
"""

from __future__ import annotations

import time

import torch
from tqdm.auto import tqdm

from canonkit.data.batches import LengthBatches, lengths, take
from canonkit.data.qm9 import LONGEST, load_qm9
from canonkit.names import choose
from canonkit.recipes.names import SYSTEMS, recipe
from canonkit.tables import Table
from canonkit.training import Prepared, State, best_device, hardware, one_step, set_precision

EVALUATIONS = 4  # of which a sample's time is measured


def bench_systems(repeat: int = 5, *, systems: tuple[str, ...] | None = None, progress: bool = True) -> list[dict]:
    """Times the systems of QM9 at laptop scale; one dict each.

    Returns:
        system, parameters, step_s (a training step of 64 molecules), evaluation_s (one network evaluation in sampling,
        per molecule), hardware.
    """
    if repeat < 1:
        raise ValueError(f"repeat {repeat} is below 1")
    known = [name for name, s in SYSTEMS.items() if s.data == "QM9" and not name.endswith("*")]
    if unknown := [name for name in systems or () if name not in known]:
        raise ValueError(f"no system of molecules is called {unknown[0]!r}: {choose(unknown[0], known)}")
    device, data = best_device(), load_qm9(progress=progress).part("train")
    counts = torch.bincount(lengths(data), minlength=LONGEST + 1)
    prepared, states, times = {}, {}, {}
    for name in systems or known:
        chosen = recipe(name)
        model = chosen.build(counts).to(device).train()
        set_precision(model, chosen.settings.precision)
        prepared[name] = Prepared(model, data, data, chosen.settings)
        states[name], times[name] = State(model, chosen.settings), ([], [])
    batches = LengthBatches(lengths(data), 64, 0).epoch(0)
    for r in tqdm(range(repeat + 1), desc="bench", disable=not progress):
        x = take(data, batches[r], device)
        for name, state in states.items():
            steps, evaluations = times[name]
            start = time.perf_counter()
            float(one_step(state, state.model, prepared[name].ready(x))["loss"])  # waits for the device
            steps.append(time.perf_counter() - start)
            process, start = state.model.process, time.perf_counter()
            process.sample(state.model.network, lengths(x), EVALUATIONS)
            evaluations.append((time.perf_counter() - start) / process.evaluations(EVALUATIONS) / len(x))
    return [
        {
            "system": name,
            "parameters": sum(p.numel() for p in states[name].model.parameters()),
            "step_s": float(torch.tensor(steps[1:]).median()),  # the first warms up
            "evaluation_s": float(torch.tensor(evaluations[1:]).median()),
            "hardware": hardware(device),
        }
        for name, (steps, evaluations) in times.items()
    ]


def describe_systems(rows: list[dict]) -> Table:
    """The rows as a table."""
    header = ["system", "parameters", "ms per step of 64", "ms per molecule and evaluation"]
    cells = [
        [r["system"], f"{r['parameters']:,}", f"{1e3 * r['step_s']:.0f}", f"{1e3 * r['evaluation_s']:.3f}"]
        for r in rows
    ]
    machines = " / ".join(sorted({r["hardware"] for r in rows}))
    notes = [f"Laptop scale; all systems take the same batches in turn, in one run on {machines}; medians."]
    return Table("Cost of training and sampling", header, cells, notes)
