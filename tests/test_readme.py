"""Every Python line and every command of the README does what it says, with small settings."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# What is replaced so that it takes seconds, in Python and in commands; each must be there.
FASTER = {
    "[:5000]": "[:50]",
    "minutes=10": "steps=2, sample_every=0",
    "sample(100, steps=100)": "sample(4, steps=3)",
    "sample(10, steps=100)": "sample(4, steps=3)",
    "--minutes 10": "--steps 2 --set sample_every=0 --set validate_every=0",
    "-n 100 --steps 50": "-n 4 --steps 3",
    "-n 1000": "-n 20",
    "release runs/a --name mine": "release runs/a --name mine -n 4 --steps 2",
}


def blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
    return [text for name, text in found if name == language]


def faster(text):
    for slow, quick in FASTER.items():
        text = text.replace(slow, quick)
    return text


def commands():
    lines = [line for block in blocks("") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in map(faster, lines)]


def test_readme_is_short_and_its_links_and_pictures_are_there():
    assert len(README.split()) < 900
    links = re.findall(r"\]\(([^)]+)\)", README)
    papers = {"2501.07773", "2410.06262", "2602.15022", "2203.17003"}
    assert {link.rsplit("/", 1)[1] for link in links if link.startswith("https://arxiv.org/abs/")} == papers
    assert [link for link in links if not link.startswith("https") and not (ROOT / link).exists()] == []
    assert all(slow in README for slow in FASTER)


@pytest.mark.slow
def test_python_lines(tmp_path):
    (block,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", faster(block)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"poses.png", "ten.sdf", "runs"} <= {p.name for p in tmp_path.iterdir()}
    import canonkit as ck

    molecules = ck.read(tmp_path / "ten.sdf")
    assert molecules.bonds.equal(ck.bond_orders(molecules))


@pytest.mark.slow
def test_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("CANONKIT_WEIGHTS", str(tmp_path / "weights"))
    tried = [words for words in commands() if words[0] == "canonkit"]
    assert {words[1] for words in tried} >= {"train", "sample", "evaluate", "certify", "release", "runs", "notebooks"}
    for words in tried:
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr[-2000:])
        if words[1:3] == ["certify", "SymDiff"]:
            assert "rejected: no" in done.stdout
    assert (tmp_path / "weights" / "mine.safetensors").exists()


def test_other_commands_are_make_targets_and_pip():
    others = [words for words in commands() if words[0] != "canonkit"]
    assert {words[0] for words in others} == {"make", "pip"}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert all(words[1] in targets for words in others if words[0] == "make")
