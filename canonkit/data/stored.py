"""What data sets share: tensors in a cache file that knows its content's hash, and files inside installed packages."""

from __future__ import annotations

import hashlib
import json
import os
from importlib import metadata
from pathlib import Path

from torch import Tensor

from canonkit.files import CACHE, replacing, settled


def content_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors and their names, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(memoryview(tensors[name].contiguous().numpy()))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()


def _seal(tensors: dict[str, Tensor], about: dict[str, str]) -> str:
    """SHA-256 of what a cache file says: of its tensors' types and shapes, and of `about`, their hash among it."""
    kinds = {name: (str(x.dtype), list(x.shape)) for name, x in tensors.items()}
    return hashlib.sha256(json.dumps([kinds, about], sort_keys=True).encode()).hexdigest()


def load_stored(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors of a cache file and what it says of them, None where there is none or it is damaged.

    Raises:
        OSError: it may not be read.
    """
    from safetensors import safe_open

    if not path.exists():
        return None
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} may not be read: change that, or set {CACHE} to a folder of your own")

    def read() -> tuple[dict[str, Tensor], dict[str, str]]:
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
            about = file.metadata() or {}
        if about.pop("seal", None) != _seal(tensors, about) or content_hash(tensors) != about.get("sha256"):
            raise ValueError("its content is not what was written")
        return tensors, about

    try:
        return settled(path, read)
    except Exception:  # a damaged header has many ways to fail
        return None


def store(path: Path, tensors: dict[str, Tensor], **about: str) -> dict[str, str]:
    """Writes a cache file; returns what it says of its tensors: `about` and their hash, sha256.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.torch import save_file

    about = {"sha256": content_hash(tensors), **about}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=about | {"seal": _seal(tensors, about)})
    except OSError as error:
        raise OSError(f"{error}: make room, or set {CACHE} to another folder") from error
    return about


def installed_files(package: str, pattern: str) -> list[Path]:
    """Files of an installed package that match, which need not be importable; none where it is not installed."""
    try:
        return [Path(f.locate()) for f in metadata.files(package) or () if f.match(pattern)]
    except metadata.PackageNotFoundError:
        return []
