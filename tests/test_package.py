"""The house: what is declared in several places agrees, importing is cheap, the command line does what it says."""

import ast
import json
import math
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import canonkit as ck
from canonkit import cli
from canonkit.recipes.names import SYSTEMS

ROOT = Path(__file__).parents[1]
NO_DEPENDENCIES = ("escnn",)  # installed without its own: see Makefile
CANONKIT = [sys.executable, "-c", "from canonkit.cli import main; main()"]


def name(requirement):
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-")


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {name(line): line for line in lines if line and not line.startswith("#")}


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    return [r for r in listed if not r.startswith("canonkit[")]


def test_every_dependency_is_pinned_within_what_pyproject_allows():
    from packaging.requirements import Requirement

    for requirement in map(Requirement, declared()):
        pin = pins()[name(requirement.name)]
        assert requirement.specifier.contains(pin.split("==")[1]), (requirement, pin)


def test_constraints_pin_nothing_that_is_not_used():
    assert set(pins()) == {*map(name, declared()), *NO_DEPENDENCIES}


def test_conda_environment_lists_the_same_packages_at_the_same_versions():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    entries = [line.strip().removeprefix("- ") for line in lines if "==" in line and not line.startswith("#")]
    listed = {name(entry): entry for entry in entries}
    assert listed == {k: v for k, v in pins().items() if k not in NO_DEPENDENCIES}
    text = "\n".join(lines)
    for package in NO_DEPENDENCIES:
        assert pins()[package] in text


def test_importing_canonkit_loads_none_of_the_heavy_packages():
    code = "import canonkit, sys; canonkit.Molecules; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rdkit", "escnn", "torch_geometric", "matplotlib", "IPython", "accelerate"} & set(loaded)
    assert "canonkit.molecules" in loaded


def canonkit(*words, check=True):
    done = subprocess.run([*CANONKIT, *map(str, words)], capture_output=True, text=True)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_data_says_what_is_in_qm9():
    lines = canonkit("data", "qm9", "--json").stdout.splitlines()
    assert len(lines) == 1
    result = json.loads(lines[0])
    assert (result["molecules"], result["atoms"]) == (130_831, 2_359_210)
    assert result["split"] == {"train": 100_000, "valid": 17_748, "test": 13_083}


@pytest.mark.slow
def test_certify_frame_in_float64():
    result = json.loads(canonkit("certify", "frame", "-n", 200, "--dtype", "float64", "--json").stdout)
    assert result["molecules"] == 200
    assert result["max_error"] < 1e-8
    assert result["handed"] is True
    assert 0 <= result["jump_share"] < 0.1
    assert 0 <= result["ambiguous_share"] < 0.1


@pytest.mark.slow
def test_certify_rotated_copies_on_digits(cache):
    result = json.loads(canonkit("certify", "copies16", "--data", "rotmnist", "-n", 60, "--json").stdout)
    assert (result["images"], result["order"]) == (60, 16)
    assert (result["quarter_share"], result["quarter_error"]) == (1.0, 0.0)
    assert result["pixel_error"] < result["interpolation_error"]


@pytest.mark.slow
def test_train_sample_and_certify_images_from_the_command_line(cache, tmp_path):
    result = json.loads(canonkit("data", "rotmnist", "--json").stdout.splitlines()[-1])
    assert (result["images"], result["split"]["train"]) == (5000, 3000)
    run, sheet = tmp_path / "run", tmp_path / "digits.png"
    canonkit("train", "copies(16)+UNet", "--steps", 2, "--out", run, "--json", "--set", "validate_every=0")
    canonkit("sample", run, "-n", 3, "--steps", 2, "--eta", 0, "-o", sheet, "--seed", 1, "--json")
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert "only .png, .npz" in canonkit("sample", run, "-o", tmp_path / "digits.sdf", check=False).stderr
    assert json.loads(canonkit("certify", run, "-n", 20, "--json").stdout)["order"] == 16


@pytest.mark.slow
def test_train_sample_and_evaluate_from_the_command_line(tmp_path):
    run, file = tmp_path / "run", tmp_path / "m.sdf"
    words = ["train", "canon(fr)+GDM", "--out", run, "--set", "batch_size=8", "--set", "sample_every=0", "--json"]
    assert json.loads(canonkit(*words, "--steps", 20).stdout)["step"] == 20
    canonkit(*words, "--steps", 22, "--resume")
    refused = canonkit("sample", run, "-o", file, "--temperature", 0.5, check=False)
    assert "--temperature is not for Diffusion" in refused.stderr
    canonkit("sample", run, "-n", 5, "--steps", 3, "-o", file, "--seed", 1)
    for source in (file, run):
        result = json.loads(canonkit("evaluate", source, "-n", 4, "--steps", 2, "--json").stdout)
        assert {"molecules", "molecule_stable", "atom_stable", "valid", "unique", "novel"} <= result.keys()
    saved = json.loads((run / "evaluation.json").read_text())
    assert (saved["recipe"], saved["step"], saved["steps"]) == ("canon(fr)+GDM", 22, 2)


@pytest.mark.slow
def test_evaluate_reads_npz_with_numbers_and_positions(tmp_path):
    water = np.array([[[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]])
    np.savez(tmp_path / "water.npz", positions=water, numbers=np.array([[8, 1, 1]]))
    result = json.loads(canonkit("evaluate", tmp_path / "water.npz", "--json").stdout)
    assert (result["molecules"], result["molecule_stable"], result["valid"], result["unique"]) == (1, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "nowhere"], "nowhere is neither a run's folder nor the name of trained weights"),
        (["evaluate", "nothing.xyz"], "there is no file nothing.xyz"),
        (["train", "GMD", "--out", "x"], "no recipe is called 'GMD'"),
        (["certify", "frames"], "choose from identity, inertial, frame"),
        (["data", "qm8"], "did you mean 'qm9'"),
        (["train", "CanonFlw", "--out", "x"], "did you mean 'CanonFlow'"),
        (["train", "GDM", "--out", "x", "--set", "batch=3"], "did you mean 'batch_size'"),
        (["train", "GDM", "--out", "x", "--set", "lr=fast"], "'fast' is not a number"),
        (["train", "GDM", "--out", "x", "--minutes", "-1"], "give more than 0"),
        (["train", "GDM", "--out", "x", "--steps", "0"], "give 1 or more"),
        (["train", "GDM", "--out", "x", "--device", "gpu"], "there is no device 'gpu' here"),
        (["sample", "canonflow", "-o", "x.sdf"], "did you mean 'CanonFlow'"),
        (["sample", "CanonFlow", "-o", "x.sdf", "-n", "0"], "give 1 or more"),
        (["sample", "CanonFlow", "-o", "x.sdf", "-n", "many"], "Invalid value for '-n'"),
        (["smaple", "CanonFlow"], "Did you mean 'sample'"),
        (["certify", "copies16", "--data", "qm9", "-n", "5"], "Copies is for images, and these are molecules"),
    ],
)
def test_errors_are_one_line_with_a_remedy(words, message, tmp_path):
    done = canonkit(*words, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_version():
    from canonkit import __version__

    assert canonkit("--version").stdout == f"canonkit {__version__}\n"


def test_notebooks_are_copied_once(tmp_path):
    folder = tmp_path / "mine"
    copied = json.loads(canonkit("notebooks", folder, "--json").stdout)["copied"]
    originals = [p for kind in ("*.ipynb", "pages/*.md", "images/*.png") for p in (ROOT / "notebooks").glob(kind)]
    assert sorted(p.relative_to(folder) for p in folder.rglob("*.*")) == sorted(
        p.relative_to(ROOT / "notebooks") for p in originals
    )
    assert len(copied) == len(originals)
    (folder / "00_start_here.ipynb").write_text("my own")
    assert json.loads(canonkit("notebooks", folder, "--json").stdout)["copied"] == []
    assert (folder / "00_start_here.ipynb").read_text() == "my own"


def test_the_face_is_the_same_for_people_editors_and_type_checkers():
    tree = ast.parse(Path(ck.__file__).read_text())
    (seen,) = [node for node in tree.body if isinstance(node, ast.If)]  # if TYPE_CHECKING
    names = {alias.asname or alias.name for node in seen.body for alias in node.names}
    assert names == set(ck.__all__) == {*ck._WHERE, "figures"}
    assert names <= set(dir(ck))
    assert (Path(ck.__file__).parent / "py.typed").exists()
    for name in names:
        assert getattr(ck, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        ck.trian  # noqa: B018


def test_every_system_is_listed():
    rows = {row[0]: row for row in ck.systems().rows}
    assert rows.keys() == SYSTEMS.keys()
    assert rows["CanonFlow-heavy"][1:] == ["QM9 without hydrogens", "flow", "Canon", "spectral"]
    assert rows["CanonFlow-aug"][-1] == "turned at random"


@pytest.mark.slow
def test_from_outside_the_public_names_have_known_types(tmp_path):
    pyright = pytest.importorskip("pyright")
    lines = ["import canonkit as ck", *(f"reveal_type(ck.{name})" for name in ck.__all__)]
    (tmp_path / "use.py").write_text("\n".join(lines))
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    done = pyright.run("--pythonpath", sys.executable, "--outputjson", str(tmp_path), capture_output=True, text=True)
    found = [d["message"] for d in json.loads(done.stdout)["generalDiagnostics"]]
    assert len(found) == len(ck.__all__)
    assert not [text for text in found if "Unknown" in text]


def test_a_setting_has_the_type_of_its_value():
    """What `--set choice_temperature=inf` hands over is a number, as its help text says."""
    texts = {"a=2": 2, "a=2.5": 2.5, "a=inf": math.inf, "a=true": True, "a=bfloat16": "bfloat16", "a=null": None}
    for text, value in texts.items():
        found = cli._setting(text)[1]
        assert (found, type(found)) == (value, type(value))


def test_a_signal_before_training_begins_is_one_line(tmp_path, monkeypatch, capsys):
    def ended(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came to nothing")

    monkeypatch.setattr("canonkit.trainer.recipe", ended)
    monkeypatch.setattr("sys.argv", ["canonkit", "train", "GDM", "--out", str(tmp_path / "a"), "--steps", "2"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as done:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.value.code == 130
    assert capsys.readouterr().err == "canonkit: interrupted\n"
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_the_reference_is_made_without_a_warning(tmp_path):
    command = [sys.executable, ROOT / ".ci/docs.py", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert (tmp_path / "canonkit/data/geom.html").exists()
