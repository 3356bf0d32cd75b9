"""Where 3Dmol.js comes from: a copy beside Jupyter's own extensions, which its server hands out without any network.

The copy lies in the user's Jupyter data folder, labextensions/canonkit/3Dmol-min.js, and is fetched once: from the file
that the environment variable CANONKIT_3DMOL names, else from py3Dmol's usual address, else by `npm pack` where npm is
installed. What comes over a network must have the hash of the version below: a page of a hotel's network, sent in its
place, is not kept. If none of these works, views are pictures.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from functools import cache
from http.client import HTTPException
from pathlib import Path

from canonkit.files import is_offline, replacing, sha256

FILE = "3Dmol-min.js"
VERSION = "2.5.5"
SHA256 = "f7cc78921ae72e7623e89cdd111434f58c2efddd2ffda1cd212644b406fb8016"  # of that version's file
SOURCE = "CANONKIT_3DMOL"
HELP = f"3D needs 3Dmol.js: connect once, or set {SOURCE} to a copy of {FILE} (npm's package 3dmol has it in build/)"
TIMEOUT = 20  # seconds
MOST = 2**24  # bytes that are read of an answer


def usual_address() -> str:
    """The address from which py3Dmol loads 3Dmol.js."""
    import py3Dmol

    return inspect.signature(py3Dmol.view.__init__).parameters["js"].default


def local_copy() -> Path | None:
    """The copy that Jupyter's server hands out, fetched if it is missing or damaged. None if it cannot be fetched.

    Raises:
        FileNotFoundError: CANONKIT_3DMOL names no file.
    """
    from jupyter_core.paths import jupyter_data_dir

    target = Path(jupyter_data_dir()) / "labextensions" / "canonkit" / FILE
    noted = target.with_suffix(".sha256")  # of a file that the user named
    if target.exists() and sha256(target) in (SHA256, noted.read_text() if noted.exists() else ""):
        return target
    content = _named_file() or (None if is_offline() else _fetched())
    if content is None:
        return None
    for path, what in ((target, content), (noted, hashlib.sha256(content).hexdigest().encode())):
        with replacing(path) as temporary:
            temporary.write_bytes(what)
    return target


def _named_file() -> bytes | None:
    if not (name := os.environ.get(SOURCE)):
        return None
    if not Path(name).is_file():
        raise FileNotFoundError(f"{SOURCE} names {name}, which is not a file: give a copy of {FILE}")
    return Path(name).read_bytes()


@cache  # one attempt per session
def _fetched() -> bytes | None:
    try:
        address = re.sub(r"3dmol@[\d.]+", f"3dmol@{VERSION}", usual_address())
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            content = answer.read(MOST)
    except (OSError, HTTPException):
        content = b""
    return content if _genuine(content) else _packed_by_npm()


def _genuine(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256


def _packed_by_npm() -> bytes | None:
    npm = shutil.which("npm")
    if npm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"3dmol@{VERSION}", "--fetch-retries=0", "--silent"]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, timeout=3 * TIMEOUT, check=True)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                file = archive.extractfile(f"package/build/{FILE}")
                content = b"" if file is None else file.read(MOST)
                return content if _genuine(content) else None
        except (OSError, subprocess.SubprocessError, StopIteration, KeyError, tarfile.TarError):
            return None


def loader() -> str:
    """JavaScript that defines `canonkit3Dmol(local, address, ready, failed)`."""
    return (Path(__file__).parent / "scene.js").read_text()
