"""Files that are there whole or not at all, and the cache folder."""

import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

CACHE, WEIGHTS = "CANONKIT_CACHE", "CANONKIT_WEIGHTS"  # name folders
OFFLINE = "CANONKIT_OFFLINE"  # set to 1: nothing is downloaded
T = TypeVar("T")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well; otherwise `path` stays as it was.

    Who may read the file is as for any new one, whatever the library that writes it thinks.

    Raises:
        OSError: it cannot be written, naming `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    _sweep(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if said := _not_written(error):
            raise OSError(f"{path} cannot be written ({said}): what was there is as it was") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Removes what killed processes left of `path` under its temporary names."""
    for old in path.parent.glob(f".{escape(path.stem)}.*{escape(path.suffix)}"):
        number = old.name[len(path.stem) + 2 : len(old.name) - len(path.suffix)]
        if number.isdecimal() and not _runs(int(number)):
            old.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks only whether it is there
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _not_written(error: Exception) -> str | None:
    """What the system said, where an error is one of writing: safetensors and torch have their own."""
    if isinstance(error, OSError):
        return error.strerror
    text = in_short(error)
    theirs = type(error).__name__ == "SafetensorError" or "PytorchStreamWriter" in text or "inline_container" in text
    return text if theirs else None


def settled(path: Path, read: Callable[[], T]) -> T:
    """read(), and again where it failed because `path` was replaced meanwhile: safetensors opens a file twice.

    Raises:
        Exception: what `read` raises of a file that stays as it is.
    """
    for _ in range(20):
        before = path.stat()
        try:
            return read()
        except FileNotFoundError:
            raise
        except Exception:
            now = path.stat()
            if (now.st_ino, now.st_mtime_ns, now.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size):
                raise
    return read()


def in_short(error: Exception, last: bool = False) -> str:
    """What an error of another library says, in one line: its first, or its last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if last else 0].strip()[:200]


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Nothing is unpickled, and no more is unpacked than the memory can hold.

    Raises:
        ValueError: the file is damaged, or holds something else, or too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            total = 0
            for member in archive.infolist():
                with archive.open(member) as file:
                    first = read_magic(file) == (1, 0)
                    shape, _, dtype = (read_array_header_1_0 if first else read_array_header_2_0)(file)
                    size = file.tell() + math.prod(shape) * dtype.itemsize
                if dtype.hasobject or size != member.file_size:
                    raise ValueError(f"{member.filename} announces {size:,} bytes and has {member.file_size:,}")
                total += size
        if total > memory() / 2:
            raise ValueError(f"{total / 1e9:,.0f} GB unpacked, more than half of this machine's memory")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, numpy and zlib each have their own way to say it
        raise ValueError(f"damaged or no npz file ({in_short(error)})") from error


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_offline() -> bool:
    """Whether the user wants nothing to be downloaded."""
    return os.environ.get(OFFLINE) == "1"


def cache_folder() -> Path:
    """Where prepared data is kept: $CANONKIT_CACHE, else ~/.cache/canonkit.

    Raises:
        OSError: it cannot be a folder, or there is no home.
    """
    return _folder(CACHE, "~/.cache/canonkit")


def weights_folder() -> Path:
    """Where your own trained weights are kept: $CANONKIT_WEIGHTS, else ~/.local/share/canonkit/weights.

    Raises:
        OSError: it cannot be a folder, or there is no home.
    """
    return _folder(WEIGHTS, "~/.local/share/canonkit/weights")


def _folder(variable: str, usual: str) -> Path:
    named = os.environ.get(variable, "").strip() or usual
    try:
        folder = Path(named).expanduser()
    except RuntimeError:
        raise OSError(f"{named} cannot be found, for no home folder is known: set {variable} to a folder") from None
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file: set {variable} to a folder")
    return folder


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
