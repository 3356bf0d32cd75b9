"""Training on resident data: the same mathematics as the ordinary loop. Speed and CUDA graphs need a GPU to be seen."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from canonkit.chemistry.bonds import perceive_bonds
from canonkit.data.base import Dataset, Form
from canonkit.data.packed import pack, unpack
from canonkit.data.qm9 import FORM
from canonkit.molecules import Molecules
from canonkit.recipes.names import recipe
from canonkit.recipes.run import load_run
from canonkit.resident import train_for
from canonkit.training import State
from canonkit.training.resident import Resident

RATES = {"lr": 1e-3, "canonicalizer_lr": 1e-4, "weight_decay": 0.0, "ema": 0.99}


@dataclass(frozen=True, eq=False)
class Small(Dataset):
    """QM9 with few molecules in its parts."""

    parts: dict[str, Molecules]
    sha256: str = "small"
    name: str = "QM9"
    provenance: str = "QM9"
    form: Form = FORM

    def part(self, name):
        return self.parts[name]


@pytest.fixture(scope="module")
def small(qm9):
    return Small({"train": qm9.part("train")[:300], "valid": qm9.part("valid")[:50]})


@pytest.fixture(scope="module")
def file(small, tmp_path_factory):
    return pack(small, tmp_path_factory.mktemp("data") / "qm9.npz")


def feeder(small, name="canon+GDM", **options):
    prepared = recipe(name, batch_size=8, **RATES | options).prepare(small)
    prepared.model.train()
    return Resident(prepared, State(prepared.model, prepared.settings))


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
    got = unpack(file)
    for name in ("train", "valid"):
        expected = small.part(name).trim()
        assert got.part(name).positions.equal(expected.positions)
        assert got.part(name).types.equal(expected.types)
        assert got.part(name).mask.equal(expected.mask)
    assert (got.sha256, got.name, got.form) == (small.sha256, small.name, small.form)
    with pytest.raises(FileNotFoundError, match="canonkit data qm9 --file"):
        unpack("nothing.npz")


def test_every_molecule_has_its_length_and_is_picked_equally_often(small):
    feed = feeder(small)
    assert feed.shares.sum() == 300
    for length, (first, last) in feed.lengths.items():
        sizes = feed.data.sizes[first:last]
        shorter = [n for n in feed.lengths if n < length]
        assert sizes.max() == length
        assert sizes.min() > max(shorter, default=0)


def test_a_canonicalizer_that_does_not_learn_is_applied_beforehand(small):
    for name in ("canon(fr)+GDM", "inertial+GDM", "GDM"):
        feed = feeder(small, name)
        turned = feed.state.model.canonicalizer(feed.data)
        clear = ~turned.ambiguous
        torch.testing.assert_close(turned.x.positions[clear], feed.data.positions[clear], rtol=0, atol=2e-3)
        assert feed.prepared.canonical
    assert not feeder(small).prepared.canonical


def test_rates_of_zero_change_no_weight(small):
    feed = feeder(small)
    feed.state.set_rate(0)
    before = {k: v.clone() for k, v in feed.state.model.state_dict().items()}
    feed()
    assert all(v.equal(before[k]) for k, v in feed.state.model.state_dict().items())
    feed.state.set_rate(1)
    feed()
    assert not feed.state.model.network.out.weight.equal(before["network.out.weight"])
    assert not feed.state.model.canonicalizer.weights.weight.equal(before["canonicalizer.weights.weight"])


@pytest.mark.parametrize("name", ["canon+GDM", "Flow+transport"])  # the second with Muon
def test_a_restored_state_goes_on_as_the_other(small, tmp_path, name):
    one, two = feeder(small, name), feeder(small, name)
    for _ in range(3):
        one()
    one.state.save(tmp_path)
    assert two.state.restore(tmp_path)
    results = []
    for feed in (one, two):
        torch.manual_seed(1)
        feed.state.set_rate(0.5)
        feed()
        results.append(feed.state.tensors())
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert int(results[0]["count"]) == 4


@pytest.mark.parametrize("name", ["canon+GDM", "Flow+transport"])
def test_steps_that_are_timed_or_recorded_leave_no_trace(small, name):
    one, two = feeder(small, name), feeder(small, name)
    with one.state.untouched():
        one()
        one()
    for feed in (one, two):
        torch.manual_seed(1)
        feed()
    a, b = one.state.tensors(), two.state.tensors()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_minutes_give_weights_a_log_and_a_run_that_resumes(small, file, tmp_path):
    first = train(file, tmp_path, log_every=10)
    assert first["molecules_per_second"] > 0
    assert first["floor_molecules_per_second"] > 0
    log = [e for e in load_run(tmp_path).log if e["kind"] == "train"]  # a slow machine may have one entry
    assert all(0 < e["loss"] < 10 for e in log)
    assert log[-1]["step"] == first["step"]
    run = load_run(tmp_path)
    assert run.provenance()["seen"] == 8 * first["step"]
    assert run.sample(2, 3, seed=0).positions.isfinite().all()
    with pytest.raises(FileExistsError, match="--resume"):
        train(file, tmp_path)
    second = train(file, tmp_path, resume=True, log_every=10)
    assert second["step"] > first["step"]
    assert second["seconds"] > first["seconds"]
    (tmp_path / "home").mkdir()
    for name in ("run.json", "averaged.pt"):  # these are enough
        shutil.copy(tmp_path / name, tmp_path / "home")
    carried = load_run(tmp_path / "home")
    for a, b in zip(carried.model.parameters(), load_run(tmp_path).model.parameters(), strict=True):
        assert a.equal(b.half().float())
    assert carried.step == second["step"]


def test_a_run_too_short_for_a_look_at_the_loss_ends_with_one(small, file, tmp_path, capsys):
    result = train(file, tmp_path, minutes=1e-4, progress=True)
    assert 0 < result["loss"] < 100
    (entry,) = [e for e in load_run(tmp_path).log if e["kind"] == "train"]
    assert (entry["step"], entry["loss"]) == (result["step"], result["loss"])
    assert f"step {entry['step']}, loss" in capsys.readouterr().err


def test_systems_without_hydrogens_are_refused(small, file, tmp_path):
    with pytest.raises(ValueError, match="QM9 has no hydrogens to leave out"):
        train(file, tmp_path, name="CanonFlow-heavy")


@pytest.mark.slow
def test_molecular_graphs_go_along_with_their_bonds(small, tmp_path):
    parts = {k: perceive_bonds(small.part(k)[:40])[0] for k in ("train", "valid")}
    file = pack(replace(small, parts=parts, sha256="graphs"), tmp_path / "qm9.npz")
    got, expected = unpack(file).part("train"), parts["train"].trim()
    assert got.bonds.equal(expected.bonds)
    assert got.charges.equal(expected.charges)
    result = train(file, tmp_path / "run", name="CanonFlow", minutes=0.02)
    assert 0 < result["validation_loss"] < 10
    assert load_run(tmp_path / "run").sample(2, 3, seed=0).bonds is not None


@pytest.mark.slow
def test_torch_and_numpy_are_enough(file, tmp_path):
    block = "import sys\nnames = 'safetensors tqdm scipy rdkit matplotlib typer pydantic accelerate torch_geometric'\n"
    block += "for name in names.split():\n"
    block += "    sys.modules[name] = None\n"
    words = ["inertial+GDM", "--data", str(file), "--out", str(tmp_path / "run"), "--minutes", "0.05"]
    words += ["--scale", "laptop", "--set", "batch_size=4"]
    code = f"{block}sys.argv[1:] = {words}\nfrom canonkit.resident import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["step"] > 0
    assert 0 < result["validation_loss"] < 10
