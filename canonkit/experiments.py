"""The kit's own tables: what each row is trained on and measured by, and how to make it again.

A row is a recipe trained with some seeds, on all training samples or on the first so many, and equally many are seen.
What was measured of it is stored beside the weights: one evaluation for each seed, with its provenance. `rebuild` makes
a row anew; `reproduce` trains one model and says whether it agrees with the stored row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from canonkit.described import parsed, unsealed
from canonkit.names import choose
from canonkit.recipes.names import SYSTEMS
from canonkit.recipes.recipe import FORMS
from canonkit.recipes.run import Run
from canonkit.results import (
    PUBLISHED_ROTMNIST,
    ablation_table,
    by_recipe,
    evaluate_ablation,
    evaluate_denoising,
    evaluate_run,
    origin,
    read_rows,
    row_name,
    save_evaluation,
    save_rows,
    spread,
)
from canonkit.tables import Table
from canonkit.trainer import train_recipe
from canonkit.training import is_finished

FOLDER = Path("runs/results")
SHARES = {"molecule_stable": "mol %", "atom_stable": "atom %", "valid": "valid %", "unique": "unique %"}


@dataclass(frozen=True)
class Experiment:
    """A table's rows, and how each of them is trained and measured.

    Args:
        title: what the table is called.
        recipes: what is trained.
        steps: of training.
        settings: of training, the same for all rows.
        seeds: of which each trains a model.
        samples, evaluations: how many samples are measured, and network evaluations for each; of images, how many of
            the test images, and nothing. Where the settings say `sample_every`, it is measured while training.
        scale: of the recipes.
        sizes: of the training set, each a row of a recipe; None for all of it.
        own: by recipe, settings that take the place of those.
    """

    title: str
    recipes: tuple[str, ...]
    steps: int
    settings: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    samples: int = 1000
    evaluations: int | None = None
    scale: str = "laptop"
    sizes: tuple[int | None, ...] = (None,)
    own: dict[str, dict] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, tuple[str, int | None]]:
        """Recipe and size of the training set by the name of a row, such as GDM-heavy or Flow-heavy-1000."""
        pairs = ((recipe, size) for recipe in self.recipes for size in self.sizes)
        return {recipe if size is None else f"{recipe}-{size}": (recipe, size) for recipe, size in pairs}

    @property
    def along(self) -> bool:
        """Whether what is measured is what training measured on its way."""
        return bool(self.settings.get("sample_every"))

    @property
    def images(self) -> bool:
        """Whether it is a table of denoising errors of images, not of shares of molecules."""
        return FORMS[SYSTEMS[self.recipes[0]].data].kind == "images"

    @property
    def file(self) -> str:
        """The name of the file of its rows."""
        return self.title.lower().replace(" ", "-") + ".json"

    def row(self, name: str) -> str:
        """The row of that name, which may be said without "-heavy".

        Raises:
            ValueError: there is no such row.
        """
        for known in self.rows:
            if name in (known, known.replace("-heavy", "")):
                return known
        raise ValueError(f"{self.title} has no row {name!r}: {choose(name, self.rows)}")


_TABLE_1 = (
    "GDM", "GDM-aug", "EDM", "inertial+GDM", "canon(fr)+GDM", "canon+GDM", "DiT", "DiT-Aug", "SymDiff-H", "SymDiff",
    "canon+DiT",
)  # fmt: skip
# Recipes by what the network sees and by what it is trained on: poses and orders of atoms.
POSES = {
    "Canon: sees distances": {
        "as stored": "Flow-heavy",
        "at random": "Flow-aug-heavy",
        "canonical": "Flow+order-heavy",
    },
    "PairDiT: sees none": {
        "as stored": "Flow-PairDiT-heavy",
        "at random": "Flow-PairDiT-aug-heavy",
        "canonical": "Flow-PairDiT+order-heavy",
    },
    "EGNN: equivariant": {"as stored": "Flow-EGNN-heavy"},  # the same in all poses and orders
}
EXPERIMENTS = {
    e.title: e
    for e in (
        Experiment(
            "Table 1",
            tuple(f"{name}-heavy" for name in _TABLE_1),
            steps=800,
            settings={
                "batch_size": 256,
                "lr": 1e-3,
                "muon_lr": 2e-3,
                "ema": 0.998,
                "warmup": 100,
                "cool_from": 400,
                "cool_to": 800,
                "validate_every": 800,
                "sample_every": 0,
            },
            evaluations=100,
            own={"EDM-heavy": {"lr": 4e-4, "muon_lr": 1e-3}},
        ),
        # Of 79,000 published steps; on one core six minutes for the UNet's, more than an hour for canon(p32)'s.
        Experiment(
            "Table 2",
            (
                "UNet",
                "canon(p8)+UNet",
                "canon(p16)+UNet",
                "canon(p32)+UNet",
                "canon(p16, fr)+UNet",
                "arbitrary(16)+UNet",
            ),
            steps=100,
            settings={"one_cycle": 100, "validate_every": 0},
            samples=10_000,
            scale="published",
        ),
        # Settings are those of CanonFlow's ablation, whose runs of Canon on all molecules are rows here.
        Experiment(
            "When does canonical form pay",
            tuple(recipe for poses in POSES.values() for recipe in poses.values()),
            steps=600,
            settings={
                "batch_size": 128,
                "validate_every": 200,
                "sample_every": 200,
                "samples": 500,
                "sample_steps": 20,
            },
            sizes=(1000, 10_000, None),
        ),
    )
}


def experiment(title: str) -> Experiment:
    """The experiment of that title.

    Raises:
        ValueError: there is none.
    """
    if title not in EXPERIMENTS:
        raise ValueError(f"no table is called {title!r}: {choose(title, EXPERIMENTS)}")
    return EXPERIMENTS[title]


def stored(of: Experiment, folder: str | Path | None = None) -> list[dict[str, Any]]:
    """The stored evaluations, one for each row and seed; those in `folder` take the place of the kit's."""
    found: dict[tuple, dict[str, Any]] = {}
    order = {name: k for k, name in enumerate(of.rows)}
    for path in [Path(__file__).parent / "pretrained" / of.file, *([Path(folder) / of.file] if folder else [])]:
        if path.exists():
            for row in read_rows(path):
                found[_key(row)] = row
    return [found[key] for key in sorted((k for k in found if k[0] in order), key=lambda k: (order[k[0]], k[1]))]


def keys(of: Experiment, folder: str | Path | None = None) -> set[tuple[str, int]]:
    """Row and seed of what is stored."""
    return {_key(r) for r in stored(of, folder)}


def when_it_pays(folder: str | Path | None = None) -> dict[str, dict[str, dict[int | None, list[dict[str, Any]]]]]:
    """What is stored of "When does canonical form pay", by network, pose and size of the training set."""
    of = EXPERIMENTS["When does canonical form pay"]
    names, found = {pair: row for row, pair in of.rows.items()}, by_recipe(stored(of, folder))
    return {
        network: {
            pose: {size: found.get(names[recipe, size], []) for size in of.sizes} for pose, recipe in poses.items()
        }
        for network, poses in POSES.items()
    }


def rebuild(
    of: Experiment, row: str, folder: str | Path = FOLDER, *, seeds: Iterable[int] | None = None, progress: bool = True
) -> list[dict[str, Any]]:
    """Trains and measures a row anew, and stores it in `folder`; started again, it goes on where it stopped.

    Runs lie beside the file of results. A seed whose run and result are there already is left as it is.
    """
    name, folder, made = of.row(row), Path(folder), []
    for seed in of.seeds if seeds is None else seeds:
        out = folder / of.file.removesuffix(".json") / f"{name}-{seed}"
        result = out / "result.json"
        if not result.exists():
            save_evaluation(result, _measured(of, name, _trained(of, name, seed, out, None, progress), progress))
        made.append(unsealed("Evaluation", parsed(result.read_text(), result), result))
        _store(folder / of.file, made[-1])
    return made


@dataclass(frozen=True)
class Agreement:
    """Whether one more model agrees with a stored row.

    Args:
        measured: its evaluation.
        rows: name, stored mean, stored deviation, measured value and error of each number.
        complete: whether it saw as many samples as the row.
        stored_seen: samples that each model of the row saw.
    """

    measured: dict[str, Any]
    rows: list[tuple[str, float, float, float, float]]
    complete: bool
    stored_seen: int

    @property
    def agrees(self) -> bool | None:
        """Whether every number lies within two errors of the stored mean; None where training stopped early."""
        return all(abs(new - mean) <= 2 * error for _, mean, _, new, error in self.rows) if self.complete else None

    def __str__(self) -> str:
        seen = self.measured["seen"]
        verdict = {
            True: "It agrees: every number lies within two errors of the stored mean.",
            False: "It does not agree: "
            + ", ".join(n for n, mean, _, new, error in self.rows if abs(new - mean) > 2 * error)
            + " lies further than two errors from the stored mean.",
            None: f"It cannot be told: {seen:,} samples were seen, and the row saw {self.stored_seen:,}: give more "
            "minutes.",
        }[self.agrees]
        cells = [[n, f"{m:.4g} ± {s:.2g}", f"{v:.4g}", f"{e:.2g}"] for n, m, s, v, e in self.rows]
        note = "Error: of the difference, from the spread over seeds and the number of samples."
        title = f"{self.measured['recipe']}, seed {self.measured['seed']}"
        return f"{Table(title, ['', 'stored', 'measured', 'error'], cells, [note])}\n{verdict}"


def reproduce(
    of: Experiment,
    row: str,
    folder: str | Path = FOLDER,
    *,
    minutes: float | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Agreement:
    r"""Trains one more model of a stored row, measures it and compares.

    A number v agrees with the row's mean m over k seeds if |v - m| <= 2 e, e^2 = s^2 (1 + 1/k) + p (1 - p) / n, with s
    the standard deviation over seeds and, of shares p of n samples, their binomial variance.

    Args:
        minutes: when to stop at the latest.
        seed: by default one more than the largest stored.

    Raises:
        ValueError: the row is not stored, or with one seed only.
    """
    name = of.row(row)
    row_of = [r for r in stored(of, folder) if _key(r)[0] == name]
    if len(row_of) < 2:
        raise ValueError(
            f"{of.title} holds {len(row_of)} runs of {name}, and two are needed to compare: canonkit results "
            f"{of.title!r} --rebuild {name} makes them"
        )
    seed = max(int(r["seed"]) for r in row_of) + 1 if seed is None else seed
    out = Path(folder) / of.file.removesuffix(".json") / f"{name}-{seed}-again"
    measured = _measured(of, name, _trained(of, name, seed, out, minutes, progress), progress)
    numbers, count = [_numbers(of, r) for r in row_of], of.settings["samples"] if of.along else of.samples
    compared = []
    for key, value in _numbers(of, measured).items():
        values = [r[key] for r in numbers]
        mean, deviation = fmean(values), stdev(values)
        chance = 0.0 if key.endswith(("loss", "error")) else mean * (1 - mean) / count
        error = sqrt(deviation**2 * (1 + 1 / len(values)) + chance)
        compared.append((key.replace("_", " "), mean, deviation, value, error))
    seen = row_of[0]["seen"]
    return Agreement(measured, compared, measured["seen"] >= seen, seen)


def results_table(of: Experiment, folder: str | Path | None = None) -> Table:
    """The table: mean ± standard deviation over seeds of what is stored; it says which rows are not measured."""
    every = stored(of, folder)
    found: dict[str, list[dict[str, Any]]] = dict.fromkeys(of.rows, []) | by_recipe(every)
    if of.along:
        return ablation_table(every, of.title, of.rows)
    if of.images:
        return _errors_table(of, found)
    header = ["system", "seeds", *SHARES.values(), "novel %", "validation loss", "bound (nats)"]
    header += ["CPU s per molecule", "per stable one", "training (min)"]
    rows = []
    for name, runs in found.items():
        cells = [spread([100 * r[k] for r in runs], 1) for k in SHARES]
        cells += [spread([100 * r["novel"] for r in runs if r.get("novel") is not None], 1)]
        cells += [spread([r["validation_loss"] for r in runs], 4)]
        cells += [spread([r["validation_nll"] for r in runs if "validation_nll" in r], 1)]
        times = [(r["sampling_cpu_s"] / r["molecules"], r["molecule_stable"]) for r in runs if "sampling_cpu_s" in r]
        cells += [spread([t for t, _ in times], 3), spread([t / stable for t, stable in times if stable], 3)]
        rows.append([name, str(len(runs)), *(cells if runs else ["not measured", *cells[1:]])])
        rows[-1].append(spread([r["seconds"] / 60 for r in runs], 1))
    notes = [
        f"{of.samples:,} samples for each seed at {e['steps']} evaluations, {e['seen']:,} molecules seen, trained on "
        f"{e['data'][:12]}, {e['hardware']}."
        for e in {(r["seen"], r["hardware"], r["data"]): r for r in every}.values()
    ]
    notes.append(
        "Mean ± standard deviation over seeds. Unique: of the valid; novel: of the unique. Bounds of different poses: "
        "not comparable. CPU seconds: of sampling, over all threads."
    )
    return Table(of.title, header, rows, notes, [origin(runs) for runs in found.values()])


def _errors_table(of: Experiment, found: dict[str, list[dict[str, Any]]]) -> Table:
    header = ["system", "published error", "seeds", "measured error", "on validation images", "training (min)"]
    rows = [
        [
            name,
            PUBLISHED_ROTMNIST.get(name, "–"),
            str(len(runs)),
            spread([r["denoising_error"] for r in runs], 4) if runs else "not measured",
            spread([r["validation_error"] for r in runs if "validation_error" in r], 4),
            spread([r["seconds"] / 60 for r in runs], 1),
        ]
        for name, runs in found.items()
    ]
    notes = [
        "Published: Sareen et al. 2024, Table 2, on 2,000 validation images; 1,000 epochs, 79,000 steps, on one A100."
    ]
    every = [r for runs in found.values() for r in runs]
    notes += [
        f"Measured, images in [0, 1]: {e['test_images']:,} test images of {e['test_data'][:12]}, the same times and "
        f"noise for all; {e['seen']:,} images seen, {e['hardware']}. Mean ± standard deviation over seeds."
        for e in {(r["seen"], r["hardware"], r["test_data"]): r for r in every}.values()
    ]
    return Table(of.title, header, rows, notes, [origin(runs) for runs in found.values()])


def _trained(of: Experiment, name: str, seed: int, out: Path, minutes: float | None, progress: bool) -> Run:
    budget = {"steps": of.steps, "minutes": minutes, "resume": (out / "run.json").exists()}
    recipe, first = of.rows[name]
    settings: dict[str, Any] = of.settings | of.own.get(recipe, {}) | ({} if first is None else {"first": first})
    run = train_recipe(recipe, out, scale=of.scale, seed=seed, progress=progress, **budget, **settings)
    if not is_finished({"step": run.step, "seconds": run.seconds}, of.steps, minutes):
        raise KeyboardInterrupt  # training took it as a wish to stop; half a run is no row
    return run


def _measured(of: Experiment, name: str, run: Run, progress: bool) -> dict[str, Any]:
    if of.along:
        found = evaluate_ablation(run)
    elif of.images:
        found = evaluate_denoising(run, run.recipe.load(progress=progress), of.samples, progress=progress)
    else:
        data = run.recipe.load(progress=progress)
        found = evaluate_run(run, data, of.samples, of.evaluations, progress=progress)
    return found | {"row": name, "train": run.card["data"]["train"], "date": date.today().isoformat()}


def _key(r: dict[str, Any]) -> tuple[str, int]:
    """Row and seed of an evaluation."""
    return row_name(r), r["seed"]


def _numbers(of: Experiment, r: dict[str, Any]) -> dict[str, float]:
    """What is compared of an evaluation: shares, and a loss or an error."""
    if of.images:
        return {"denoising_error": r["denoising_error"]}
    if not of.along:
        return {key: r[key] for key in (*SHARES, "validation_loss")}
    last = r["at"][max(r["at"], key=int)]
    return {key: last[key] for key in ("molecule_stable", "atom_stable", "valid_by_generated_bonds", "unique", "loss")}


def _store(path: Path, row: dict[str, Any]) -> None:
    rows = read_rows(path) if path.exists() else []
    rows = [r for r in rows if _key(r) != _key(row)] + [row]
    save_rows(path, sorted(rows, key=_key))
