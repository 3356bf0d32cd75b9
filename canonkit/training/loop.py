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
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from canonkit.data.batches import LengthBatches, lengths, take
from canonkit.extras import require
from canonkit.files import replacing
from canonkit.model import OrbitModel
from canonkit.training.folder import claim_folder, locked_folder, read_log
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
            mine, mine_drawn = x[rank::world], draw[rank::world]
            share = len(mine) * world / len(x)
            values = one_step(state, self.net, mine, mine_drawn, share, self.backward)
        state.step = self.at = state.step + 1
        return values


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


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a step is never cut in half."""
    stop = threading.Event()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
        ValueError: no budget; or the run in `out` was started with other settings; or a falling rate without minutes.
        FloatingPointError: the loss is no longer finite; the last good checkpoint stays.
    """
    if minutes is None and steps is None:
        raise ValueError("give a budget: minutes or steps")
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

    with locked_folder(out) if main else nullcontext():
        about = prepared.about | {"settings": asdict(settings)}
        claim_folder(out, about, {"steps": steps, "minutes": minutes}, resume, main, hardware(device))
        state = State(model, settings)
        if resume:
            state.restore(out)
        entries = [e for e in read_log(out) if e["step"] <= state.step]
        feed = Resident(prepared, state) if resident else Streams(prepared, state, accelerator)
        if accelerator is None and progress:
            cost = measure_cost(feed)
            _announce(cost, state, minutes, steps, len(prepared.train), fast, time.monotonic() - began)

        if main:
            with replacing(out / "log.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(e) + "\n" for e in entries))

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

        bar = _bar(steps, minutes, state, progress and main)
        sums: dict[str, Tensor] = {}
        summed, before = 0, state.seconds
        saved = clock = time.monotonic()
        with _stop_on_signal() as stop, bar:
            while True:
                stopping = finished() or stop.is_set()
                if accelerator is not None:  # all processes stop at the same step
                    flag = torch.tensor(float(stopping), device=device)
                    stopping = bool(accelerator.reduce(flag, "max") > 0)  # pyright: ignore[reportOperatorIssue]
                if stopping:
                    break
                state.set_rate(rate())
                sums = {k: sums.get(k, 0) + v for k, v in feed().items()}
                now = time.monotonic()
                state.seconds, clock = state.seconds + now - clock, now
                summed += 1
                if due(settings.log_every):
                    means = {k: float(v) / summed for k, v in sums.items()}
                    sums, summed = {}, 0
                    if not means["loss"] < float("inf"):
                        where = f"the loss is {means['loss']} near step {state.step}"
                        raise FloatingPointError(f"{where}: train anew with a lower lr; those in {out} are from before")
                    log("train", means)
                    bar.set_postfix_str(f"step {state.step}, loss {means['loss']:.4f}", refresh=False)
                if due(settings.validate_every):
                    bar.set_description_str("measuring the loss")
                    log("valid", validate(state.ema, prepared.valid[:1024]))
                if prepared.measure is not None and due(settings.sample_every):
                    bar.set_description_str(f"measuring {settings.samples} samples")
                    made = state.ema.sample(settings.samples, settings.sample_steps, seed=0)
                    log(
                        "sample", prepared.measure(made) | {"samples": settings.samples, "steps": settings.sample_steps}
                    )
                    if monitor is not None and hasattr(monitor, "see"):
                        monitor.see(state.step, made)
                if main and now - saved > checkpoint_seconds:
                    state.save(out)
                    saved = time.monotonic()
                bar.set_description_str("training", refresh=False)
                clock = time.monotonic()  # measuring and saving do not count as training
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


def _announce(cost: Cost, state: State, minutes, steps, samples: int, fast: torch.dtype | None, startup: float) -> None:
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
