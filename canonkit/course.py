"""How a canonicalizer comes to its poses: its weights at some steps of a training, beside the trained weights.

`make` trains a recipe and keeps them, `course` reads what the kit comes with. Half precision, with a hash.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from canonkit.canonicalizers import Canonicalizer
from canonkit.data.base import Dataset
from canonkit.files import replacing
from canonkit.names import choose
from canonkit.recipes.names import recipe
from canonkit.releases import FOLDER
from canonkit.trainer import train_recipe
from canonkit.training.checkpoint import read_tensors, strip_prefix, write_tensors

ENDING = ".course.safetensors"


def make(
    name: str,
    steps: Sequence[int],
    out: str | Path,
    *,
    data: Dataset | None = None,
    to: str | Path = FOLDER,
    **changes: Any,
) -> Path:
    """Trains the recipe into the folder `out` and keeps its canonicalizer after each of `steps`; returns the file.

    `changes` replace training settings.
    """
    path, kept = Path(to) / f"{name}{ENDING}", {}
    for step in sorted(steps):
        resume = (Path(out) / "run.json").exists()
        settings: dict[str, Any] = {"validate_every": 0, "sample_every": 0, **changes}
        run = train_recipe(name, out, steps=step, data=data, resume=resume, progress=False, **settings)
        if run.step != step:
            raise ValueError(f"{out} was trained for {run.step} steps already: choose a new folder to keep step {step}")
        state = run.model.canonicalizer.state_dict()
        kept |= {f"{step}/{k}": v.half() if v.is_floating_point() else v for k, v in state.items()}
        size_counts = run.model.size_counts.tolist()
        with replacing(path) as temporary:
            write_tensors(temporary, kept, {"recipe": name, "size_counts": size_counts})
    return path


def course(name: str, folder: str | Path = FOLDER) -> dict[int, Canonicalizer]:
    """The canonicalizers of a system in the course of a training, by the number of steps.

    Raises:
        ValueError: none are kept of that system, or the file is damaged.
    """
    path = Path(folder) / f"{name}{ENDING}"
    known = [p.name.removesuffix(ENDING) for p in Path(folder).glob(f"*{ENDING}")]
    if not path.exists():
        raise ValueError(f"no course of training is kept of {name!r}: {choose(name, known)}")
    try:
        tensors, about = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: install canonkit again, or make the file anew") from error
    found, untrained = {}, recipe(about["recipe"]).build(torch.tensor(about["size_counts"])).canonicalizer.eval()
    for step in sorted({int(k.split("/")[0]) for k in tensors}):
        found[step] = copy.deepcopy(untrained)
        found[step].load_state_dict(strip_prefix(tensors, f"{step}/"))
    return found
