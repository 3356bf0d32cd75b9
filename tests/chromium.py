"""A Chromium for the tests that use a browser. `python tests/chromium.py` installs one if none is found."""

import os
import shutil
import subprocess
import sys

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
HELP = "no browser: run `playwright install --with-deps chromium`, or put a chromium on the PATH"
APT = ("apt-get update -q", "apt-get install -y -q --no-install-recommends chromium")


def find(playwright) -> str | None:
    """The path of a Chromium that starts: one on the PATH, else Playwright's own."""
    for program in (*map(shutil.which, NAMES), playwright.chromium.executable_path):
        if program and os.path.exists(program) and _runs(program, "--version", "--no-sandbox", quiet=True):
            return program
    return None


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
    with sync_playwright() as playwright:
        return find(playwright) is not None


def main() -> None:
    if _found():
        return
    print("no browser found: trying Playwright's Chromium", flush=True)
    _runs(sys.executable, "-m", "playwright", "install", "--no-shell", "chromium", quiet=True)
    if not _found() and shutil.which("apt-get") and os.geteuid() == 0:
        print("Playwright's Chromium cannot be had or does not start: trying Debian's", flush=True)
        all(_runs(*command.split(), quiet=True) for command in APT)
    if not _found():
        print(f"{HELP}; the browser tests will be skipped", flush=True)


if __name__ == "__main__":
    main()
