"""Where 3Dmol.js comes from: a copy beside Jupyter's own extensions, which its server hands out without any network.

The copy lies in the user's Jupyter data folder, labextensions/canonkit/3Dmol-min.js, and is fetched once: from the file
that the environment variable CANONKIT_3DMOL names, else from py3Dmol's usual address, else by `npm pack` where npm is
installed. If none of these works, views are pictures.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from functools import cache
from pathlib import Path

from canonkit.files import is_offline, replacing

FILE = "3Dmol-min.js"
SOURCE = "CANONKIT_3DMOL"
HELP = f"3D needs 3Dmol.js: connect once, or set {SOURCE} to a copy of {FILE} (npm's package 3dmol has it in build/)"
TIMEOUT = 20  # seconds


def usual_address() -> str:
    """The address from which py3Dmol loads 3Dmol.js."""
    import py3Dmol

    return inspect.signature(py3Dmol.view.__init__).parameters["js"].default


def local_copy() -> Path | None:
    """The copy that Jupyter's server hands out; it is fetched first if it is missing. None if it cannot be fetched.

    Raises:
        FileNotFoundError: CANONKIT_3DMOL names no file.
    """
    from jupyter_core.paths import jupyter_data_dir

    target = Path(jupyter_data_dir()) / "labextensions" / "canonkit" / FILE
    if not target.exists():
        content = _named_file() or (None if is_offline() else _fetched())
        if content is None:
            return None
        with replacing(target) as temporary:
            temporary.write_bytes(content)
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
        with urllib.request.urlopen(usual_address(), timeout=TIMEOUT) as answer:
            return answer.read()
    except OSError:
        return _packed_by_npm()


def _packed_by_npm() -> bytes | None:
    npm, version = shutil.which("npm"), re.search(r"3dmol@([\d.]+)", usual_address())
    if npm is None or version is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"3dmol@{version[1]}", "--fetch-retries=0", "--silent"]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, timeout=3 * TIMEOUT, check=True)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                file = archive.extractfile(f"package/build/{FILE}")
                return None if file is None else file.read()
        except (OSError, subprocess.SubprocessError, StopIteration, KeyError, tarfile.TarError):
            return None


def loader() -> str:
    """JavaScript that defines `canonkit3Dmol(local, address, ready, failed)`."""
    return (Path(__file__).parent / "scene.js").read_text()
