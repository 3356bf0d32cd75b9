"""What the browser tests need: a Chromium and 3Dmol.js. `python tests/browsing.py` installs what is missing."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir
from playwright.sync_api import sync_playwright

from canonkit.widgets import threedmol

NAMES = ("chromium", "chromium-browser", "google-chrome")
HELP = "no browser: run `playwright install --with-deps chromium`, or put a chromium on the PATH"
LOCAL = ("127.0.0.1", "localhost")
FLAGS = (
    "--no-sandbox --disable-dev-shm-usage --disable-background-networking --disable-component-update --disable-sync "
    "--disable-default-apps --disable-extensions --disable-domain-reliability --no-first-run --no-pings"
).split()
NO_3DMOL = f"no 3Dmol.js: {threedmol.HELP}"


@cache
def find() -> str | None:
    """The path of a Chromium that starts and that Playwright can drive: one on the PATH, else Playwright's own."""
    try:
        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
    except Exception:  # its driver does not start
        return None
    for program in (*map(shutil.which, NAMES), own):
        if program and os.path.exists(program) and _runs(program, "--version", "--no-sandbox", quiet=True):
            return program
    return None


def three_dmol() -> bytes | None:
    """3Dmol.js: the user's copy, that of CANONKIT_3DMOL, one from its usual address, or one by npm."""
    cached = Path(jupyter_data_dir()) / "labextensions" / "canonkit" / threedmol.FILE
    return cached.read_bytes() if cached.exists() else threedmol._named_file() or threedmol._fetched()


def _runs(*command, quiet=False) -> bool:
    output = subprocess.DEVNULL if quiet else None
    environment = {"PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": "10000", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        return not subprocess.run(
            command, stdout=output, stderr=output, env=os.environ | environment, timeout=900
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _found() -> bool:
    find.cache_clear()
    return find() is not None


def _debian(*packages: str) -> None:
    """Installs packages where that is possible: on Debian, as root."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        print(f"installing Debian's {', '.join(packages)}", flush=True)
        install = ("apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)
        all(_runs(*command, quiet=True) for command in (("apt-get", "update", "-q"), install))


def main() -> None:
    if not _found():
        print("no browser found: trying Playwright's Chromium", flush=True)
        _runs(sys.executable, "-m", "playwright", "install", "--no-shell", "chromium", quiet=True)
    if not _found():
        _debian("chromium", "libatomic1")  # Playwright's driver needs libatomic
    if not _found():
        print(f"{HELP}; the browser tests will be skipped", flush=True)
        return
    if three_dmol() is None and not shutil.which("npm"):
        _debian("npm")
        threedmol._fetched.cache_clear()
    if three_dmol() is None:
        print(f"{NO_3DMOL}; the browser tests will be skipped", flush=True)


if __name__ == "__main__":
    main()
