r"""A fixed number of minutes on a big GPU, on a machine where torch and numpy are enough.

    canonkit data qm9 --file qm9.npz                  # at home: one file with all that is needed
    python -m canonkit.resident canon+GDM --data qm9.npz --out runs/gpu --minutes 60
                                                      # there: all molecules live on the device
    canonkit release runs/gpu                         # at home again

The learning rate rises over the first steps and falls to zero over the last part of the time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from canonkit.data.packed import unpack
from canonkit.recipes.names import SCALES, SYSTEMS, recipe
from canonkit.recipes.recipe import FORMS
from canonkit.training import best_device, fast_dtype, read_counters, read_log, train, validate
from canonkit.training.machine import matmul_rate
from canonkit.training.prepared import Prepared
from canonkit.training.resident import Resident
from canonkit.training.step import State


def train_for(
    minutes: float,
    name: str,
    data: str | Path,
    out: str | Path,
    *,
    scale: str = "paper",
    fall: float = 0.3,
    resume: bool = False,
    device: torch.device | None = None,
    progress: bool = True,
    **changes,
) -> dict:
    """Trains a recipe for `minutes`, everything but reading the data included; see the module's text.

    Args:
        minutes: of wall-clock time in this call.
        name, scale: the recipe; `changes` replace its training settings, of which the batch size is 512, the rates rise
            over 500 steps, and nothing is sampled.
        data: a file that `canonkit.data.packed.pack` wrote.
        out: the run's folder. It gets averaged.pt too: averaged weights in half precision, small enough to carry home.
            `canonkit.load_run` and `canonkit release` read it.
        fall: share of the minutes over which the rates fall to zero.
        resume: continue the run in `out`.
        device: by default the best there is.
        progress: print a line now and then.

    Returns:
        step, seconds, molecules_per_second, floor_molecules_per_second (matrix operations over the device's measured
        matmul rate), loss (mean of the last logged steps), validation_loss.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        FloatingPointError: the loss is no longer finite.
    """
    start, out = time.monotonic(), Path(out)
    device = device or best_device()
    usual = {"batch_size": 512, "warmup": 500, "log_every": 100, "sample_every": 0}
    chosen = recipe(name, scale, **usual | changes)
    before = read_counters(out) if resume else {"step": 0, "seconds": 0.0}
    prepared = chosen.prepare(unpack(data), fit=not before["step"], progress=progress)
    floor = floor_rate(prepared, device)
    left = max(1.0, 60 * minutes - (time.monotonic() - start))  # a second where reading the data took it all
    budget = (before["seconds"] + left) / 60
    options = {"minutes": budget, "resume": resume, "device": device, "progress": progress}
    averaged = train(prepared, out, resident=True, fall=fall, **options)
    counters, log = read_counters(out), [e for e in read_log(out) if e["kind"] == "train"]
    rate = (counters["step"] - before["step"]) * chosen.settings.batch_size / (counters["seconds"] - before["seconds"])
    return {
        "step": counters["step"],
        "seconds": counters["seconds"],
        "molecules_per_second": rate,
        "floor_molecules_per_second": floor,
        "loss": log[-1]["loss"],
        "validation_loss": validate(averaged, prepared.valid)["loss"],
    }


def floor_rate(prepared: Prepared, device: torch.device) -> float:
    """Samples per second if nothing but the matrix products of a step took time."""
    from torch.utils.flop_counter import FlopCounterMode

    fast = fast_dtype(prepared.settings.precision, device)
    prepared.model.to(device).train()
    state = State(prepared.model, prepared.settings)
    feed = Resident(prepared, state, graphs=False)
    typical = list(feed.lengths)[int((feed.shares.cumsum(0) >= feed.shares.sum() / 2).nonzero()[0])]
    with state.untouched(), FlopCounterMode(display=False) as counter:
        feed.step(typical)
    return prepared.settings.batch_size * matmul_rate(device, fast or torch.float32) / counter.get_total_flops()


def main() -> None:
    """The command line of `python -m canonkit.resident`."""
    molecules = [name for name, system in SYSTEMS.items() if FORMS[system.data].kind == "molecules"]
    parser = argparse.ArgumentParser(prog="python -m canonkit.resident", description="Train for a number of minutes.")
    parser.add_argument("recipe", choices=molecules)
    parser.add_argument("--data", required=True, help="a file made by `canonkit data qm9 --file FILE`")
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--scale", choices=SCALES, default="paper")
    parser.add_argument("--set", nargs="*", default=[], help="training settings, such as lr=3e-4 batch_size=256")
    parser.add_argument("--fall", type=float, default=0.3, help="share of the time over which the learning rate falls")
    parser.add_argument("--resume", action="store_true")
    given = vars(parser.parse_args())
    changes = {name: json.loads(value) for name, value in (setting.split("=") for setting in given.pop("set"))}
    print(json.dumps(train_for(given.pop("minutes"), given.pop("recipe"), given.pop("data"), **given, **changes)))


if __name__ == "__main__":
    main()
