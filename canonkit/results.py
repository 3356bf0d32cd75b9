"""Tables 1 and 2 with published and measured figures side by side, each under its own protocol.

Published: Sareen et al. 2024. Table 1, QM9: four days on one RTX 8000, 1000 network evaluations. Table 2, RotMNIST:
1000 epochs, 9 hours on one A100. Measured: what `canonkit evaluate` wrote, at the scale, samples seen and protocol that
each row states.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from canonkit.data.base import Dataset
from canonkit.described import parsed, sealed, unsealed
from canonkit.files import replacing
from canonkit.metrics import (
    DrugEvaluation,
    Evaluation,
    bootstrap,
    chemistry,
    denoising_errors,
    distribution_distances,
    evaluate,
    evaluate_drugs,
    known_smiles,
    pose_statistics,
)
from canonkit.metrics.likelihood import likelihood, mean_error
from canonkit.metrics.poses import PLANAR
from canonkit.molecules import Molecules
from canonkit.networks import EGNN
from canonkit.recipes.run import Run
from canonkit.tables import Table
from canonkit.training import validate

# NLL (nats), molecule stable, atom stable, valid, unique (%), as printed. None: the paper has no such row.
PUBLISHED = {
    "GDM": ("-105.8", "70.6", "97.5", "88.6", "99.8"),
    "EDM": ("-110.7±1.7", "82.0±0.4", "98.7±0.1", "91.9±0.5", "90.7±0.6 (valid×unique)"),
    "canon(fr)+GDM": ("-104.1", "82.1", "97.8", "92.9", "99.5"),
    "canon+GDM": ("-117.4±1.2", "84.6±0.4", "98.4±0.2", "94.4±0.3", "99.7±0.2"),
}

# Mean squared denoising error on the test images, as printed. None: the paper has no such row.
PUBLISHED_ROTMNIST = {
    "UNet": ".0312",
    "canon(p32)+UNet": ".0264",
    "canon(p16)+UNet": ".0255",
    "canon(p8)+UNet": ".0264",
    "canon(p16, fr)+UNet": ".0264",
}


def evaluate_any(
    run: Run,
    data: Dataset | None = None,
    count: int = 1000,
    steps: int | None = None,
    *,
    against: Run | None = None,
    seed: int = 0,
    progress: bool = False,
    **options,
) -> dict:
    """`evaluate_run` of a model of molecules, `evaluate_denoising` of one of images; by default on what it learned."""
    data = data or run.recipe.load(progress=progress)
    if run.recipe.form.kind == "images":
        return evaluate_denoising(run, data, against=against, seed=seed, progress=progress)
    return evaluate_run(run, data, count, steps, seed=seed, progress=progress, **options)


def evaluate_run(
    run: Run,
    data: Dataset,
    count: int = 1000,
    steps: int | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
    **options,
) -> dict:
    """EDM's metrics of new samples, validation loss and NLL bound on 5,000 molecules, and the run's provenance.

    Stability by EDM's rule only where it knows the elements, else by the corrected valencies of GEOM-Drugs, under
    `by_corrected_valencies`.

    Of molecular graphs also what is valid, unique and novel by the generated bonds, under `by_generated_bonds`, and how
    far their statistics are from those of the test molecules, beside what as many training molecules show, under
    `distances_to_data`. `options` are the sampler's.
    """
    start = time.process_time()
    samples = run.sample(count, steps, hydrogens=False, seed=seed, progress=progress, **options)
    seconds = time.process_time() - start  # of all threads; other work on the machine does not count
    form, prepared = run.recipe.form, run.recipe.dataset(data, progress=progress)
    made = form.complete(samples)
    molecules = made.molecules
    scores: dict = {"molecules": len(molecules)}
    if form.stable:
        known = known_smiles(data.part("train"), progress=progress)
        scores = evaluate(molecules, known, refused=made.refused, progress=progress).as_dict()
    if form.heavy:
        scores |= {"hydrogens": "by rule", "refused": int(made.refused.sum())}
    if isinstance(samples, Molecules) and samples.bonds is not None:
        learned = data.with_graphs(progress=progress).part("train")
        learned = form.complete(learned).molecules if data.form.heavy else learned
        known = known_smiles(learned, generated=True, progress=progress)
        found = chemistry(molecules, known, generated=True, refused=made.refused, progress=progress)
        scores["by_generated_bonds"] = {
            "valid": found.valid,
            "unique": found.unique,
            "novel": found.novel,
            "problems": found.problems,
            "protocol": "generated bonds and charges: one fragment, RDKit's sanitisation, no atom lacks a bond",
        }
        if not form.stable:  # other elements than EDM's
            drugs = evaluate_drugs(molecules, refused=made.refused, mmff=200, posebusters=0, xtb=0, progress=progress)
            scores["by_corrected_valencies"] = {k: getattr(drugs, k) for k in OF_DRUGS}
        test = prepared.part("test")
        scores["distances_to_data"] = {
            "generated": distribution_distances(samples, test),
            "training_data": distribution_distances(prepared.part("train")[: len(samples)], test),
            "protocol": "to the test molecules; total variation, lengths in Å, others in degrees (Wasserstein)",
        }
    losses = validate(run.model, prepared.part("valid")[:5000])
    more = {"steps": run.model.process.evaluations(steps), "sampler": {k: str(v) for k, v in options.items()}} | {
        f"validation_{k}": v for k, v in losses.items()
    }
    if run.model.size_counts.device.type == "cpu":
        more["sampling_cpu_s"] = round(seconds, 3)
    return run.provenance() | scores | more


# What is kept of `canonkit.metrics.DrugEvaluation`.
OF_DRUGS = ("stable", "atom_stable", "valid", "connected", "sound", "unique", "stretched", "legacy_stable", "deviation")
OF_DRUGS += ("mmff_strain", "measured", "protocol")
STEPS = (5, 10, 20, 50, 100)


def evaluate_steps(
    run: Run, steps: Iterable[int] = STEPS, count: int = 500, *, seed: int = 0, progress: bool = False
) -> dict:
    """Stability by EDM's rule of `count` samples at each number of network evaluations, and the run's provenance.

    Of molecular graphs also what is valid by the generated bonds and, of the valid, unique.
    """
    at = {}
    for n in steps:
        samples = run.sample(count, n, hydrogens=False, seed=seed, progress=progress)
        at[str(n)] = run.recipe.form.measure(samples)
    return run.provenance() | {"molecules": count, "protocol": Evaluation.protocol, "at": at}


def evaluate_ablation(run: Run) -> dict:
    """What training measured of a run each time it sampled, by molecules seen, and the run's provenance."""
    losses = {e["seen"]: e["loss"] for e in run.log if e["kind"] == "valid"}
    at = {
        str(e["seen"]): {k: v for k, v in e.items() if k not in ("kind", "step", "seen")} | {"loss": losses[e["seen"]]}
        for e in run.log
        if e["kind"] == "sample"
    }
    return run.provenance() | {"protocol": Evaluation.protocol, "at": at}


def evaluate_denoising(
    run: Run,
    data: Dataset,
    count: int | None = None,
    *,
    against: Run | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """Denoising error on the test images with its 95 % interval, validation loss, and the run's provenance.

    Args:
        run: a model of images.
        data: with test images.
        count: the first so many of them; by default all.
        against: another run: also the mean difference of their errors, image by image, with its interval.
        seed: of times and noise.
        progress: show a bar.
    """
    images = data.part("test")[:count]
    errors = denoising_errors(run.model, images, seed=seed, progress=progress)
    found = bootstrap(errors)
    result = {"test_images": len(images), "denoising_error": found.mean, "low": found.low, "high": found.high}
    result["test_data"] = data.sha256
    result["protocol"] = f"one uniform time and one noise per test image, noise seed {seed}; 95 % bootstrap intervals"
    if against is not None:
        theirs = denoising_errors(against.model, images, seed=seed, progress=progress)
        gap = bootstrap(errors - theirs)
        result |= {"against": against.provenance(), "difference": gap.mean}
        result |= {"difference_low": gap.low, "difference_high": gap.high}
    valid = data.part("valid")
    own = denoising_errors(run.model, valid, seed=seed, progress=progress)
    result |= {"validation_images": len(valid), "validation_error": float(own.double().mean())}
    losses = validate(run.model, valid)
    return run.provenance() | result | {f"validation_{k}": v for k, v in losses.items()}


def evaluate_likelihoods(
    runs: Sequence[Run],
    data: Dataset,
    count: int | None = None,
    passes: int = 4,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[dict]:
    """`likelihood` of the same test molecules under each diffusion, and its difference from the first, in nats.

    Of every bound the mean and its standard error over molecules; of a difference likewise, molecule by molecule.

    Args:
        runs: of diffusions of molecules.
        data: with test molecules, and others on which the width of the draws is chosen.
        count: the first so many test molecules; by default all.
        passes: draws of time, noise and rotation for each molecule.
        seed: of these draws.
        progress: show a bar.

    Raises:
        ValueError: a model has no likelihood.
    """
    rows, first = [], None
    for run in runs:
        prepared = run.recipe.dataset(data, progress=progress)
        few, test = prepared.part("valid")[:250], prepared.part("test")[:count]
        equivariant = isinstance(run.model.network, EGNN)
        found = likelihood(
            run.model, test, choose_on=few, equivariant=equivariant, passes=passes, seed=seed, progress=progress
        )
        row = {"test_molecules": len(test), "test_data": data.sha256, "passes": passes}
        row["width"] = None if equivariant else found.width
        minus = None if first is None else found.each - first.each
        for k, name in enumerate(("slice", "invariant")):
            row[name], row[f"{name}_error"] = mean_error(found.each[k])
            if minus is not None:
                row[f"{name}_difference"], row[f"{name}_difference_error"] = mean_error(minus[k])
        row["protocol"] = f"upper bounds of -log p in nats, noise seed {seed}; ± standard error over molecules"
        rows.append(run.provenance() | row)
        first = first or found
    return rows


def save_evaluation(path: str | Path, evaluation: dict) -> None:
    """Writes one evaluation as JSON with a hash of what it says, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(sealed(evaluation), indent=1) + "\n")


def save_rows(path: Path, rows: Iterable[dict]) -> None:
    """Writes a file of measured results, each row with a hash of what it says, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps([sealed(r) for r in rows], indent=1) + "\n")


def read_rows(path: Path, kind: str = "Evaluation", remedy: str = "") -> list[dict[str, Any]]:
    """The rows of a file of measured results, each compared with its description and its hash.

    Raises:
        ValueError: naming file, row and field.
    """
    rows = parsed(path.read_text(encoding="utf-8", errors="replace"), path, remedy)
    if not isinstance(rows, list):
        raise ValueError(f"{path} is no list of rows: {remedy}" if remedy else f"{path} is no list of rows")
    where = [f"{path}, entry {k + 1}" for k in range(len(rows))]
    return [unsealed(kind, row, w, remedy) for row, w in zip(rows, where, strict=True)]


def measured_laptop() -> list[dict[str, Any]]:
    """The evaluations of the systems of molecules at laptop scale that come with the kit."""
    return _shipped("table1-laptop")


def measured_costs() -> list[dict[str, Any]]:
    """What those systems cost: the rows of `canonkit bench systems` that come with the kit."""
    return _shipped("costs-laptop")


def measured_steps() -> list[dict[str, Any]]:
    """`evaluate_steps` of the shipped models of molecules."""
    return _shipped("steps-laptop")


def measured_ablation() -> list[dict[str, Any]]:
    """`evaluate_ablation` of CanonFlow and the recipes it is made of step by step, with three seeds."""
    return _shipped("ablation-laptop")


def measured_likelihoods() -> list[dict[str, Any]]:
    """`evaluate_likelihoods` of shipped diffusions of QM9 by graph networks."""
    return _shipped("likelihoods")


def _shipped(name: str) -> list[dict[str, Any]]:
    path, kind = Path(__file__).parent / "pretrained" / f"{name}.json", "Cost" if "costs" in name else "Evaluation"
    return read_rows(path, kind, "install canonkit again")


def table1(evaluations: Iterable[dict[str, Any]] = (), costs: Iterable[dict[str, Any]] = ()) -> Table:
    """Table 1: published columns, then measured ones from `evaluations` (see `canonkit evaluate`).

    `costs`, rows of `canonkit bench systems`, add the time of a training step and of a sample.
    """
    measured, costs = {e["recipe"]: e for e in evaluations}, {c["system"]: c for c in costs}
    header = ["system", "published: NLL", "mol %", "atom %", "valid %", "unique %"]
    header += ["measured: validation loss", "bound (nats)", "mol %", "atom %", "valid %", "unique %"]
    header += ["ms per step", "s per molecule"] if costs else []
    rows = []
    for name in [*PUBLISHED, *(n for n in measured if n not in PUBLISHED)]:
        row = [name, *PUBLISHED.get(name, ("–",) * 5)]
        if e := measured.get(name):
            shares = (f"{100 * e[k]:.1f}" for k in ("molecule_stable", "atom_stable", "valid", "unique"))
            bound = f"{e['validation_nll']:.1f}±{e['validation_nll_error']:.1f}" if "validation_nll" in e else "–"
            row += [f"{e['validation_loss']:.4f}", bound, *shares]
        else:
            row += ["–"] * 6
        if costs:
            c = costs.get(name)
            sample = f"{c['evaluation_s'] * (e['steps'] + 1):.2f}" if c and e else "–"
            row += [f"{1e3 * c['step_s']:.0f}" if c else "–", sample]
        rows.append(row)
    notes = ["Published: Sareen et al. 2024, Table 1; 1000 network evaluations; four days on one RTX 8000."]
    protocols = sorted({_protocol(e) for e in measured.values()})
    notes += [f"Measured: {p}." for p in protocols]
    if measured:
        notes.append(
            "Bounds: of canonical poses for the canonicalized rows, of poses as they come for GDM; not comparable "
            "with one another. Validation loss: same molecules and noise for all rows."
        )
    if costs:
        machines = " / ".join(sorted({c["hardware"] for c in costs.values()}))
        notes.append(f"Times: a training step of 64 molecules, a sample; all systems in one run on {machines}.")
    return Table("Table 1: QM9", header, rows, notes)


DRUG_MODELS = {
    "CanonFlow(drugs)": "canonical",
    "CanonFlow(drugs), first stage": "canonical, first stage",
    "CanonFlow-aug(drugs)": "turned and reordered",
}


def measured_drugs() -> dict[str, dict[str, Any]]:
    """What was measured of the models of drug-size molecules, from the cards of their weights, by name.

    The control has the same network and data, without canonical form. It was trained as long as the first stage of
    CanonFlow(drugs), whose weights are not there.
    """
    from canonkit.releases import cards

    found = {name: card["evaluation"] for name, card in cards().items()}
    (found["CanonFlow(drugs), first stage"],) = _shipped("drugs-first-stage")
    return {name: found[name] for name in DRUG_MODELS}


def drugs_table(
    models: Mapping[str, dict[str, Any]] | None = None, sets: Mapping[str, DrugEvaluation] | None = None
) -> Table:
    """Drug-size molecules by the corrected valencies: one row for each model, and one for each set of molecules.

    Args:
        models: evaluations of `evaluate_run` by name; by default `measured_drugs()`.
        sets: what `evaluate_drugs` measured of molecules, by name.
    """
    known = measured_drugs() if models is None else models
    header = ["", "molecules", "stable %", "valid %", "both %", "unique %", "stretched %", "strain", "legacy stable %"]
    rows, notes = [], []
    found = {name: e["by_corrected_valencies"] | {"molecules": e["molecules"]} for name, e in known.items()}
    found |= {name: e.as_dict() for name, e in (sets or {}).items()}
    for name, e in found.items():
        cells = [_with_deviation(e, k) for k in ("stable", "valid", "sound", "unique", "stretched")]
        of = e["measured"].get("mmff_strain", 0)
        strain = "–" if e["mmff_strain"] is None else f"{e['mmff_strain']:.1f} (of {of:,})"
        rows.append([name, f"{e['molecules']:,}", *cells, strain, _with_deviation(e, "legacy_stable")])
        notes.append(f"{e['protocol']}.")
    for name, e in known.items():
        what = f"{e['molecules']:,} samples at {e['steps']} network evaluations, hydrogens {e['hydrogens']}"
        notes.append(f"{name}: {what}; {e['seen']:,} molecules seen in training, {e['hardware']}.")
    notes.append(
        "Both: stable and valid. Unique: of the valid. Strain: MMFF94, median, kcal/mol, of those that are both."
    )
    hints = [origin([e]) for e in known.values()] + ["no model"] * len(sets or {})
    return Table("Drug-size molecules", header, rows, list(dict.fromkeys(notes)), hints)


def _with_deviation(e: Mapping[str, Any], key: str) -> str:
    deviation = e["deviation"].get(key)
    return f"{100 * e[key]:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def ablation_table(
    evaluations: Iterable[dict[str, Any]], title: str = "What each step does", names: Iterable[str] = ()
) -> Table:
    """What each step towards CanonFlow does, mean ± standard deviation over seeds, from `evaluate_ablation`.

    `names` of rows are shown also where nothing was measured.
    """
    measured = by_recipe(evaluations)
    found: dict[str, list[dict[str, Any]]] = dict.fromkeys(names, []) | measured
    if not measured:
        rows = [[name, "0", "not measured"] for name in found]
        return Table(title, ["recipe", "seeds", ""], rows, ["Nothing is measured yet."])
    budgets = list(next(iter(measured.values()))[0]["at"])
    header = ["recipe", "seeds", *(f"mol % at {int(b):,}" for b in budgets), "atom %", "valid %", "unique %", "loss"]
    rows = []
    for name, runs in found.items():
        shares = [_spread(runs, b, "molecule_stable", 100, 1) for b in budgets]
        shares += [_spread(runs, budgets[-1], k, 100, 1) for k in ("atom_stable", "valid_by_generated_bonds", "unique")]
        cells = [*shares, _spread(runs, budgets[-1], "loss", 1, 4)]
        rows.append([name, str(len(runs)), *(cells if runs else ["not measured", *cells[1:]])])
    every = [e for runs in found.values() for e in runs]
    first = every[0]["at"][budgets[0]]
    notes = [
        f"Columns say how many molecules were seen; the last four are at {int(budgets[-1]):,}. Mean ± standard "
        f"deviation over seeds; {' / '.join(sorted({e['hardware'] for e in every}))}.",
        f"{first['samples']:,.0f} samples at {first['steps']:.0f} network evaluations of averaged weights, learning "
        f"rate not cooled; {every[0]['protocol']}. Valid: by the generated bonds. Unique: of the valid. Losses under "
        "different couplings or poses are not comparable.",
    ]
    return Table(title, header, rows, notes, [origin(runs) for runs in found.values()])


def origin(runs: Sequence[dict[str, Any]]) -> str:
    """Where the numbers of a row are from: recipe, seeds, steps, data, hardware, and days where they were kept."""
    if not runs:
        return "not measured"

    def each(key: str) -> str:
        return ", ".join(
            sorted({f"{r[key]:,}" if key in ("step", "seen") else str(r[key])[:40] for r in runs if key in r})
        )

    seeds = f"seed{'s' if len(runs) > 1 else ''} {each('seed')}"
    text = f"{each('recipe')}, {each('scale')} scale, {seeds}, {each('step')} steps, {each('seen')} seen"
    data = ", ".join(sorted({r["data"][:12] for r in runs if "data" in r}))
    return f"{text}, data {data}, {each('hardware')}" + (f", {days}" if (days := each("date")) else "")


def likelihood_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What each model says of the same test molecules, from `evaluate_likelihoods`."""
    first = rows[0]["recipe"]
    header = ["system", "its own poses (nats)", "any pose (nats)", f"own, minus {first}'s", f"any, minus {first}'s"]
    columns = ("slice", "invariant", "slice_difference", "invariant_difference")
    cells = [[r["recipe"], *(f"{r[k]:.1f} ± {r[f'{k}_error']:.1f}" if k in r else "–" for k in columns)] for r in rows]
    asked = {f"{r['test_molecules']:,} test molecules of {r['test_data'][:12]}, {r['passes']} passes" for r in rows}
    seen = ", ".join(f"{r['recipe']} {r['seen']:,}" for r in rows)
    notes = [
        f"Smaller is better: {rows[0]['protocol']}; {'; '.join(sorted(asked))}. Its own poses: of molecules in the "
        "poses that the model learned, canonical or as stored, which are different questions. Any pose: the same "
        "molecules in all poses, one question. Differences: molecule by molecule, under the same noise.",
        f"Molecules seen: {seen}.",
    ]
    return Table("Likelihood of test molecules", header, cells, notes, [origin([r]) for r in rows])


def by_recipe(evaluations: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Evaluations of several seeds, in lists by row."""
    found: dict[str, list[dict[str, Any]]] = {}
    for e in evaluations:
        found.setdefault(row_name(e), []).append(e)
    return found


def row_name(e: dict[str, Any]) -> str:
    """The row of an evaluation; where it does not say its row, that is its recipe."""
    return e.get("row", e["recipe"])


def _spread(runs: list[dict[str, Any]], budget: str, key: str, unit: float, digits: int) -> str:
    return spread([unit * v for e in runs if (v := e["at"][budget].get(key)) is not None], digits)


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation; a single value alone, and a dash for none."""
    if not values:
        return "–"
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.{digits}f}"


def table2(evaluations: Iterable[dict[str, Any]] | None = None) -> Table:
    """Table 2: published errors, then measured ones from `evaluations`, by default those of the shipped weights."""
    if evaluations is None:
        from canonkit.releases import cards

        found = [card["evaluation"] for card in cards().values()]
        evaluations = [e for e in found if "denoising_error" in e]
    measured = {e["recipe"]: e for e in evaluations}
    header = ["system", "published error", "measured error", "95 % interval", "minus UNet's", "95 % interval"]
    rows = []
    for name in [*PUBLISHED_ROTMNIST, *(n for n in measured if n not in PUBLISHED_ROTMNIST)]:
        cells = ["–"] * 4
        if e := measured.get(name):
            cells[:2] = [f"{e['denoising_error']:.4f}", f"{e['low']:.4f} to {e['high']:.4f}"]
            if "difference" in e:
                bounds = f"{e['difference_low']:+.4f} to {e['difference_high']:+.4f}"
                cells[2:] = [f"{e['difference']:+.4f}", bounds]
        rows.append([name, PUBLISHED_ROTMNIST.get(name, "–"), *cells])
    notes = ["Published: Sareen et al. 2024, Table 2; 1000 epochs, 9 hours on one A100."]
    notes += [f"Measured: {p}." for p in sorted({_protocol(e) for e in measured.values()})]
    if measured:
        notes.append("Minus UNet's: mean over test images of the difference, both under the same noise.")
    return Table("Table 2: RotMNIST, mean squared denoising error", header, rows, notes)


def pose_table(sets: Mapping[str, Molecules], planar: float = PLANAR) -> Table:
    """Pose statistics of named sets of molecules, one row each; `planar` as for `canonkit.metrics.pose_values`."""
    header = [
        "set",
        "molecules",
        "rms of x, y, z (Å)",
        "planar",
        "rms of z of planar ones (Å)",
        "mean |cos(long axis, x)|",
    ]
    rows = []
    for name, molecules in sets.items():
        s = pose_statistics(molecules, planar)
        rms = ", ".join(f"{r:.2f}" for r in s.rms)
        flat = [f"{s.planar_share:.1%}", f"{s.planar_rms_z:.3f}", f"{s.long_axis:.3f}"]
        rows.append([name, f"{s.molecules:,}", rms, *flat])
    notes = [
        f"Planar: rms along the thinnest principal axis below {planar:g} Å. A long axis that points anywhere has a "
        "mean |cos| of 0.5. Molecules of three atoms or more."
    ]
    return Table("Poses", header, rows, notes)


def _protocol(e: dict) -> str:
    if "denoising_error" in e:
        kind, data = "images", "RotMNIST"
        what = f"{e['test_images']:,} test images of {e['test_data'][:12]}"
    else:
        kind, data = "molecules", "QM9"
        what = f"{e['molecules']:,} samples at {e['steps']} network evaluations"
    return (
        f"{e['scale']} scale, {e['seen']:,} {kind} seen ({e['step']:,} steps), seed {e['seed']}, "
        f"{what}, {e['protocol']}, trained on {data} {e['data'][:12]}, {e['hardware']}"
    )
