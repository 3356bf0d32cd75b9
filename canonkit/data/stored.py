"""What data sets share: tensors in a cache file that knows its content's hash, and files inside installed packages."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from torch import Tensor

from canonkit.files import replacing


def content_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors and their names, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(memoryview(tensors[name].contiguous().numpy()))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()


def load_stored(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors of a cache file and what it says of them, None where there is none or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
            about = file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return None
    return (tensors, about) if content_hash(tensors) == about.get("sha256") else None


def store(path: Path, tensors: dict[str, Tensor], **about: str) -> dict[str, str]:
    """Writes a cache file; returns what it says of its tensors: `about` and their hash, sha256."""
    from safetensors.torch import save_file

    about = {"sha256": content_hash(tensors), **about}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=about)
    return about


def installed_files(package: str, pattern: str) -> list[Path]:
    """Files of an installed package that match, which need not be importable; none where it is not installed."""
    try:
        return [Path(f.locate()) for f in metadata.files(package) or () if f.match(pattern)]
    except metadata.PackageNotFoundError:
        return []
