"""A run's folder: run.json says what is trained, log.jsonl how it goes; one process at a time trains there."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from canonkit.described import checked, parsed, sealed, unsealed
from canonkit.files import replacing

MEASURED = ("log_every", "validate_every", "sample_every", "samples", "sample_steps")  # settings that train nothing
RENAMED = {"guessing": "self_conditioning"}


def read_card(path: Path, kind: str = "RunCard", remedy: str = "restore it, or train in another folder") -> dict:
    """A run.json or a card; what it calls by a name of earlier versions has its present one.

    Args:
        path: of the file.
        kind: RunCard, Started for what resuming needs of it, or WeightsCard for that of trained weights.
        remedy: what to do about a damaged one, for the error.

    Raises:
        FileNotFoundError, ValueError: naming file, field and value.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    card = parsed(text, path, remedy, object_pairs_hook=lambda pairs: {RENAMED.get(k, k): v for k, v in pairs})
    recipe, data = (card.get(k) if isinstance(card, dict) else None for k in ("recipe", "data"))
    if isinstance(recipe, dict) and recipe.pop("hydrogens", None) and isinstance(data, dict):
        recipe["data"] = data["name"] = "QM9-heavy"  # before it had its own name
    if kind == "RunCard" and isinstance(card, dict) and "settings" in card and card.get("recipe") is None:
        kind = "Started"  # of a model made by hand, which says of itself what it likes
    return unsealed(kind, card, path, remedy)


def write_card(path: Path, card: dict) -> None:
    """Writes a run.json or a card with a hash of what it says, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(sealed(card), indent=1) + "\n")


def claimed(out: Path, about: dict, budget: dict, resume: bool, machine: str) -> dict:
    """What run.json is to say: of a new run, or of that in the folder with its new budget, if it is one to go on with.

    Raises:
        FileExistsError, ValueError: the folder holds a run, or another one.
    """
    path = out / "run.json"
    card = about | {"hardware": machine, "torch": torch.__version__, "started": time.strftime("%Y-%m-%d")}
    if path.exists():
        if not resume:
            raise FileExistsError(f"{out} holds a run: continue it with resume (--resume) or choose another folder")
        card = read_card(path, "Started")
        if differences := _differences(card, json.loads(json.dumps(about))):
            raise ValueError(f"{path} was started with {'; '.join(differences)}: use another folder")
        card["settings"] |= {name: about["settings"][name] for name in MEASURED}
    return card | {"budget": budget}


def _differences(card: dict, about: dict) -> list[str]:
    """What is not as the card says, by name; how training is measured may change.

    A setting that came after a run was begun was at its default, None. Cards of earlier versions do not say on what
    machine the weights were trained that a run began with.
    """
    found = []
    for key, value in about.items():
        old, new = (x if isinstance(x, dict) else {"": x} for x in (card.get(key), value))
        for name in sorted(old.keys() | new.keys()):
            free = (key == "settings" and name in MEASURED) or (key, name) == ("init", "hardware")
            if old.get(name) != new.get(name) and not free:
                found.append(f"{f'{key} {name}'.strip()} = {old.get(name)}, not {new.get(name)}")
    return found


@contextmanager
def locked_folder(out: Path, patience: float = 60.0) -> Iterator[None]:
    """Holds a run's folder, so that two processes never train the same run; a kill lets go of it.

    Raises:
        FileExistsError: another process holds it, and still does after `patience` seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "lock", "w") as file:
        end = time.monotonic() + patience
        while not _try_lock(file):
            if time.monotonic() > end:
                raise FileExistsError(f"{out} is being trained by another process: stop that, or choose another folder")
            time.sleep(0.2)
        yield


def _try_lock(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_training(folder: str | Path) -> bool:
    """Whether a process is training the run in that folder now."""
    path = Path(folder) / "lock"
    if not path.exists():
        return False
    with open(path) as file:
        return not _try_lock(file)


def read_log(folder: str | Path) -> list[dict]:
    """The lines of a run's log.jsonl: dicts with `kind` train, valid or sample, `step`, `seconds` and values.

    A last line that a kill has cut short is left out.

    Raises:
        ValueError: another line is damaged, naming it.
    """
    path = Path(folder) / "log.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines, remedy = text.split("\n")[:-1], "restore the file, or delete this line"
    entries = []
    for k, line in enumerate(lines):
        where = f"{path}, line {k + 1}"
        entries.append(checked("LogLine", parsed(line, where, remedy), where, remedy))
    return entries
