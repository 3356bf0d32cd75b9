"""Training on resident data: the same mathematics as the ordinary loop. Speed and CUDA graphs need a GPU to be seen."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from canonkit import hour
from canonkit.data.bonds import perceive_bonds
from canonkit.hour import LENGTHS, Stepper, read_data, save_data, train_for
from canonkit.recipes import load_run, recipe
from canonkit.training import AdaptiveClip

RATES = {"lr": 1e-3, "canonicalizer_lr": 1e-4, "weight_decay": 0.0, "ema": 0.99}


@pytest.fixture(scope="module")
def small(qm9):
    """QM9 with few molecules in its parts."""
    parts = {"train": qm9.part("train")[:300], "valid": qm9.part("valid")[:50]}
    return SimpleNamespace(part=parts.get, sha256=qm9.sha256)


@pytest.fixture(scope="module")
def file(small, tmp_path_factory):
    return save_data(small, tmp_path_factory.mktemp("data") / "qm9.npz")


def stepper(small, name="canon+GDM", **options):
    data = small.part("train")
    chosen = recipe(name, batch_size=8, **RATES | options)
    return Stepper(chosen.build(torch.bincount(data.sizes, minlength=30)), data, chosen.settings)


def train(file, out, **options):
    options = {
        "scale": "laptop",
        "batch_size": 8,
        "warmup": 5,
        "device": torch.device("cpu"),
        "progress": False,
    } | options
    return train_for(options.pop("minutes", 0.08), options.pop("name", "inertial+GDM"), file, out, **options)


def test_the_data_file_holds_the_same_molecules(small, file):
    train, valid, sha256 = read_data(file)
    for got, name in ((train, "train"), (valid, "valid")):
        expected = small.part(name).trim()
        assert got.positions.equal(expected.positions)
        assert got.types.equal(expected.types)
        assert got.mask.equal(expected.mask)
    assert sha256 == small.sha256
    with pytest.raises(FileNotFoundError, match="canonkit data qm9 --file"):
        read_data("nothing.npz")


def test_every_molecule_has_its_length_and_is_picked_equally_often(small):
    step = stepper(small)
    assert step.shares().sum() == 300
    for length, (first, last) in step.lengths.items():
        sizes = step.data.sizes[first:last]
        shorter = [n for n in LENGTHS if n < length]
        assert sizes.max() <= length
        assert sizes.min() > max(shorter, default=0)


def test_gradients_are_clipped_as_in_the_ordinary_loop(small):
    step, clip = stepper(small), AdaptiveClip()
    generator = torch.Generator().manual_seed(0)
    for k in range(70):
        for p in step.parameters:
            p.grad = torch.randn(p.shape, generator=generator) * (1 + 10 * (k % 7 == 3))
        copies = [p.detach().clone() for p in step.parameters]
        for copy, p in zip(copies, step.parameters, strict=True):
            copy.grad = p.grad.clone()
        clip(copies)
        step._clip()
        step.count += 1
        for copy, p in zip(copies, step.parameters, strict=True):
            torch.testing.assert_close(p.grad, copy.grad, rtol=1e-4, atol=1e-7)


def test_a_canonicalizer_that_does_not_learn_is_applied_beforehand(small):
    for name in ("canon(fr)+GDM", "inertial+GDM", "GDM"):
        step = stepper(small, name)
        turned = step.model.canonicalizer(step.data).x
        flagged = step.model.canonicalizer(step.data).ambiguous
        torch.testing.assert_close(turned.positions[~flagged], step.data.positions[~flagged], rtol=0, atol=2e-3)
    assert stepper(small).learned


def test_rates_of_zero_change_no_weight(small):
    step = stepper(small)  # as made
    before = {k: v.clone() for k, v in step.model.state_dict().items()}
    step(18)
    assert all(v.equal(before[k]) for k, v in step.model.state_dict().items())
    step.set_rate(1)
    step(18)
    assert not step.model.network.out.weight.equal(before["network.out.weight"])
    assert not step.model.canonicalizer.weights.weight.equal(before["canonicalizer.weights.weight"])


@pytest.mark.parametrize("name", ["canon+GDM", "Flow+transport"])  # the second with Muon
def test_a_restored_stepper_goes_on_as_the_other(small, name):
    one, two = stepper(small, name), stepper(small, name)
    one.set_rate(1)
    for length in (18, 16, 21):
        one(length)
    two.restore(one.state())
    results = []
    for step in (one, two):
        torch.manual_seed(1)
        step.set_rate(0.5)
        step(17)
        results.append(step.state())
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert int(results[0]["count"]) == 4


@pytest.mark.slow
def test_minutes_give_weights_a_log_and_a_run_that_resumes(small, file, tmp_path, monkeypatch):
    monkeypatch.setattr(hour, "LOG_EVERY", 10)
    first = train(file, tmp_path)
    assert first["molecules_per_second"] > 0
    assert first["floor_molecules_per_second"] > first["molecules_per_second"]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    run = load_run(tmp_path)
    assert run.provenance()["seen"] == 8 * first["step"]
    assert run.sample(2, 3, seed=0).positions.isfinite().all()
    with pytest.raises(FileExistsError, match="--resume"):
        train(file, tmp_path)
    second = train(file, tmp_path, resume=True)
    assert second["step"] > first["step"]
    assert second["seconds"] > first["seconds"]
    (tmp_path / "checkpoint.pt").unlink()
    carried = load_run(tmp_path)  # averaged.pt is enough
    for a, b in zip(carried.model.parameters(), load_run(tmp_path).model.parameters(), strict=True):
        assert a.equal(b)
    assert carried.step == second["step"]


def test_a_run_too_short_for_a_look_at_the_loss_ends_with_one(small, file, tmp_path, capsys):
    result = train(file, tmp_path, minutes=1e-4, progress=True)
    assert 0 < result["loss"] < 100
    (entry,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (entry["step"], entry["loss"]) == (result["step"], result["loss"])
    assert f"step {entry['step']}, loss" in capsys.readouterr().out


def test_systems_without_hydrogens_are_refused(small, file, tmp_path):
    with pytest.raises(ValueError, match="use canonkit train"):
        train(file, tmp_path, name="CanonFlow-heavy")


@pytest.mark.slow
def test_molecular_graphs_go_along_with_their_bonds(small, tmp_path):
    parts = {k: perceive_bonds(small.part(k)[:40])[0] for k in ("train", "valid")}
    file = save_data(SimpleNamespace(part=parts.get, sha256="graphs"), tmp_path / "qm9.npz")
    got, expected = read_data(file)[0], parts["train"].trim()
    assert got.bonds.equal(expected.bonds)
    assert got.charges.equal(expected.charges)
    result = train(file, tmp_path / "run", name="CanonFlow", minutes=0.02)
    assert 0 < result["validation_loss"] < 10
    assert load_run(tmp_path / "run").sample(2, 3, seed=0).bonds is not None


@pytest.mark.slow
def test_torch_and_numpy_are_enough(file, tmp_path):
    block = (
        "import sys\nfor name in 'safetensors tqdm scipy rdkit matplotlib typer accelerate torch_geometric'.split():\n"
    )
    block += "    sys.modules[name] = None\n"
    words = ["inertial+GDM", "--data", str(file), "--out", str(tmp_path / "run"), "--minutes", "0.05"]
    words += ["--scale", "laptop", "--batch-size", "4"]
    code = f"{block}sys.argv[1:] = {words}\nfrom canonkit.hour import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["step"] > 0
    assert 0 < result["validation_loss"] < 10
