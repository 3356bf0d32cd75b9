"""A small part of the campaign against damage; all of it is run by hand: `python -m tests.campaign --full`."""

import subprocess
import sys
from pathlib import Path

import pytest

PARTS = [
    pytest.param(["mutations", "damage", "--tries", "6"], id="readers"),
    pytest.param(["disk", "together"], id="writers", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("words", PARTS)
def test_nothing_is_lost_and_nothing_damaged_is_believed(words):
    command = [sys.executable, "-m", "tests.campaign", *words]  # a process of its own, which may fork
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "survived" in done.stdout
