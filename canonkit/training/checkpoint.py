"""Checkpoints: all tensors of a run by name, and its counters.

They are safetensors files. Where safetensors is not installed, as on a machine with torch and numpy alone, torch writes
them (.pt), and reads them without unpickling any code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from canonkit.files import replacing
from canonkit.model import OrbitModel

try:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
except ImportError:
    SafetensorError, safe_open, save_file = OSError, None, None
NAMES = ("checkpoint.safetensors", "previous.safetensors", "checkpoint.pt", "averaged.pt")


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], counters: dict) -> None:
    """Writes a checkpoint, whole or not at all, and keeps the one before it as previous.safetensors."""
    path = folder / ("checkpoint.pt" if save_file is None else "checkpoint.safetensors")
    with replacing(path) as temporary:
        if save_file is None:
            torch.save({"tensors": tensors, "counters": counters}, temporary)
            return
        save_file(tensors, temporary, metadata={"counters": json.dumps(counters)})
        if path.exists():
            os.replace(path, path.with_name("previous.safetensors"))


def write_averaged(folder: Path, model: OrbitModel, counters: dict) -> None:
    """Writes averaged weights in half precision as averaged.pt, small enough to carry home."""
    halved = {k for k, _ in model.named_parameters()}
    tensors = {f"ema/{k}": (v.half() if k in halved else v).cpu() for k, v in model.state_dict().items()}
    with replacing(folder / "averaged.pt") as temporary:
        torch.save({"tensors": tensors, "counters": counters}, temporary)


def read_checkpoint(folder: Path, prefix: str = "", averaged: bool = True) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors whose names begin so and counters of the newest checkpoint that can be read, None where there is none."""
    for name in NAMES if averaged else NAMES[:-1]:
        path = folder / name
        if not path.exists() or (safe_open is None and path.suffix != ".pt"):
            continue
        try:
            return _read(path, prefix)
        except SafetensorError as error:
            print(f"{path} is damaged ({error}): trying the checkpoint before it")
    return None


def _read(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict]:
    if path.suffix == ".pt" or safe_open is None:
        saved = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        return {k: v for k, v in saved["tensors"].items() if k.startswith(prefix)}, saved["counters"]
    with safe_open(path, framework="pt") as file:
        names = [k for k in file.keys() if k.startswith(prefix)]  # noqa: SIM118 (not a dict)
        return {k: file.get_tensor(k) for k in names}, json.loads(file.metadata()["counters"])


def strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_averaged(model: OrbitModel, folder: str | Path) -> dict:
    """Loads a run's averaged weights into `model`; returns the counters, step and seconds.

    Raises:
        FileNotFoundError: where the folder holds no checkpoint that can be read.
    """
    found = read_checkpoint(Path(folder), "ema/")
    if found is None:
        raise FileNotFoundError(
            f"{folder} holds no readable checkpoint: train there first, `canonkit train ... --out {folder}`"
        )
    model.load_state_dict(strip_prefix(found[0], "ema/"))
    return found[1]


def read_counters(folder: str | Path) -> dict:
    """How far a run has come by its checkpoint: step and seconds, zero where there is none."""
    found = read_checkpoint(Path(folder), "nothing but the counters")
    return {"step": 0, "seconds": 0.0} if found is None else found[1]
