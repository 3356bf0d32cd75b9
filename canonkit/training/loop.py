r"""One readable training loop, and what feeds it.

    every step:  a batch and its noise -> loss -> gradient -> clip -> AdamW -> average      (canonkit.training.step)

`Streams` takes batch k of the epoch's order, and noise from a generator seeded with (seed, step): all randomness is a
function of these two, so a checkpoint needs no random state, and a run that was killed and resumed ends with the same
weights, bit for bit on a CPU, as one that was not. With several processes (accelerate) each takes its rows of the same
global batch and the same noise. `canonkit.training.resident.Resident` keeps all data on the device instead.

A run is a folder: run.json (recipe, settings, data, machine), log.jsonl, checkpoint.safetensors and the one before it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canonkit.data.batches import LengthBatches, Samples, lengths, take
from canonkit.extras import require
from canonkit.files import replacing
from canonkit.model import OrbitModel
from canonkit.processes import Process
from canonkit.randomness import part_of_batch
from canonkit.training.folder import claimed, locked_folder, read_log, write_card
from canonkit.training.machine import best_device, hardware, peak_memory, set_precision
from canonkit.training.prepared import Prepared
from canonkit.training.resident import Resident
from canonkit.training.step import State, one_step
from canonkit.training.validate import validate


class Streams:
    """Steps on batches by length that come from the host, a function of (seed, step)."""

    def __init__(self, prepared: Prepared, state: State, accelerator=None):
        self.prepared, self.state, self.accelerator = prepared, state, accelerator
        settings = prepared.settings
        self.batches = LengthBatches(lengths(prepared.train), settings.batch_size, settings.seed)
        self.rows, self.at = self.batches.from_step(state.step), state.step
        self.net, self.backward, self.rank, self.world = state.model, None, 0, 1
        if accelerator is not None:
            self.net, self.backward = accelerator.prepare_model(state.model), accelerator.backward
            self.rank, self.world = accelerator.process_index, accelerator.num_processes

    def __call__(self) -> dict[str, Tensor]:
        """The next step; returns its loss, terms and gradient norm."""
        state, rank, world = self.state, self.rank, self.world
        generator = torch.Generator().manual_seed(state.settings.seed * 1_000_000_007 + state.step)
        if self.at != state.step:
            self.rows, self.at = self.batches.from_step(state.step), state.step
        x = take(self.prepared.train, next(self.rows), state.device)
        with torch.random.fork_rng(devices=[state.device] if state.device.type == "cuda" else []):
            torch.manual_seed(generator.initial_seed())  # dropout knows no generator
            x = self.prepared.ready(x, generator)
            draw = state.model.process.draw(x, generator)
            with part(state.model.process, x, draw, rank, world) as (mine, mine_drawn, share):
                values = one_step(state, self.net, mine, mine_drawn, share, self.backward)
        state.step = self.at = state.step + 1
        return values


@contextmanager
def part(process: Process, x: Samples, draw, rank: int, world: int) -> Iterator[tuple]:
    """The rows of a batch that process number `rank` of `world` takes, their draw, and the weight of their loss.

    The mean over processes of loss times weight is the loss of the batch. What networks draw at random within is drawn
    for the whole batch.
    """
    if world == 1:
        yield x, draw, 1.0
        return
    rows = torch.arange(len(x))[rank::world]
    share = len(rows) * world / len(x)
    if not share:  # fewer rows than processes: one takes the first, and it counts for nothing
        rows = torch.zeros(1, dtype=torch.long)
    draw = process.shared(x, draw)
    with part_of_batch(len(x), rows):
        yield x[rows], draw[rows], share


@dataclass(frozen=True)
class Cost:
    """What training will cost on this machine."""

    steps_per_second: float
    samples_per_second: float
    peak_memory_gb: float


def measure_cost(feed: Streams | Resident, steps: int = 6) -> Cost:
    """Times a few training steps, and puts back what they change."""
    state, times = feed.state, []
    with state.untouched():
        for _ in range(steps + 2):
            start = time.perf_counter()
            float(feed()["loss"])  # waits for the device
            times.append(time.perf_counter() - start)
    seconds = sum(times[2:]) / steps
    return Cost(1 / seconds, state.settings.batch_size / seconds, peak_memory(state.device) / 1e9)


class _Stop:
    """Whether SIGINT or SIGTERM came within: never is a step or a checkpoint cut in half, but measuring is."""

    def __init__(self):
        self.asked, self.measuring, self.previous = False, False, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _ask(self, *_) -> None:
        self.asked = True
        if self.measuring:
            self.measuring = False
            raise KeyboardInterrupt

    def measured(self, measure: Callable, *arguments: Any) -> Any:
        """What `measure` returns, None where a signal cut it short."""
        if self.asked:
            return None
        try:
            self.measuring = True
            found = measure(*arguments)
            self.measuring = False
        except KeyboardInterrupt:
            if not self.asked:
                raise
        return None if self.asked else found


def train(
    prepared: Prepared,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    resident: bool = False,
    fall: float = 0.0,
    device: str | torch.device | None = None,
    monitor: Callable[[list[dict]], None] | None = None,
    progress: bool = True,
    checkpoint_seconds: float = 60.0,
) -> OrbitModel:
    """Trains until `steps` or `minutes` (over all resumptions) are reached; returns the averaged model.

    Args:
        prepared: model, data and settings; see `Prepared`.
        out: the run's folder.
        minutes, steps: the budget; at least one.
        resume: continue the run in `out`; without it a folder that holds one is refused.
        resident: keep all data on the device, for a GPU; see `Resident`.
        fall: share of this call's minutes, the last, over which the learning rates fall to zero; resident only.
        device: by default the best there is.
        monitor: called with all log entries after each new one, for live curves. If it has them, `see(step, samples)`
            is given the samples that were measured, from the same noise each time, and `finish()` is called at the end.
        progress: print the cost beforehand and show a bar with the time left.
        checkpoint_seconds: seconds between checkpoints.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False; or another process is training there.
        ValueError: no budget; or the run in `out` was started with other settings, or its checkpoints are damaged; or a
            falling rate without minutes.
        FloatingPointError: loss or weights are no longer finite; the last good checkpoint stays.

    SIGINT and SIGTERM end it with a checkpoint, as if the budget were spent.
    """
    if minutes is None and steps is None:
        raise ValueError("give a budget: minutes or steps")
    for name, value in {"minutes": minutes, "steps": steps}.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} {value} is no budget: give a number from 0 on")
    if fall and (minutes is None or not resident):
        raise ValueError("fall is a share of the minutes of resident training: set cool_from and cool_to, in steps")
    began = time.monotonic()
    out, model, settings = Path(out), prepared.model, prepared.settings
    accelerator = None
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if resident:
            raise ValueError("resident training has one process: start it without accelerate")
        require("accelerate")
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=device == "cpu")
        device = accelerator.device
    main = accelerator is None or accelerator.is_main_process
    device = best_device() if device is None else torch.device(device)
    fast = set_precision(model.to(device).train(), settings.precision)

    with locked_folder(out) if main else nullcontext(), _Stop() as stop:
        state, entries = State(model, settings), []
        if main:  # all that can be refused comes before anything is written
            about = prepared.about | {"settings": asdict(settings)}
            card = claimed(out, about, {"steps": steps, "minutes": minutes}, resume, hardware(device))
            if resume:
                state.restore(out, aside=True)
            entries = [e for e in read_log(out) if e["step"] <= state.step]
            write_card(out / "run.json", card)
            with replacing(out / "log.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(e) + "\n" for e in entries))
        if accelerator is not None:
            accelerator.wait_for_everyone()
        if resume and not main:
            state.restore(out)
        feed = Resident(prepared, state) if resident else Streams(prepared, state, accelerator)
        if accelerator is None and progress:
            cost = measure_cost(feed)
            published = prepared.about.get("recipe", {}).get("steps")
            _announce(cost, state, minutes, steps, len(prepared.train), fast, time.monotonic() - began, published)

        def log(kind: str, values: dict) -> None:
            entry = {"kind": kind, "step": state.step, "seconds": round(state.seconds, 2)}
            entry |= {"seen": state.step * settings.batch_size, **values}
            entries.append(entry)
            with open(out / "log.jsonl", "a") as file:
                file.write(json.dumps(entry) + "\n")
            if monitor is not None:
                monitor(entries)

        def finished() -> bool:
            return is_finished({"step": state.step, "seconds": state.seconds}, steps, minutes)

        def due(every: int) -> bool:
            return main and bool(every) and (state.step % every == 0 or finished())

        def rate() -> float:
            if not fall or minutes is None:
                return settings.rate(state.step)
            left = 1 - (state.seconds - before) / max(1e-9, 60 * minutes - before)
            return min(settings.rate(state.step), max(0.0, left / fall))

        def tick(clock: float) -> float:
            now = time.monotonic()
            state.seconds += now - clock
            return now

        def look() -> None:
            """Measures what is owed; what a signal cuts short is owed when the run goes on."""
            while main and state.owed:
                kind, made = state.owed[0], None
                if kind == "valid":
                    bar.set_description_str("measuring the loss")
                    values = stop.measured(validate, state.ema, prepared.valid[:1024])
                else:
                    bar.set_description_str(f"measuring {settings.samples} samples")
                    made = stop.measured(lambda: state.ema.sample(settings.samples, settings.sample_steps, seed=0))
                    values = None
                    if made is not None and prepared.measure is not None:
                        values = stop.measured(prepared.measure, made)
                        how = {"samples": settings.samples, "steps": settings.sample_steps}
                        values = None if values is None else values | how
                if values is None:
                    return
                state.owed = state.owed[1:]
                log(kind, values)
                if made is not None and monitor is not None and hasattr(monitor, "see"):
                    monitor.see(state.step, made)

        bar = _bar(steps, minutes, state, progress and main)
        before = state.seconds
        saved = time.monotonic()
        with bar:
            while True:
                look()
                if main and time.monotonic() - saved > checkpoint_seconds:
                    state.save(out)
                    saved = time.monotonic()
                bar.set_description_str("training", refresh=False)
                stopping = finished() or stop.asked
                if accelerator is not None:  # all processes stop at the same step
                    flag = torch.tensor(float(stopping), device=device)
                    stopping = bool(accelerator.reduce(flag, "max") > 0)  # pyright: ignore[reportOperatorIssue]
                if stopping:
                    break
                clock = time.monotonic()  # measuring and saving do not count as training
                state.set_rate(rate())
                state.sums = {k: state.sums.get(k, 0) + v for k, v in feed().items()}
                state.summed += 1
                clock = tick(clock)
                if not settings.log_every:
                    state.sums, state.summed = {}, 0
                elif due(settings.log_every):
                    means = {k: float(v) / state.summed for k, v in state.sums.items()}
                    state.sums, state.summed = {}, 0
                    tick(clock)  # a GPU may have been waited for
                    if not means["loss"] < float("inf"):
                        where = f"the loss is {means['loss']} near step {state.step}"
                        raise FloatingPointError(
                            f"{where}: train anew with a lower lr; the checkpoints in {out} are from before"
                        )
                    log("train", means)
                    bar.set_postfix_str(f"step {state.step}, loss {means['loss']:.4f}", refresh=False)
                state.owed = ["valid"] if due(settings.validate_every) else []
                state.owed += ["sample"] if prepared.measure is not None and due(settings.sample_every) else []
                bar.update(1 if steps is not None else min(state.seconds, bar.total) - bar.n)
        if monitor is not None and hasattr(monitor, "finish"):
            monitor.finish()
        if main:
            state.save(out)
            if resident:
                state.save_averaged(out)
        return state.ema


def is_finished(counters: dict, steps: int | None, minutes: float | None) -> bool:
    """Whether a budget of steps or minutes is spent."""
    enough_steps = steps is not None and counters["step"] >= steps
    return enough_steps or (minutes is not None and counters["seconds"] >= 60 * minutes)


def _bar(steps: int | None, minutes: float | None, state: State, shown: bool):
    """A bar over steps or seconds; where tqdm is not installed, lines."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _Lines(steps or 60 * (minutes or 0), shown)
    in_steps = steps is not None
    return tqdm(
        total=steps if in_steps else 60 * (minutes or 0),
        initial=state.step if in_steps else round(state.seconds),
        desc="training",
        unit="step" if in_steps else "s",
        bar_format=None if in_steps else "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        disable=not shown,
    )


class _Lines:
    """What is used here of a tqdm bar, as printed lines."""

    def __init__(self, total: float, shown: bool):
        self.total, self.n, self.shown = total, 0.0, shown

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, more: float) -> None:
        self.n += more

    def set_description_str(self, text: str, refresh: bool = True) -> None:
        pass

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        if self.shown:
            print(f"{text}, {1 - self.n / self.total:.0%} to go", flush=True)


def _announce(
    cost: Cost,
    state: State,
    minutes: float | None,
    steps: int | None,
    samples: int,
    fast: torch.dtype | None,
    startup: float,
    published: int | None,
) -> None:
    left = [] if steps is None else [(steps - state.step) / cost.steps_per_second]
    if minutes is not None:
        left.append(60 * minutes - state.seconds)
    seconds = max(0.0, min(left))
    total = state.step + seconds * cost.steps_per_second
    epochs = total * state.settings.batch_size / samples
    print(
        f"{hardware(state.device)}, {'bfloat16' if fast else 'float32'}: {cost.steps_per_second:.2f} steps per second, "
        f"{cost.samples_per_second:,.0f} samples per second\n"
        f"{seconds / 60:.2g} minutes to go, to about step {total:,.0f} ({epochs:.2g} epochs); "
        f"peak memory of this process {cost.peak_memory_gb:.1f} GB\n"
        f"the start took {startup:.0f} seconds; it and measuring come on top of the budget"
    )
    if published:
        hours = published / cost.steps_per_second / 3600
        print(f"{published:,} steps, as published, would take {hours:,.{0 if hours > 10 else 1}f} hours here")
