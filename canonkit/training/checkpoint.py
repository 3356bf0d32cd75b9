"""Checkpoints: all tensors of a run by name, its counters, and a hash of each group of tensors, to know damage by.

They are safetensors files. Where safetensors is not installed, as on a machine with torch and numpy alone, torch writes
them (.pt), and reads them without unpickling any code. A group is what comes before the first / of a name; its hash
covers the counters too. Files of earlier versions have no hashes, and are read without.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canonkit.files import in_short, replacing, settled
from canonkit.model import OrbitModel

try:
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError:
    safe_open, save_file = None, None
NAMES = ("checkpoint.safetensors", "previous.safetensors", "checkpoint.pt", "previous.pt", "averaged.pt")


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], counters: dict) -> None:
    """Writes a checkpoint of tensors on the CPU, whole or not at all, and keeps the one before it as previous.*."""
    path = folder / ("checkpoint.pt" if save_file is None else "checkpoint.safetensors")
    with replacing(path) as temporary:
        write_tensors(temporary, tensors, counters)
        if path.exists():
            _keep(path, path.with_stem("previous"))


def write_averaged(folder: Path, model: OrbitModel, counters: dict) -> None:
    """Writes averaged weights in half precision as averaged.pt, small enough to carry home."""
    halved = {k for k, _ in model.named_parameters()}
    tensors = {f"ema/{k}": (v.half() if k in halved else v).cpu() for k, v in model.state_dict().items()}
    with replacing(folder / "averaged.pt") as temporary:
        write_tensors(temporary, tensors, counters)


def write_tensors(path: Path, tensors: dict[str, Tensor], counters: dict) -> None:
    """Writes tensors and what JSON can say beside them, with a hash of each group, the names before the first "/"."""
    hashes = _hashes(tensors, counters)
    if path.suffix == ".pt" or save_file is None:
        torch.save({"tensors": tensors, "counters": counters, "hashes": hashes}, path)
    else:
        save_file(tensors, path, metadata={"counters": json.dumps(counters), "hashes": json.dumps(hashes)})


def _keep(path: Path, previous: Path) -> None:
    """Gives a file a second name, so that whoever reads it meanwhile finds one under each."""
    with replacing(previous) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # a file system without second names
            shutil.copyfile(path, temporary)


def _hashes(tensors: dict[str, Tensor], counters: dict) -> dict[str, str]:
    """The SHA-256 of each group of tensors, of their names, types, shapes and bytes, and of the counters."""
    groups: dict[str, Any] = {"": hashlib.sha256()}  # the counters alone have one, too
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        group = groups.setdefault(name.split("/")[0], hashlib.sha256())
        group.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        group.update(tensor.reshape(-1).view(torch.uint8).numpy())
    said = json.dumps(counters, sort_keys=True).encode()
    for group in groups.values():
        group.update(said)
    return {name: group.hexdigest() for name, group in groups.items()}


def read_checkpoint(
    folder: Path, prefix: str = "", averaged: bool = True, aside: bool = False
) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors of a group and counters of the newest checkpoint that is whole, None where there is none.

    Args:
        folder: the run's.
        prefix: a group and /, "ema/"; all tensors by default, and no tensor for what is no group.
        averaged: whether averaged weights alone will do.
        aside: rename damaged files, so that the next checkpoint does not take the place of the one that is whole.

    Raises:
        ValueError: there are checkpoints, and none that can be read: names them.
    """
    damaged: dict[Path, str] = {}
    for name in NAMES if averaged else NAMES[:-1]:
        path = folder / name
        with suppress(FileNotFoundError):  # a checkpoint may be replaced at this moment; the one before it is there
            try:
                found = settled(path, lambda path=path: read_tensors(path, prefix))
            except FileNotFoundError:
                raise
            except Exception as error:  # torch, pickle, zipfile, safetensors and the system have their own
                damaged[path] = in_short(error)
                continue
            for other, said in damaged.items():
                print(f"{other} is damaged ({said}): going on from {path}")
                if aside:
                    os.replace(other, other.with_stem(f"damaged-{other.stem}"))
            return found
    if damaged:
        said = ", ".join(f"{path} ({said})" for path, said in damaged.items())
        raise ValueError(f"damaged: {said}: restore one, or, to begin anew, move {folder} away")
    return None


def read_tensors(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict]:
    """What `write_tensors` wrote, of tensors those whose names begin with `prefix`.

    Raises:
        ValueError: the hash of a group is not that of its content.
    """
    if path.suffix == ".pt":
        with open(path, "rb"):  # torch says of each error that there is no such file
            saved = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        tensors = {k: v for k, v in saved["tensors"].items() if k.startswith(prefix)}
        counters, hashes = saved["counters"], saved.get("hashes")
    elif safe_open is None:
        path.stat()
        raise ModuleNotFoundError("it needs safetensors: install it")
    else:
        with open(path, "rb"), safe_open(path, framework="pt") as file:
            names = [k for k in file.keys() if k.startswith(prefix)]  # noqa: SIM118 (not a dict)
            tensors, about = {k: file.get_tensor(k) for k in names}, file.metadata() or {}
        counters, hashes = json.loads(about["counters"]), json.loads(about.get("hashes", "null"))
    if hashes is not None:
        wanted = hashes if not prefix else {k: v for k, v in hashes.items() if k in ("", prefix.rstrip("/"))}
        if _hashes(tensors, counters) != wanted:
            raise ValueError("its content is not what was written")
    return tensors, counters


def strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_averaged(model: OrbitModel, folder: str | Path) -> dict:
    """Loads a run's averaged weights into `model`; returns the counters, step and seconds.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: all that it holds are damaged.
    """
    found = read_checkpoint(Path(folder), "ema/")
    if found is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint: train there first, `canonkit train ... --out {folder}`")
    model.load_state_dict(strip_prefix(found[0], "ema/"))
    return found[1]


def read_counters(folder: str | Path) -> dict:
    """How far a run has come by its checkpoint: step and seconds, zero where there is none.

    Raises:
        ValueError: all checkpoints are damaged.
    """
    found = read_checkpoint(Path(folder), "nothing but the counters")
    return {"step": 0, "seconds": 0.0} if found is None else found[1]
