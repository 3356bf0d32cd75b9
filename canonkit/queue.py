"""Many runs: a queue that survives kills, and a look at how far each has come.

A queue is a TOML file:

    folder = "runs"        # beside the file, or "../runs"; all runs lie in it
    at_once = 2            # runs trained side by side; the cores are shared out

    [[run]]
    recipe = "canon+GDM"
    minutes = 120          # or steps = 4000
    scale = "laptop"       # optional, like seed = 0, name, data = WORD|FILE, init = NAME|DIR and set = { lr = 1e-3 }
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from canonkit.described import checked
from canonkit.tables import Table
from canonkit.training import is_finished, is_training, read_card, read_counters, read_log


@dataclass(frozen=True)
class Job:
    """One run of a queue: `canonkit train recipe --out folder ...`."""

    folder: Path
    recipe: str
    scale: str = "laptop"
    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    data: str | None = None
    init: str | None = None
    settings: dict = field(default_factory=dict)

    def finished(self) -> bool:
        """Whether its budget is spent."""
        return is_finished(read_counters(self.folder), self.steps, self.minutes)

    def command(self, threads: int) -> list[str]:
        """What trains it, beginning or going on."""
        words = [
            sys.executable,
            "-m",
            "canonkit",
            "train",
            self.recipe,
            "--out",
            str(self.folder),
            "--resume",
            "--json",
        ]
        options = {"scale": self.scale, "seed": self.seed, "minutes": self.minutes, "steps": self.steps}
        options |= {"data": self.data, "init": self.init, "threads": threads}
        for name, value in options.items():
            words += [f"--{name}", str(value)] if value is not None else []
        for name, value in self.settings.items():
            words += ["--set", f"{name}={json.dumps(value)}"]
        return [*words, "--until-stdin-closes"]


def read_queue(path: str | Path) -> tuple[list[Job], int]:
    """The jobs of a queue file and how many to train at once.

    Raises:
        FileNotFoundError, ValueError: naming what is wrong in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no queue file {path}")
    try:
        queue = tomllib.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    queue = checked("Queue", {"run": []} | queue, path, "see the head of canonkit/queue.py")
    if not queue["run"]:
        raise ValueError(f"{path} names no [[run]]")
    base, jobs = path.parent / queue.get("folder", "runs"), []
    for k, entry in enumerate(queue["run"]):
        if not {"minutes", "steps"} & entry.keys():
            raise ValueError(f"{path}, run {k + 1}: give recipe and a budget, minutes or steps")
        default = f"{entry['recipe']}-{entry.get('scale', 'laptop')}-{entry.get('seed', 0)}"
        more = {k: v for k, v in entry.items() if k not in ("name", "set")}
        jobs.append(Job(base / entry.get("name", default), settings=entry.get("set", {}), **more))
    if len({job.folder for job in jobs}) < len(jobs):
        raise ValueError(f"{path}: two runs share a folder: give them a `name`")
    return jobs, queue.get("at_once", 1)


def run_queue(path: str | Path, *, progress: bool = True) -> list[Job]:
    """Trains every run of a queue file that is not finished, in order; kill it and start it again as you like.

    Each run is a process of its own that stops, with a checkpoint, when this one ends in whatever way.

    Raises:
        ValueError: a run failed, with the last line that it wrote; the others are worked off first.
    """
    from tqdm.auto import tqdm

    jobs, at_once = read_queue(path)
    threads = max(1, (os.cpu_count() or 1) // at_once)
    failures = []

    def work(job: Job) -> None:
        try:
            if job.finished():
                return
        except ValueError as error:  # its checkpoints are damaged
            failures.append(f"{job.folder}: {error}")
            return
        by, total = ("step", job.steps) if job.steps else ("seconds", 60 * (job.minutes or 0))
        with tempfile.TemporaryFile("w+") as errors, tqdm(total=total, unit=by, disable=not progress) as bar:
            bar.set_description_str(job.folder.name)
            process = subprocess.Popen(
                job.command(threads), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True
            )
            running.append(process)
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                log = read_log(job.folder)
                bar.update(min(total, log[-1][by] if log else 0) - bar.n)
            if process.returncode:
                errors.seek(0)
                failures.append(f"{job.folder}: {errors.read().strip().splitlines()[-1:] or process.returncode}")

    running: list[subprocess.Popen] = []
    with ThreadPoolExecutor(at_once) as pool:
        try:
            futures = [pool.submit(work, job) for job in jobs]
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                if process.stdin is not None:
                    process.stdin.close()
            raise
    if failures:
        raise ValueError("; ".join(failures))
    return jobs


def stop_when_stdin_closes() -> None:
    """Asks this process to stop, with a checkpoint, when whoever holds the other end of its standard input is gone."""

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock a thread must not hold when Python ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Runs:
    """The runs of a folder: prints as a table, shows itself in a notebook, draws its `curves()`.

    Args:
        rows: one dict per run: run, recipe, scale, state ('training', 'done', 'stopped', 'damaged'), progress (0 to 1),
            step, minutes, eta_minutes, loss (last validation), atom_stable (last samples); None where it is not known.
        logs: entries of each run's log.
    """

    rows: list[dict]
    logs: dict[str, list[dict]] = field(repr=False)

    def _table(self) -> Table:
        header = ["run", "state", "progress", "step", "minutes", "to go", "validation loss", "stable atoms"]
        formats = {"progress": ".0%", "step": ",", "minutes": ".1f", "eta_minutes": ".1f", "loss": ".4f"}
        formats |= {"atom_stable": ".1%"}
        cells = [
            [r["run"], r["state"], *("–" if r[k] is None else format(r[k], f) for k, f in formats.items())]
            for r in self.rows
        ]
        return Table("Runs", header, cells, [])

    def __str__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

    def curves(self):
        """Training and validation loss and stability so far, as a figure."""
        from canonkit.figures import training_curves

        return training_curves(self.logs)


def _state(folder: Path, share: float) -> str:
    return "done" if share == 1 else "training" if is_training(folder) else "stopped"


def runs(folder: str | Path = "runs") -> Runs:
    """How far each run in `folder` has come.

    Raises:
        FileNotFoundError: there is no run in it.
    """
    rows, logs = [], {}
    for path in sorted(Path(folder).glob("*/run.json")):
        name, card = path.parent.name, read_card(path)
        log = logs[name] = read_log(path.parent)
        try:
            counters, damaged = read_counters(path.parent), False
        except ValueError:
            counters, damaged = {"step": 0, "seconds": 0.0}, True
        last = {entry["kind"]: entry for entry in log}
        recipe = card.get("recipe") or {"name": "by hand", "scale": "–"}
        step, seconds = (max([counters[k], *(e[k] for e in log[-1:])]) for k in ("step", "seconds"))
        budget = card.get("budget", {})
        shares = [now / budget[k] for k, now in (("steps", step), ("minutes", seconds / 60)) if budget.get(k)]
        share = min(1.0, max(shares, default=0.0))
        rows.append(
            {
                "run": name,
                "recipe": recipe["name"],
                "scale": recipe["scale"],
                "state": "damaged" if damaged else _state(path.parent, share),
                "progress": share,
                "step": step,
                "minutes": seconds / 60,
                "eta_minutes": seconds / 60 * (1 / share - 1) if share else None,
                "loss": last.get("valid", {}).get("loss"),
                "atom_stable": last.get("sample", {}).get("atom_stable"),
            }
        )
    if not rows:
        raise FileNotFoundError(f"{folder} holds no runs: train one with `canonkit train ... --out {folder}/NAME`")
    return Runs(rows, logs)
