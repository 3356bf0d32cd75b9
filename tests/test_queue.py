"""A queue of runs adds up to the same weights however often it is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import canonkit as ck
from canonkit.queue import read_queue
from canonkit.trainer import train_recipe
from canonkit.training import is_training, locked_folder, read_counters
from canonkit.training.folder import write_card

QUEUE = """
folder = "{folder}"
at_once = 2
[[run]]
recipe = "GDM"
steps = 120
set = {{ batch_size = 4, validate_every = 0, sample_every = 0, precision = "float32" }}
[[run]]
recipe = "inertial+GDM"
steps = 90
set = {{ batch_size = 4, validate_every = 0, sample_every = 60, samples = 2, sample_steps = 3, precision = "float32" }}
[[run]]
recipe = "EDM"
name = "the equivariant one"
seed = 3
steps = 60
set = {{ batch_size = 4, validate_every = 0, sample_every = 0, precision = "float32" }}
"""


def write_queue(path, folder):
    path.write_text(QUEUE.format(folder=folder))
    return path


def queue_process(path, **options):
    command = [sys.executable, "-m", "canonkit", "train", "--queue", str(path), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


def weights(folder):
    return {path.parent.name: load_file(path) for path in folder.glob("*/checkpoint.safetensors")}


@pytest.mark.slow
def test_a_queue_killed_five_times_ends_with_the_same_weights(qm9, tmp_path):
    process = queue_process(write_queue(tmp_path / "whole.toml", "whole"))
    rows = json.loads(process.communicate(timeout=300)[0])
    assert process.returncode == 0
    assert [(r["run"], r["state"], r["step"]) for r in rows] == [
        ("GDM-laptop-0", "done", 120),
        ("inertial+GDM-laptop-0", "done", 90),
        ("the equivariant one", "done", 60),
    ]
    killed = write_queue(tmp_path / "killed.toml", "killed")
    chance = random.Random(0)
    for _ in range(5):
        since, process = time.time_ns(), queue_process(killed)
        while not any(p.stat().st_mtime_ns > since for p in tmp_path.glob("killed/*/log.jsonl")):
            assert process.poll() is None
            time.sleep(0.05)  # until a run has begun or goes on
        time.sleep(chance.uniform(0, 0.5))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert queue_process(killed).wait(timeout=300) == 0
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert one.keys() == other.keys() == {"GDM-laptop-0", "inertial+GDM-laptop-0", "the equivariant one"}
    for name in one:
        assert all(torch.equal(one[name][k], other[name][k]) for k in one[name])
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("killed/*/checkpoint.safetensors")}
    assert queue_process(killed).wait(timeout=60) == 0  # nothing is left to do
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}


BAD = {
    "no table": ("folder = 'runs'", "names no"),
    "no budget": ("[[run]]\nrecipe = 'GDM'", "run 1: give recipe and a budget"),
    "a typo": ("[[run]]\nrecipe = 'GDM'\nsteps = 3\nlr = 1", r"queue.toml: run.0.lr = 1 is no field"),
    "the same twice": ("[[run]]\nrecipe = 'GDM'\nsteps = 3\n" * 2, "share a folder"),
    "not toml": ("[[run]", "queue.toml"),
    "another key": ("runs = 3", "runs = 3 is no field"),
    "a setting that is none": ("[[run]]\nrecipe = 'GDM'\nsteps = 3\nset = { lr = -1 }", "run.0.set.lr = -1 should be"),
    "no number": ("[[run]]\nrecipe = 'GDM'\nsteps = 'many'", "run.0.steps = 'many' should be"),
    "a folder elsewhere": ("folder = '../../tmp'", "a name of a folder"),
    "a folder above": ("[[run]]\nrecipe = 'GDM'\nsteps = 3\nname = 'a/../../b'", "a name of a folder"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_bad_queue_is_refused(tmp_path, text, message):
    (tmp_path / "queue.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_queue(tmp_path / "queue.toml")


def test_a_run_of_a_queue_has_data_of_its_own(tmp_path):
    file = tmp_path / "queue.toml"
    file.write_text('[[run]]\nrecipe = "CanonFlow"\ndata = "mine.sdf"\nsteps = 3\n')
    (job,), _ = read_queue(file)
    words = job.command(threads=1)
    assert words[words.index("--data") + 1] == "mine.sdf"
    drugs, _ = read_queue(Path(__file__).parents[1] / "queues" / "drugs.toml")
    assert {job.data for job in drugs} == {"ccd-heavy"}


@pytest.mark.slow
def test_a_failing_run_is_named_and_the_others_are_trained(tmp_path):
    path = tmp_path / "queue.toml"
    path.write_text(
        "[[run]]\nrecipe = 'GMD'\nsteps = 1\n"
        "[[run]]\nrecipe = 'GDM'\nsteps = 1\nset = { batch_size = 4, sample_every = 0 }\n"
    )
    process = queue_process(path, stderr=subprocess.PIPE)
    errors = process.communicate(timeout=900)[1]
    assert process.returncode == 1
    assert "GMD-laptop-0" in errors
    assert "choose from GDM" in errors
    assert read_counters(tmp_path / "runs" / "GDM-laptop-0")["step"] == 1


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    with locked_folder(tmp_path):
        assert is_training(tmp_path)
        with pytest.raises(FileExistsError, match="by another process"), locked_folder(tmp_path, patience=0.1):
            pass
    assert not is_training(tmp_path)


@pytest.mark.slow
def test_runs_tell_how_far_they_have_come(qm9, tmp_path):
    options = {"data": qm9, "progress": False, "device": "cpu", "batch_size": 8, "sample_every": 0, "log_every": 1}
    train_recipe("GDM", tmp_path / "a", steps=2, **options)
    train_recipe("GDM", tmp_path / "b", steps=1, minutes=60, **options)
    found = ck.runs(tmp_path)
    assert [(r["state"], r["progress"], r["step"]) for r in found.rows] == [("done", 1, 2), ("done", 1, 1)]
    assert found.rows[0]["loss"] > 0
    card = json.loads((tmp_path / "b" / "run.json").read_text())
    write_card(tmp_path / "b" / "run.json", card | {"budget": {"steps": 4, "minutes": None}})
    half = ck.runs(tmp_path).rows[1]
    assert (half["state"], half["progress"]) == ("stopped", 0.25)
    assert half["eta_minutes"] == pytest.approx(3 * half["minutes"])
    assert "stopped" in str(ck.runs(tmp_path))
    assert len(found.curves().axes) == 2  # two losses; nothing was sampled
    with pytest.raises(FileNotFoundError, match="no runs"):
        ck.runs(tmp_path / "a")


@pytest.mark.slow
def test_training_starts_from_given_weights(qm9, tmp_path):
    options = {"data": qm9, "progress": False, "device": "cpu", "batch_size": 8, "sample_every": 0}
    first = train_recipe("GDM", tmp_path / "a", steps=3, **options)
    second = train_recipe("GDM", tmp_path / "b", steps=1, init=str(tmp_path / "a"), lr=0.0, warmup=0, **options)
    a, b = first.model.state_dict(), second.model.state_dict()
    assert all(torch.allclose(a[k], b[k], rtol=1e-6, atol=1e-7) for k in a)
    with pytest.raises(ValueError, match="another model"):
        train_recipe("EDM", tmp_path / "c", steps=1, init=str(tmp_path / "a"), **options)
