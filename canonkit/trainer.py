"""Trains a system by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from canonkit.data.named import dataset
from canonkit.model import OrbitModel
from canonkit.recipes.names import recipe
from canonkit.recipes.run import Run, load_run
from canonkit.releases import load
from canonkit.training import read_counters, train


def train_recipe(
    name: str,
    out: str | Path,
    *,
    scale: str = "laptop",
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    data: Any = None,
    device: str | None = None,
    init: str | None = None,
    monitor: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: bool = True,
    checkpoint_seconds: float = 60.0,
    **changes: Any,
) -> Run:
    """Trains a recipe on its data, or on `data` (see `canonkit.dataset`), into the folder `out`.

    Budget and errors are those of `canonkit.training.train`.

    Where `data` holds fewer molecules than a batch, and no `batch_size` is given, a batch is all of them.
    `changes` replace training settings: `train_recipe("canon+GDM", "runs/a", minutes=10, lr=1e-3, seed=1)`.
    `init` names trained weights, or a run's folder, to start from. Your data may have fewer elements and shorter
    molecules than those that the weights learned: the model keeps their table of elements.
    """
    chosen = recipe(name, scale, **changes)
    fresh = init is None and not (resume and read_counters(out)["step"])  # otherwise a checkpoint holds the prior
    found = None if data is None else dataset(data, progress=progress)
    start = None if init is None else load_run(init) if Path(init).is_dir() else load(init)
    prepared = chosen.prepare(found, fit=fresh, form=start and start.recipe.form, progress=progress)
    few = len(prepared.train)
    if data is not None and "batch_size" not in changes and few < prepared.settings.batch_size:
        prepared = replace(prepared, settings=replace(prepared.settings, batch_size=few))
    if start is not None:
        prepared.about["init"] = _start_from(start, prepared.model, str(init))
    train(
        prepared,
        out,
        minutes=minutes,
        steps=steps,
        resume=resume,
        device=device,
        monitor=monitor,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )
    return load_run(out)


def _start_from(start: Run, model: OrbitModel, source: str) -> dict:
    """Puts trained weights into `model`, which keeps its own law of sizes; what run.json should say of them."""
    try:
        model.load_state_dict(start.model.state_dict() | {"size_counts": model.size_counts})
    except RuntimeError as error:
        raise ValueError(
            f"--init {source}: {start.recipe.name} at {start.recipe.scale} scale is another model: start from the same "
            "recipe and scale"
        ) from error
    about = start.provenance()
    return {"from": source, **{key: about[key] for key in ("step", "seen", "seconds", "hardware")}}
