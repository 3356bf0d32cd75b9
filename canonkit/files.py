"""Files that are there whole or not at all, and the cache folder."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OFFLINE = "CANONKIT_OFFLINE"  # set to 1: nothing is downloaded


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well; otherwise `path` stays as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_offline() -> bool:
    """Whether the user wants nothing to be downloaded."""
    return os.environ.get(OFFLINE) == "1"


def cache_folder() -> Path:
    """Where prepared data is kept: $CANONKIT_CACHE, else ~/.cache/canonkit."""
    return Path(os.environ.get("CANONKIT_CACHE", "~/.cache/canonkit")).expanduser()


def weights_folder() -> Path:
    """Where your own trained weights are kept: $CANONKIT_WEIGHTS, else ~/.local/share/canonkit/weights."""
    return Path(os.environ.get("CANONKIT_WEIGHTS", "~/.local/share/canonkit/weights")).expanduser()


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
