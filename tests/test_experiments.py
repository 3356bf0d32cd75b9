"""The kit's own tables: rows are made anew, kept over a stop, and compared within their error."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from canonkit import experiments, figures
from canonkit.cli import app
from canonkit.experiments import (
    EXPERIMENTS,
    POSES,
    Experiment,
    experiment,
    rebuild,
    reproduce,
    results_table,
    stored,
    when_it_pays,
)
from canonkit.recipes.names import SYSTEMS
from canonkit.recipes.run import load_run

pytestmark = pytest.mark.slow

TINY = Experiment(
    "A tiny table",
    ("GDM-heavy", "DiT-heavy"),
    steps=2,
    settings={"batch_size": 8, "validate_every": 0, "sample_every": 0},
    seeds=(0, 1),
    samples=16,
    evaluations=2,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return folder, rebuild(TINY, "GDM", folder, progress=False)


def test_every_row_of_the_kits_tables_is_a_recipe():
    for of in EXPERIMENTS.values():
        assert set(of.recipes) <= SYSTEMS.keys()
        assert {r.get("row", r["recipe"]) for r in stored(of)} <= of.rows.keys()
        assert len(of.seeds) >= 3
    with pytest.raises(ValueError, match="did you mean Table 1|Table 1"):
        experiment("Tabel 1")
    with pytest.raises(ValueError, match="no row 'GMD'"):
        TINY.row("GMD")
    assert TINY.row("GDM") == TINY.row("GDM-heavy") == "GDM-heavy"


def test_a_row_has_one_evaluation_for_each_seed_and_says_where_it_is_from(made):
    folder, rows = made
    assert [r["seed"] for r in rows] == [0, 1]
    assert all(r["seen"] == 16 and r["molecules"] == 16 for r in rows)
    assert rows == stored(TINY, folder)
    assert {"data", "hardware", "date", "protocol", "hydrogens"} <= rows[0].keys()
    assert all(r["sampling_cpu_s"] > 0 for r in rows)
    (row, empty) = results_table(TINY, folder).rows
    assert row[:2] == ["GDM-heavy", "2"]
    assert "±" in row[2]
    assert empty[:3] == ["DiT-heavy", "0", "not measured"]


def test_what_is_done_is_not_done_again(made, monkeypatch):
    folder, rows = made
    monkeypatch.setattr(experiments, "train_recipe", None)
    assert rebuild(TINY, "GDM-heavy", folder, progress=False) == rows


def test_a_run_that_was_interrupted_is_no_row(made, tmp_path, monkeypatch):
    folder, _ = made
    half = load_run(folder / TINY.file.removesuffix(".json") / "GDM-heavy-0")
    monkeypatch.setattr(experiments, "train_recipe", lambda *_, **__: half)
    with pytest.raises(KeyboardInterrupt):
        rebuild(replace(TINY, steps=3), "GDM", tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.json"))


def test_the_same_seed_agrees_and_a_changed_row_does_not(made, tmp_path):
    folder, rows = made
    same = reproduce(TINY, "GDM", folder, seed=0, progress=False)
    assert same.complete
    assert same.measured["validation_loss"] == rows[0]["validation_loss"]
    file = tmp_path / TINY.file
    file.write_text(json.dumps([r | {"validation_loss": 10 * r["validation_loss"]} for r in rows]))
    (tmp_path / "a-tiny-table").symlink_to(folder / "a-tiny-table")
    other = reproduce(TINY, "GDM", tmp_path, seed=0, progress=False)
    assert other.agrees is False
    assert "validation loss" in str(other)


def test_a_row_that_is_not_stored_cannot_be_compared(tmp_path):
    with pytest.raises(ValueError, match="0 runs of DiT-heavy"):
        reproduce(TINY, "DiT", tmp_path)


def test_a_table_of_images_has_their_errors_and_the_published_ones(tmp_path):
    tiny = Experiment(
        "Tiny digits",
        ("UNet", "canon(p16)+UNet"),
        steps=1,
        settings={"one_cycle": 10, "batch_size": 4, "validate_every": 0},
        seeds=(0,),
        samples=8,
        scale="published",
    )
    (row,) = rebuild(tiny, "UNet", tmp_path, progress=False)
    assert (row["test_images"], row["scale"], row["seen"]) == (8, "published", 4)
    first, empty = results_table(tiny, tmp_path).rows
    assert first[:4] == ["UNet", ".0312", "1", f"{row['denoising_error']:.4f}"]
    assert empty[:4] == ["canon(p16)+UNet", ".0255", "0", "not measured"]
    with pytest.raises(ValueError, match="1 runs of UNet"):
        reproduce(tiny, "UNet", tmp_path)


PAYS = EXPERIMENTS["When does canonical form pay"]
SMALL_PAYS = replace(
    PAYS,
    steps=2,
    settings={"batch_size": 8, "validate_every": 1, "sample_every": 1, "samples": 4, "sample_steps": 2},
    sizes=(16, 64),
    seeds=(0, 1),
)


def test_three_networks_in_three_poses_train_on_the_first_so_many_molecules(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, PAYS.title, SMALL_PAYS)
    assert len(SMALL_PAYS.rows) == 2 * (3 + 3 + 1)
    for row, (_, size) in SMALL_PAYS.rows.items():
        if size == 16:
            (found,) = rebuild(SMALL_PAYS, row, tmp_path, seeds=[0], progress=False)
            assert (found["train"], found["seen"], list(found["at"])) == (16, 16, ["8", "16"])
    rebuild(SMALL_PAYS, "Flow-EGNN-64", tmp_path, progress=False)
    table = {row[0]: row for row in results_table(SMALL_PAYS, tmp_path).rows}
    assert list(table) == list(SMALL_PAYS.rows)
    assert [table[f"Flow-{n}-heavy-64"][1] for n in ("EGNN", "PairDiT")] == ["2", "0"]
    assert "±" in table["Flow-EGNN-heavy-64"][-1]
    again = reproduce(SMALL_PAYS, "Flow-EGNN-64", tmp_path, seed=1, progress=False)
    assert [name for name, *_ in again.rows][-1] == "loss"
    (row,) = (r for r in stored(SMALL_PAYS, tmp_path) if (r["row"], r["seed"]) == ("Flow-EGNN-heavy-64", 1))
    assert again.measured["at"]["16"]["loss"] == row["at"]["16"]["loss"]


def test_the_command_makes_what_is_missing_and_no_more(made, monkeypatch):
    folder, _ = made
    asked = []
    monkeypatch.setitem(EXPERIMENTS, TINY.title, TINY)
    monkeypatch.setattr(experiments, "rebuild", lambda of, row, folder, seeds, progress: asked.append((row, *seeds)))
    done = CliRunner().invoke(app, ["results", TINY.title, "--rebuild", "missing", "--folder", str(folder)])
    assert done.exit_code == 0
    assert asked == [("DiT-heavy", 0), ("DiT-heavy", 1)]


def test_the_figure_of_poses_draws_what_is_stored_and_names_what_is_not(monkeypatch):
    names, shares = next(iter(POSES.values())), {"as stored": (0.2, 0.4), "canonical": (0.6, 0.6)}
    rows = [
        {
            "recipe": names[pose],
            "seed": seed,
            "at": {"128": {"molecule_stable": 0.0}, "256": {"molecule_stable": share}},
        }
        for pose, both in shares.items()
        for seed, share in enumerate(both)
    ]
    monkeypatch.setattr(experiments, "stored", lambda *_: rows)
    figure = figures.when_it_pays(when_it_pays())
    above, below = figure.axes[0], figure.axes[len(POSES)]
    for ax, expected in ((above, [30, 60]), (below, [0, 30, 0, 60])):
        drawn = [float(y) for line in ax.lines if line.get_marker() in "osD" for y in line.get_ydata()]
        assert drawn == pytest.approx(expected)
    said = figure.get_supxlabel().replace("\n", " ")
    assert "Canon at random (1,000, 10,000, all)" in said
    assert "Canon canonical (1,000, 10,000)" in said
