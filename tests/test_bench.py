"""The benchmark compares like with like. How fast it is, it measures; that is no test."""

import pytest
import torch

from canonkit.bench import (
    bench_images,
    bench_qm9,
    bench_sampling,
    bench_scaling,
    bench_systems,
    describe,
    describe_images,
    describe_sampling,
    describe_scaling,
    describe_systems,
    sampling,
    scaling,
)
from canonkit.bench.molecules import KINDS, Case
from canonkit.bench.scaling import chains
from canonkit.data.qm9 import LONGEST
from canonkit.releases import cards

SPEED = {"network", "batch", "what", "reference_s", "ours_s", "ratio", "reference_mb", "ours_mb"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GDM", "EDM", "MC-EGNN", "DiT"])
def test_both_formulations_compute_the_same(sample, name):
    case = Case(name, torch.device("cpu"))
    case.net.double()
    molecules = sample[:4].to(torch.float64)
    one, two, mask = case.inputs(molecules.pad(LONGEST))
    ours, theirs = case.ours(one, two.double(), mask), case.reference(one, two.double(), mask)
    if name != "MC-EGNN":
        ours, theirs = (ours,), (theirs,)
    for a, b in zip(ours, theirs, strict=True):
        real = mask.view(*mask.shape, *[1] * (a.ndim - 2))
        assert ((a - b) * real).norm() / (b * real).norm() < 1e-11  # DiT's exponents reach 2,000


@pytest.mark.slow
def test_bench_has_a_row_per_case_with_speed_memory_and_error():
    rows = bench_qm9(1, batches=(16,), networks=("MC-EGNN",), progress=False)
    assert [(r["network"], r["batch"], r["what"]) for r in rows] == [("MC-EGNN", 16, k) for k in KINDS]
    for row in rows:
        assert row.keys() >= SPEED
        assert row["ratio"] == pytest.approx(row["reference_s"] / row["ours_s"])
        assert 0 < row["floor_s"] < row["ours_s"]
        assert row["reference_mb"] > row["ours_mb"] > 0
        assert 0 < row["error"] < 1e-5
    assert "MC-EGNN" in describe(rows)


@pytest.mark.slow
def test_bench_of_image_canonicalizers_has_a_pair_of_rows_per_order():
    rows = bench_images(1, orders=(8,), progress=False)
    assert [(r["canonicalizer"], r["order"]) for r in rows] == [("gcnn", 8), ("copies", 8)]
    gcnn, copies = rows
    assert copies["step_ratio"] == pytest.approx(gcnn["step_s"] / copies["step_s"])
    assert all(0 <= r["followed"] <= 1 and r["forward_s"] > 0 for r in rows)
    assert "copies" in describe_images(rows)


@pytest.mark.slow
def test_bench_of_systems_has_a_row_per_system():
    rows = bench_systems(1, systems=("DiT", "SymDiff"), progress=False)
    assert [r["system"] for r in rows] == ["DiT", "SymDiff"]
    assert rows[0]["parameters"] < rows[1]["parameters"]
    assert all(r["step_s"] > r["evaluation_s"] > 0 for r in rows)
    assert "SymDiff" in str(describe_systems(rows))


def test_bench_of_sampling_compares_with_the_published_formulation(monkeypatch):
    monkeypatch.setattr(sampling, "BATCH", 3)
    monkeypatch.setattr(sampling, "STEPS", (2,))
    rows = bench_sampling(1, names=("CanonFlow", "DiT"), progress=False)
    edm, flow, diffusion = rows
    assert (edm["steps"], edm["stable"], edm["stable_from"], edm["ratio"]) == (1001, 0.82, "published", 1)
    assert (flow["steps"], flow["stable_from"]) == (2, "3 samples")
    assert flow["ratio"] == pytest.approx(edm["seconds"] / flow["seconds"])
    card = cards()["DiT"]["evaluation"]
    assert (diffusion["steps"], diffusion["stable_from"]) == (card["steps"], "its card")
    assert diffusion["stable"] == card["molecule_stable"]
    assert edm["seconds_per_stable"] == pytest.approx(edm["seconds"] / 0.82)
    assert "EDM, plain" in describe_sampling(rows)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="no weights of QM9 are called 'UNet'"):
        bench_sampling(1, names=("UNet",), progress=False)
    with pytest.raises(ValueError, match="repeat 0"):
        bench_qm9(0)
    with pytest.raises(ValueError, match="repeat 0"):
        bench_images(0)
    with pytest.raises(ValueError, match="repeat 0"):
        bench_systems(0)
    with pytest.raises(ValueError, match="'GMD'"):
        bench_qm9(networks=("GMD",))
    with pytest.raises(ValueError, match="'UNet'"):
        bench_systems(systems=("UNet",))


@pytest.mark.slow
def test_bench_of_scaling_has_rows_by_atoms_and_its_memory_grows_with_pairs():
    rows = bench_scaling(1, systems=("CanonFlow", "EDM, plain"), atoms=(9, 60), batch=4, progress=False)
    assert [(r["system"], r["atoms"], r["what"], r["batch"]) for r in rows] == [
        (s, n, what, 4) for n in (9, 60) for s in ("CanonFlow", "EDM, plain") for what in ("evaluation", "train_step")
    ]
    step = {(r["system"], r["atoms"]): r["mb"] for r in rows if r["what"] == "train_step"}
    assert step["EDM, plain", 60] > 4 * step["CanonFlow", 60]
    assert "EDM, plain" in describe_scaling(rows)


def test_an_evaluation_that_is_worked_off_in_parts_counts_once(monkeypatch):
    monkeypatch.setattr("canonkit.networks.canon.AT_ONCE", 1)
    monkeypatch.setattr(scaling, "_seconds", lambda call, device: (call(), 1e-3)[1])
    row = next(r for r in scaling._measure("CanonFlow", "laptop", 9, 4, 1) if r["what"] == "evaluation")
    assert row["batch"] == 4
    assert row["seconds"] == pytest.approx(1e-3 / scaling.EVALUATIONS / 4)


def test_bench_of_scaling_refuses_unknown_systems():
    with pytest.raises(ValueError, match="no system is called 'GMD': did you mean 'GDM'"):
        bench_scaling(1, systems=("GMD",))
    with pytest.raises(ValueError, match="repeat 0 is below 1"):
        bench_scaling(0)


def test_made_up_molecules_are_chains_that_every_system_takes():
    x = chains(3, 20)
    assert x.bonds.sum((1, 2)).tolist() == [38] * 3
    assert x.check() is x
    assert x.centroid().abs().max() < 1e-5
