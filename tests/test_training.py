import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import lively
from safetensors.torch import load_file

import canonkit as ck
from canonkit.chemistry.bonds import perceive_bonds
from canonkit.data.qm9 import FORM, LONGEST
from canonkit.randomness import seeded
from canonkit.recipes.names import SYSTEMS, recipe
from canonkit.recipes.recipe import Recipe
from canonkit.training import (
    Prepared,
    Settings,
    State,
    checkpoint,
    machine,
    one_step,
    read_card,
    read_log,
    train,
    validate,
)
from canonkit.training.checkpoint import read_checkpoint, write_checkpoint
from canonkit.training.loop import Cost, Streams, _announce, part
from canonkit.training.machine import fast_dtype
from canonkit.training.step import clip

SMALL = Settings(
    batch_size=16, lr=1e-3, canonicalizer_lr=1e-4, ema=0.99, log_every=5, validate_every=10, sample_every=20, samples=4,
    sample_steps=5, precision="float32",
)  # fmt: skip


def small_model(qm9, canonicalizer="frame"):
    settings = {"width": 8, "layers": 1} if canonicalizer == "frame" else {}
    small = Recipe("test", "test", canonicalizer, settings, network_settings={"width": 16, "layers": 1}, settings=SMALL)
    return small.build(torch.bincount(qm9.part("train").sizes, minlength=LONGEST + 1))


def small_train(qm9, out, steps=20, model=None, **options):
    options = {
        "progress": False,
        "device": "cpu",
        "settings": SMALL,
    } | options
    settings = options.pop("settings")
    model = model or small_model(qm9)
    prepared = Prepared(model, qm9.part("train")[:200], qm9.part("valid")[:32], settings, measure=FORM.measure)
    return train(prepared, out, steps=steps, **options)


def same(a, b):
    a, b = (load_file(p / "checkpoint.safetensors") if isinstance(p, Path) else p.state_dict() for p in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Trains in a process of its own, so that it can be killed or be one of several.
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import test_training as t
from canonkit.data.qm9 import load_qm9
t.small_train(load_qm9(progress=False), sys.argv[1], steps=int(sys.argv[2]), resume=True, checkpoint_seconds=0.02)
"""


def start(out, steps, **environment):
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", script, str(out), str(steps)], env=os.environ | environment)


@pytest.mark.slow
def test_a_run_killed_at_three_random_moments_ends_with_the_same_weights(tmp_path):
    steps = 400
    whole = start(tmp_path / "whole", steps)
    assert whole.wait(300) == 0
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"

    def written():
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    for _ in range(3):
        before = written()
        process = start(tmp_path / "killed", steps)
        while process.poll() is None and written() == before:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        assert process.poll() is None, "finished before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "killed", steps).wait(300) == 0
    assert same(tmp_path / "killed", tmp_path / "whole")
    logged = [(e["kind"], e["step"]) for e in read_log(tmp_path / "killed")]
    assert logged == [(e["kind"], e["step"]) for e in read_log(tmp_path / "whole")]


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(tmp_path):
    port = str(random.randint(20_000, 40_000))
    both = [
        start(
            tmp_path / "two", 10, RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port, ACCELERATE_USE_CPU="true",
            OMP_NUM_THREADS="1",
        )
        for r in range(2)
    ]  # fmt: skip
    assert [p.wait(300) for p in both] == [0, 0]
    assert start(tmp_path / "one", 10).wait(300) == 0
    one, two = (load_file(tmp_path / k / "checkpoint.safetensors") for k in ("one", "two"))
    assert one.keys() == two.keys()
    for k in one:
        # Some biases cancel exactly (the mean is removed), so that AdamW scales up the rounding of their gradient.
        if k.startswith(("model/network", "ema/network")) and k.endswith("weight"):
            torch.testing.assert_close(one[k], two[k], rtol=1e-4, atol=1e-6)
    one, two = ([e["loss"] for e in read_log(tmp_path / k) if e["kind"] == "valid"] for k in ("one", "two"))
    assert len(one) == 1
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.slow
def test_a_truncated_checkpoint_is_noticed_and_the_one_before_it_used(qm9, tmp_path, capsys):
    small_train(qm9, tmp_path / "whole")
    small_train(qm9, tmp_path / "cut", steps=10)
    small_train(qm9, tmp_path / "cut", steps=15, resume=True)
    path = tmp_path / "cut" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    small_train(qm9, tmp_path / "cut", resume=True)
    assert "damaged" in capsys.readouterr().out
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_logs_hold_loss_terms_validation_and_stability(qm9, tmp_path):
    seen = []
    small_train(qm9, tmp_path, monitor=lambda entries: seen.append(len(entries)))
    log = read_log(tmp_path)
    kinds = [e["kind"] for e in log]
    assert (kinds.count("train"), kinds.count("valid"), kinds.count("sample")) == (4, 2, 1)
    assert seen == list(range(1, 8))
    first = log[0]
    terms = ("positions", "types", "numbers", "reconstruction")
    assert first["loss"] == pytest.approx(sum(first[k] for k in terms), rel=1e-5)
    assert first["seen"] == first["step"] * SMALL.batch_size


def test_training_lowers_the_validation_loss(qm9, tmp_path):
    model = small_model(qm9, "inertial")
    before = validate(model, qm9.part("valid")[:64])
    after = validate(small_train(qm9, tmp_path, steps=60, model=model), qm9.part("valid")[:64])
    assert after["loss"] < 0.9 * before["loss"]
    assert validate(model, qm9.part("valid")[:64]) == validate(model, qm9.part("valid")[:64])


def test_the_learned_canonicalizer_moves_at_its_own_rate_and_the_frozen_one_not_at_all(qm9):
    model = small_model(qm9)
    state = State(model, SMALL)
    assert [g["lr"] for g in state.groups] == [1e-3, 1e-4]
    before = [p.clone() for p in model.canonicalizer.parameters()]
    one_step(state, model, qm9.molecules[1000:1016].trim())
    moved = [float((p - q).detach().abs().max()) for p, q in zip(model.canonicalizer.parameters(), before, strict=True)]
    assert 0 < max(moved) < 2e-4
    frozen = recipe("canon(fr)+GDM").build(torch.ones(30))
    assert len(State(frozen, SMALL).groups) == 1


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(qm9):
    model = recipe("Flow+transport").build(torch.bincount(qm9.part("train").sizes, minlength=30))
    state = State(model, recipe("Flow+transport", muon_lr=2e-3).settings)
    assert list(state.optimizers) == ["optimizer", "muon"]
    adamw, muon = (
        {id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in state.optimizers.values()
    )
    assert not adamw & muon
    assert adamw | muon == {id(p) for p in model.parameters()}
    assert muon == {id(p) for p in model.network.blocks.parameters() if p.ndim == 2}
    graph = small_model(qm9)
    muon = State(graph, recipe("GDM", muon_lr=2e-3).settings).optimizers["muon"].param_groups[0]["params"]
    # Attention has one row: nothing to make orthogonal.
    assert {tuple(p.shape) for p in muon} == {
        tuple(p.shape) for p in graph.network.layers.parameters() if min(p.shape) > 1 and p.ndim == 2
    }
    with pytest.raises(ValueError, match="UNet has no blocks for Muon"):
        State(recipe("UNet").build(torch.ones(2, dtype=torch.long)), recipe("UNet", muon_lr=2e-3).settings)


@pytest.mark.slow
def test_a_run_with_muon_that_was_resumed_has_the_weights_of_one_that_was_not(qm9, tmp_path):
    data, valid = qm9.part("train")[:200], qm9.part("valid")[:8]
    settings = recipe("Flow+transport", validate_every=0, sample_every=0, batch_size=8, warmup=2).settings
    assert settings.muon_lr
    for folder, parts in (("whole", [6]), ("parts", [2, 3, 6])):
        for k, steps in enumerate(parts):
            model = recipe("Flow+transport").build(torch.bincount(data.sizes, minlength=30))
            prepared = Prepared(model, data, valid, settings)
            train(prepared, tmp_path / folder, steps=steps, resume=k > 0, progress=False)
    assert same(tmp_path / "parts", tmp_path / "whole")


def test_clipping_follows_the_last_fifty_norms():
    norms, seen = torch.zeros(50), []
    generator = np.random.default_rng(0)
    for k in range(120):
        p = torch.nn.Parameter(torch.zeros(3))
        p.grad = torch.tensor([0.0, 0.0, float(np.exp(generator.normal()))]) * (20 if k % 30 == 29 else 1)
        norm = float(p.grad.norm())
        allowed = 1.5 * np.mean(seen[-50:]) + 2 * np.std(seen[-50:]) if seen else np.inf
        assert float(clip([p], norms, torch.tensor(k))) == pytest.approx(norm, rel=1e-5)
        assert float(p.grad.norm()) == pytest.approx(min(norm, allowed), rel=1e-4)
        seen.append(min(norm, allowed))


def test_the_same_seed_gives_all_rows_of_gdm_the_same_initial_network():
    states = [
        recipe(n).build(torch.ones(30)).network.state_dict()
        for n, s in SYSTEMS.items()
        if s.network == "GNN" and s.data == "QM9"
    ]
    assert all(torch.equal(s[k], states[0][k]) for s in states for k in s)


def test_paper_scale_has_the_published_settings():
    model = recipe("canon+GDM", "paper").build(torch.ones(30))
    assert sum(p.numel() for p in model.network.parameters()) == 3_555_859
    s = recipe("canon+GDM", "paper").settings
    assert (s.batch_size, s.lr, s.canonicalizer_lr, s.weight_decay, s.ema) == (64, 1e-4, 1e-6, 1e-12, 0.9999)
    assert recipe("GDM-aug", "paper").settings.augment


@pytest.mark.slow
def test_a_recipe_is_trained_found_again_and_sampled(qm9, tmp_path):
    options = {"data": qm9, "progress": False, "device": "cpu", "validate_every": 0}
    run = ck.train("inertial+GDM", tmp_path, steps=2, **options)
    again = ck.load_run(tmp_path)
    assert same(run.model, again.model)
    assert again.provenance()["seen"] == 128
    one, two = (again.sample(6, 4, seed=3).positions for _ in range(2))
    assert torch.equal(one, two)
    assert json.loads((tmp_path / "run.json").read_text())["data"]["sha256"] == qm9.sha256


def test_a_run_ends_with_a_measurement_however_short_it_is(qm9, tmp_path):
    small_train(qm9, tmp_path, steps=3)
    assert [(e["kind"], e["step"]) for e in read_log(tmp_path)] == [("train", 3), ("valid", 3), ("sample", 3)]


def test_logged_losses_are_means_also_after_a_resumption(qm9, tmp_path):
    small_train(qm9, tmp_path / "by one", steps=10, settings=replace(SMALL, log_every=1))
    each = {e["step"]: e["loss"] for e in read_log(tmp_path / "by one") if e["kind"] == "train"}
    for steps in (7, 10):
        small_train(qm9, tmp_path / "by five", steps=steps, resume=True)
    for entry in read_log(tmp_path / "by five"):
        if entry["kind"] == "train":
            begin = {5: 1, 7: 6, 10: 8}[entry["step"]]
            expected = sum(each[k] for k in range(begin, entry["step"] + 1)) / (entry["step"] + 1 - begin)
            assert entry["loss"] == pytest.approx(expected, rel=1e-4)


def test_sampling_draws_sizes_from_the_training_set_and_keeps_their_order(qm9):
    model = small_model(qm9)
    sizes = model.sample_sizes(20_000, torch.Generator().manual_seed(0))
    share = (qm9.part("train").sizes == 18).double().mean()
    assert abs(float((sizes == 18).double().mean()) - float(share)) < 0.02
    assert model.sample(sizes=torch.tensor([9, 3, 12]), steps=2, batch_size=2).sizes.tolist() == [9, 3, 12]


def test_sampling_batches_grow_as_molecules_shrink_and_cover_all(qm9, monkeypatch):
    model = small_model(qm9)
    sizes = model.sample_sizes(3_000, torch.Generator().manual_seed(0))
    monkeypatch.setattr("canonkit.model.SAMPLING_MEMORY", 100 * model.network.sampling_bytes(18))
    batches = model._batches(sizes, None)
    assert torch.cat(batches).sort().values.equal(torch.arange(3_000))
    for rows in batches:
        assert len(rows) * model.network.sampling_bytes(int(sizes[rows].max())) <= 100 * model.network.sampling_bytes(
            18
        )
    assert len(batches[1]) > 2 * len(batches[-1])
    monkeypatch.setattr("canonkit.model.SAMPLING_MEMORY", 1)
    assert len(model._batches(sizes, None)) == 3_000


def test_interrupted_sampling_keeps_what_is_done(qm9):
    model = small_model(qm9)
    sizes, calls = torch.tensor([9, 3, 12, 5]), []

    def interrupt(module, inputs):
        calls.append(inputs)
        if len(calls) > 4:
            raise KeyboardInterrupt

    whole = model.sample(sizes=sizes, steps=3, seed=0, batch_size=2)
    model.network.register_forward_pre_hook(interrupt)
    with pytest.warns(UserWarning, match="2 of 4 samples are done"):
        part = model.sample(sizes=sizes, steps=3, seed=0, batch_size=2)
    assert part.sizes.tolist() == [3, 5]
    assert part.positions.equal(whole[[1, 3]].trim().positions)
    with pytest.raises(KeyboardInterrupt):
        model.sample(sizes=sizes, steps=3)


def test_what_is_only_measured_may_change_when_a_run_goes_on(qm9, tmp_path):
    small_train(qm9, tmp_path / "whole", steps=10)
    small_train(qm9, tmp_path / "cut", steps=5)
    measured = replace(SMALL, log_every=1, validate_every=0, sample_every=2, samples=2, sample_steps=3)
    small_train(qm9, tmp_path / "cut", steps=10, resume=True, settings=measured)
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["settings"]["sample_every"] == 2


def test_randomized_samples_are_the_canonical_ones_turned_and_reordered(qm9):
    model = small_model(qm9)
    canonical, turned = (model.sample(3, 3, seed=1, randomize=r) for r in (False, True))
    assert not torch.allclose(canonical.positions, turned.positions, atol=1e-3)
    assert torch.equal(canonical.mask, turned.mask)
    for a, b in zip(canonical, turned, strict=True):
        torch.testing.assert_close(*(m.distances().flatten().sort().values for m in (a, b)), rtol=1e-4, atol=1e-4)
        assert sorted(a.types[0].tolist()) == sorted(b.types[0].tolist())
    assert not torch.equal(canonical.types, turned.types)


def test_bad_requests_are_refused_with_a_remedy(qm9, tmp_path):
    with pytest.raises(ValueError, match="minutes or steps"):
        small_train(qm9, tmp_path, steps=None)
    small_train(qm9, tmp_path, steps=2)
    with pytest.raises(FileExistsError, match="--resume"):
        small_train(qm9, tmp_path)
    with pytest.raises(
        ValueError, match=r"run\.json was started with settings lr = 0\.001, not 0\.002: use another folder"
    ):
        small_train(qm9, tmp_path, settings=replace(SMALL, lr=2e-3, samples=9), resume=True)
    with pytest.raises(ValueError, match="'GMD': did you mean 'GDM'"):
        recipe("GMD")
    with pytest.raises(ValueError, match="'learning_rate'"):
        recipe("GDM", learning_rate=1.0)
    with pytest.raises(FileNotFoundError, match="no run"):
        ck.load_run(tmp_path / "nothing")


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(qm9, tmp_path):
    model = small_model(qm9)
    with torch.no_grad():
        model.network.out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 5"):
        small_train(qm9, tmp_path, model=model)


def test_weights_that_are_not_finite_are_never_saved(qm9, tmp_path):
    quiet = replace(SMALL, log_every=0, validate_every=0, sample_every=0)
    small_train(qm9, tmp_path, steps=3, settings=quiet)
    good, model = (tmp_path / "checkpoint.safetensors").read_bytes(), small_model(qm9)
    state = State(model, quiet)
    state.restore(tmp_path)
    with torch.no_grad():
        model.network.out.bias.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"network\.out\.bias is not finite at step 3.*from before"):
        state.save(tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == good
    huge = replace(quiet, lr=10.0, clip=1e9)
    bad = small_model(qm9)
    with torch.no_grad():
        bad.network.out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite at step 2"):
        small_train(qm9, tmp_path / "new", steps=2, model=bad, settings=huge)
    assert not list((tmp_path / "new").glob("*.safetensors"))


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


def test_any_flipped_bit_of_a_checkpoint_is_noticed(tmp_path):
    tensors = {"model/a": torch.arange(6.0).reshape(2, 3), "ema/a": torch.ones(3, dtype=torch.bfloat16)}
    tensors |= {"clip": torch.zeros(4), "count": torch.tensor(3)}
    for write in (write_checkpoint, _write_with_torch):
        write(tmp_path, tensors, {"step": 3, "seconds": 1.5})
        (path,) = tmp_path.glob("checkpoint.*")
        for at in range(path.stat().st_size):
            flipped(path, at)
            for prefix in ("", "ema/"):
                try:
                    found = read_checkpoint(tmp_path, prefix)
                except ValueError as error:
                    assert "checkpoint" in str(error)  # noqa: PT017 (most flips are noticed, some change nothing)
                    continue
                assert found[1] == {"step": 3, "seconds": 1.5}
                assert found[0].keys() == {k for k in tensors if k.startswith(prefix)}
                assert all(torch.equal(v, tensors[k]) for k, v in found[0].items())
            flipped(path, at)
        path.unlink()


def _write_with_torch(folder, tensors, counters):
    checkpoint.write_tensors(folder / "checkpoint.pt", tensors, counters)


def test_where_both_checkpoints_are_damaged_training_stops_and_touches_nothing(qm9, tmp_path):
    for steps in (5, 10):
        small_train(qm9, tmp_path, steps=steps, resume=True)
    paths = [tmp_path / f"{name}.safetensors" for name in ("checkpoint", "previous")]
    for path in paths:
        flipped(path, -100)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors.*previous\.safetensors.*to begin anew, move"):
        small_train(qm9, tmp_path, steps=15, resume=True)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    flipped(paths[1], -100)
    small_train(qm9, tmp_path, steps=15, resume=True)
    small_train(qm9, tmp_path / "whole", steps=15)
    assert same(tmp_path, tmp_path / "whole")
    assert (tmp_path / "damaged-checkpoint.safetensors").exists()


def test_a_run_file_that_says_something_else_than_was_written_is_named(qm9, tmp_path):
    small_train(qm9, tmp_path, steps=2)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"weight_decay": 1e-12', '"weight_decay": 1e-11'))
    with pytest.raises(ValueError, match=r"run\.json does not say what was written"):
        small_train(qm9, tmp_path, steps=3, resume=True)


def test_the_log_of_a_run_that_was_killed_is_that_of_one_that_was_not(qm9, tmp_path, monkeypatch):
    """It dies in the midst of what a line of the log is the mean of."""
    small_train(qm9, tmp_path / "whole")

    def die(self):
        if self.state.step == 18:
            raise MemoryError
        return step(self)

    step = Streams.__call__
    monkeypatch.setattr(Streams, "__call__", die)
    with pytest.raises(MemoryError):
        small_train(qm9, tmp_path / "killed", checkpoint_seconds=0.0)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "killed")[1]["step"] == 18
    small_train(qm9, tmp_path / "killed", resume=True)
    whole, killed = ([e | {"seconds": 0} for e in read_log(tmp_path / k)] for k in ("whole", "killed"))
    assert whole == killed
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_a_signal_cuts_measuring_short_and_what_was_cut_is_measured_when_the_run_goes_on(qm9, tmp_path):
    small_train(qm9, tmp_path / "whole")
    calls = []

    def measure(samples):
        calls.append(samples)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    prepared = Prepared(small_model(qm9), qm9.part("train")[:200], qm9.part("valid")[:32], SMALL, measure=measure)
    train(prepared, tmp_path / "cut", steps=20, progress=False, device="cpu")
    assert len(calls) == 1
    assert [e["kind"] for e in read_log(tmp_path / "cut")].count("sample") == 0
    small_train(qm9, tmp_path / "cut", resume=True)
    whole, cut = ([e | {"seconds": 0} for e in read_log(tmp_path / k)] for k in ("whole", "cut"))
    assert whole == cut


def test_rates_rise_stay_and_fall():
    rate = Settings(warmup=4, cool_from=10, cool_to=20).rate
    assert [rate(k) for k in (0, 1, 3, 9, 10, 15, 19, 20, 25)] == [0.25, 0.5, 1, 1, 1, 0.5, 0.1, 0, 0]
    assert Settings().rate(10**9) == 1


def test_the_one_cycle_policy_is_torchs():
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=100, pct_start=0.25)
    settings = Settings(one_cycle=100)
    for k in range(100):
        assert settings.rate(k) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if k < 99:
            theirs.step()
    assert settings.rate(1000) == settings.rate(99)


def test_cards_and_run_files_of_earlier_versions_are_read_under_their_present_names(tmp_path):
    made = recipe("CanonFlow-heavy").card("0" * 64, 10, torch.ones(10))
    old = json.loads(json.dumps(made | {"hardware": "a laptop", "torch": "2.6"}))
    del old["recipe"]["own"]
    old["recipe"] |= {"data": "QM9", "hydrogens": "by rule"}
    old["data"]["name"] = "QM9"
    flow = old["recipe"]["flow"]
    flow["guessing"] = flow.pop("self_conditioning")
    (tmp_path / "run.json").write_text(json.dumps(old))
    read = Recipe.from_card(read_card(tmp_path / "run.json"))
    assert read == recipe("CanonFlow-heavy")
    assert read.form.heavy


def test_checkpoints_that_torch_wrote_are_read(qm9, tmp_path):
    """Those of a machine without safetensors, and of the loop on a GPU in earlier versions."""
    small_train(qm9, tmp_path, steps=3)
    tensors = load_file(tmp_path / "checkpoint.safetensors")
    torch.save({"tensors": tensors, "counters": {"step": 3, "seconds": 1.0}}, tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.safetensors").rename(tmp_path / "elsewhere")
    one, two = (State(small_model(qm9), SMALL) for _ in range(2))
    assert one.restore(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "checkpoint.safetensors")
    assert two.restore(tmp_path)
    assert all(torch.equal(v, two.tensors()[k]) for k, v in one.tensors().items())
    assert one.step == int(one.count) == 3


def test_resident_training_refuses_what_it_does_not_know(qm9, tmp_path):
    with pytest.raises(ValueError, match="fall is a share of the minutes of resident training"):
        small_train(qm9, tmp_path, fall=0.3)
    cooled = replace(SMALL, cool_from=2, cool_to=4, validate_every=2, sample_every=4)
    small_train(qm9, tmp_path, steps=4, settings=cooled, resident=True)
    assert [(e["kind"], e["step"]) for e in read_log(tmp_path)] == [
        ("valid", 2), ("train", 4), ("valid", 4), ("sample", 4)
    ]  # fmt: skip


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("world", [2, 7])
@pytest.mark.parametrize("name", ["GDM", "canon+GDM", "SymDiff", "CanonFlow"])
def test_the_mean_gradient_of_several_processes_is_that_of_one(qm9, name, world, dtype, bound):
    """To the rounding of sums in another order, also with fewer molecules than processes."""
    chosen = recipe(name)
    model = lively(chosen.build(torch.bincount(qm9.part("train").sizes, minlength=30)).to(dtype), scale=0.05)
    x = qm9.part("train")[:5].to(dtype)
    x = perceive_bonds(x)[0] if chosen.graphs else x
    x = x if model.learned else model.canonical(x)
    draw = model.process.draw(x, torch.Generator().manual_seed(0))

    def gradient(rank, world):
        model.zero_grad(set_to_none=True)
        with seeded(1), part(model.process, x, draw, rank, world) as (mine, drawn, share):
            (model(mine, drawn).total * share).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient(0, 1)
    mean = sum(gradient(rank, world) for rank in range(world)) / world
    torch.testing.assert_close(mean, whole, rtol=bound, atol=bound * float(whole.abs().max()))
    assert float(whole.norm()) > 0


def test_training_says_beforehand_what_the_published_budget_would_take(capsys):
    chosen = recipe("GDM", "paper")
    state = SimpleNamespace(step=0, seconds=0.0, settings=chosen.settings, device=torch.device("cpu"))
    for published in (chosen.steps, None):
        _announce(Cost(2.0, 128.0, 1.0), state, 1.0, None, 100_000, None, 0.0, published)
        said = capsys.readouterr().out
        assert "1 minutes to go, to about step 120 " in said
        assert ("4,689,000 steps, as published, would take 651 hours here" in said) == (published is not None)


@pytest.mark.parametrize(
    ("amx", "vendor", "faster"),
    [(False, "GenuineIntel", False), (True, "GenuineIntel", True), (False, "AuthenticAMD", True), (False, None, False)],
)
def test_bfloat16_is_taken_where_the_processor_is_faster_with_it(monkeypatch, amx, vendor, faster):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(machine, "_cpu", lambda entry: vendor)
    assert fast_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if faster else None)
    assert fast_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
