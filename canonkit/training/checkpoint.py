"""Checkpoints: all tensors of a run by name, and its counters.

They are safetensors files that know a hash of each tensor and of the counters; what is read is compared with it. Where
safetensors is not installed, as on a machine with torch and numpy alone, torch writes them (.pt), and reads them
without unpickling any code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from canonkit.files import replacing
from canonkit.model import OrbitModel

try:
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError:
    safe_open, save_file = None, None
NAMES = ("checkpoint.safetensors", "previous.safetensors", "checkpoint.pt", "averaged.pt")


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], counters: dict) -> None:
    """Writes a checkpoint, whole or not at all, and keeps the one before it as previous.safetensors."""
    path = folder / ("checkpoint.pt" if save_file is None else "checkpoint.safetensors")
    about = _about(tensors, counters)
    with replacing(path) as temporary:
        if save_file is None:
            torch.save({"tensors": tensors, **about}, temporary)
            return
        save_file(tensors, temporary, metadata=about)
        if path.exists():
            _keep(path, path.with_name("previous.safetensors"))


def _keep(path: Path, other: Path) -> None:
    """Gives a file another name too, so that there is one under its own at every moment."""
    with replacing(other) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)


def write_averaged(folder: Path, model: OrbitModel, counters: dict) -> None:
    """Writes averaged weights in half precision as averaged.pt, small enough to carry home."""
    halved = {k for k, _ in model.named_parameters()}
    tensors = {f"ema/{k}": (v.half() if k in halved else v).cpu() for k, v in model.state_dict().items()}
    with replacing(folder / "averaged.pt") as temporary:
        torch.save({"tensors": tensors, **_about(tensors, counters)}, temporary)


def read_checkpoint(folder: Path, prefix: str = "", averaged: bool = True) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors whose names begin so and counters of the newest checkpoint that is whole, None where there is none.

    Raises:
        ValueError: there are checkpoints, and all are damaged.
    """
    damaged = []
    for name in NAMES if averaged else NAMES[:-1]:
        path = folder / name
        if not path.exists() or (safe_open is None and path.suffix != ".pt"):
            continue
        try:
            found = _read(path, prefix)
        except Exception as error:  # a damaged file has many ways to fail
            damaged.append(f"{path} ({_said(error)})")
            continue
        if damaged:
            print(f"damaged: {', '.join(damaged)}; {path} is taken instead", file=sys.stderr)
        return found
    if damaged:
        raise ValueError(
            f"no checkpoint can be read: {', '.join(damaged)}. Restore one; or delete them, to begin anew in {folder}"
        )
    return None


def _said(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).splitlines()[0]


def _about(tensors: dict[str, Tensor], counters: dict) -> dict[str, str]:
    """What a checkpoint says of itself: counters, a hash of each tensor, and one of these two."""
    about = {"counters": json.dumps(counters), "digests": json.dumps({k: _digest(v) for k, v in tensors.items()})}
    return about | {"seal": _seal(about)}


def _digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor with its type and shape."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(memoryview(raw.numpy()))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()


def _seal(about: dict[str, str]) -> str:
    return hashlib.sha256((about["counters"] + about["digests"]).encode()).hexdigest()


def _read(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict]:
    if path.suffix == ".pt" or safe_open is None:
        saved = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        tensors, about = saved.pop("tensors"), saved
    else:
        with safe_open(path, framework="pt") as file:
            names, about = file.keys(), file.metadata()
            tensors = {k: file.get_tensor(k) for k in names if k.startswith(prefix)}
    if about.keys() != {"counters", "digests", "seal"}:
        raise ValueError("it has no hash of its content, or was written by an earlier canonkit")
    digests = json.loads(about["digests"])
    tensors = {k: v for k, v in tensors.items() if k.startswith(prefix)}
    expected = {k for k in digests if k.startswith(prefix)}
    if about["seal"] != _seal(about) or expected != tensors.keys():
        raise ValueError("its content is not what it says")
    if wrong := [k for k, v in tensors.items() if digests[k] != _digest(v)]:
        raise ValueError(f"{wrong[0]} is not what was written")
    return tensors, json.loads(about["counters"])


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
