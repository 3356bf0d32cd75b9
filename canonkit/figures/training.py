"""Curves of training and sampling, and what is left to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from canonkit.figures.base import blank

SAFE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKERS = "osD^vPX*"
SHARES = {"atom_stable": "stable atoms", "molecule_stable": "molecules (dashed)"}
SHARES |= {"valid_by_generated_bonds": "valid molecules", "unique": "unique among them (dashed)"}  # without stability


def _look(k: int) -> dict[str, Any]:
    """Colour, marker and line of curve k: told apart by everyone, and in print."""
    return {"color": SAFE[k % len(SAFE)], "marker": MARKERS[k % len(MARKERS)], "ls": "-" if k < len(SAFE) else "--"}


def _curves(curves: Mapping[str, tuple[Sequence, Sequence]], width: float, **labels) -> Figure:
    """Curves (x, y) by name in one panel, the legend beside it."""
    figure = blank(width, 3.1)
    ax = figure.subplots()
    for k, (name, (x, y)) in enumerate(curves.items()):
        ax.plot(x, y, **_look(k), markersize=4, label=name)
    ax.set(**labels)
    ax.set_ylim(0, None)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def stable_by_budget(evaluations: Mapping[str, Sequence[dict]]) -> Figure:
    """Stable molecules at each budget, mean and standard deviation over seeds, of `evaluate_ablation`s by recipe."""
    budgets = list(next(iter(evaluations.values()))[0]["at"])
    names = list(evaluations)
    figure = blank(7, 0.9 + 0.32 * len(names))
    ax = figure.subplots()
    for k, budget in enumerate(budgets):
        shares = [[100 * e["at"][budget]["molecule_stable"] for e in evaluations[name]] for name in names]
        means, spreads = [fmean(v) for v in shares], [stdev(v) if len(v) > 1 else 0 for v in shares]
        rows = [i + 0.2 * (k - (len(budgets) - 1) / 2) for i in range(len(names))]
        label = f"{int(budget) / 1000:.0f} thousand molecules seen"
        ax.errorbar(means, rows, xerr=spreads, fmt="o", markersize=4, capsize=2, color=f"C{k}", label=label)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel("stable molecules, %")
    ax.set_xlim(0, 100)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(budgets), frameon=False)
    return figure


def shares(evaluations: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Shares by name in percent, side by side for each evaluation, with their deviations where it has some.

    Args:
        evaluations: what was measured, by what of; each has the `names`, and may have a `deviation` of each.
        names: of the shares.
    """
    # Wide enough for the numbers above the bars.
    figure = blank(max(6.0, 1 + 0.42 * len(names) * len(evaluations)), 3.2)
    ax = figure.subplots()
    width = 0.8 / max(1, len(evaluations))
    for k, (label, e) in enumerate(evaluations.items()):
        places = [i + width * (k + 0.5) - 0.4 for i in range(len(names))]
        errors = [100 * e.get("deviation", {}).get(name, 0) for name in names]
        bars = ax.bar(places, [100 * e[name] for name in names], width, yerr=errors, color=SAFE[k % len(SAFE)])
        bars.set_label(label)
        ax.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    ax.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set(ylabel="%", ylim=(0, 110))
    figure.legend(fontsize=8, loc="outside upper left", frameon=False)
    return figure


def when_it_pays(
    found: Mapping[str, Mapping[str, Mapping[int | None, Sequence[dict]]]],
    measure: str = "molecule_stable",
    label: str = "stable molecules, %",
) -> Figure:
    """What a pose does for each network, against the size of the training set and against the budget.

    Args:
        found: `canonkit.experiments.when_it_pays`: evaluations by network, pose and size, None for all molecules.
        measure: what of them, mean and standard deviation over seeds; shares are shown in per cent.
        label: what the axis says.
    """
    figure = blank(2.9 * len(found) + 0.4, 5.6)
    panels = figure.subplots(2, len(found), squeeze=False, sharex="row", sharey=True)
    missing, unit = [], 1 if measure == "loss" else 100
    for column, (network, poses) in enumerate(found.items()):
        above, below = panels[:, column]
        sizes = list(next(iter(poses.values())))
        ticks = ["all" if size is None else f"{size:,}" for size in sizes]
        above.set(title=network, xlabel="training molecules", xlim=(-0.4, len(sizes) - 0.6))
        above.set_xticks(range(len(sizes)), ticks)
        below.set(xlabel="thousand molecules seen, of all")
        for k, (pose, by_size) in enumerate(poses.items()):
            look = _look(k) | {"markersize": 4, "capsize": 2, "label": pose}
            last = {place: _last(by_size[size], measure) for place, size in enumerate(sizes) if by_size[size]}
            _with_spread(above, {place + 0.08 * (k - 1): values for place, values in last.items()}, unit, look)
            whole = by_size[None]
            budgets = whole[0]["at"] if whole else {}
            _with_spread(below, {int(b) / 1000: [e["at"][b][measure] for e in whole] for b in budgets}, unit, look)
            lacking = [tick for tick, size in zip(ticks, sizes, strict=True) if not by_size[size]]
            if lacking:
                missing.append(f"{network.split(':')[0]} {pose} ({', '.join(lacking)})")
        for ax in (above, below):
            ax.grid(alpha=0.3)
    for ax in panels[:, 0]:
        ax.set_ylabel(label)
    if measure != "loss":
        panels[0, 0].set_ylim(0, 100)
    handles = [Line2D([], [], **_look(k), label=pose) for k, pose in enumerate(next(iter(found.values())))]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9, frameon=False)
    if missing:
        text = wrap(f"Not measured yet: {'; '.join(missing)}.", 130)
        figure.supxlabel("\n".join(text), fontsize=8, x=0.01, ha="left")
    return figure


def _last(evaluations: Sequence[dict], measure: str) -> list[float]:
    """What each evaluation found at its largest budget."""
    return [e["at"][max(e["at"], key=int)][measure] for e in evaluations]


def _with_spread(ax: Axes, points: Mapping[float, Sequence[float]], unit: float, look: dict[str, Any]) -> None:
    """A curve through means with bars of the standard deviation; no bar at a single value."""
    means = [unit * fmean(values) for values in points.values()]
    spreads = [unit * stdev(values) if len(values) > 1 else 0.0 for values in points.values()]
    ax.errorbar(list(points), means, yerr=spreads, **look)


def training_curves(logs: Mapping[str, Sequence[dict]]) -> Figure:
    """Training loss, validation loss and what is measured of samples, of runs by name, against samples seen.

    What has not been logged has no panel. Of samples, the shares of stable atoms and molecules; where stability is not
    defined, of valid and unique ones.
    """
    entries = [e for log in logs.values() for e in log]
    shares = [key for key in SHARES if any(key in e for e in entries)][:2]
    wanted = [("train", ["loss"], "training loss"), ("valid", ["loss"], "validation loss")]
    wanted.append(("sample", shares, ", ".join(SHARES[key] for key in shares)))
    shown = [panel for panel in wanted if panel[1] and any(e["kind"] == panel[0] for e in entries)] or wanted[:1]
    figure = blank(3.4 * len(shown), 3)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, (kind, keys, title) in zip(panels, shown, strict=True):
        for k, (name, log) in enumerate(logs.items()):
            mine = [e for e in log if e["kind"] == kind]
            for key, line in zip(keys, ("-", "--"), strict=False):
                points = [(e["seen"] / 1000, e[key]) for e in mine if key in e]
                marker = "o" if len(points) == 1 or kind != "train" else ""
                label = name if key == keys[0] else None
                ax.plot(*zip(*points, strict=True), ls=line, marker=marker, ms=3, lw=1, color=f"C{k}", label=label)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("thousand samples seen")
        ax.grid(alpha=0.3)
        ax.set(ylim=(0, 1)) if kind == "sample" else ax.set_yscale("log")
    if entries:
        panels[0].legend(fontsize=8)
    return figure


def velocity_curves(variances: Mapping[str, Tensor], times: Sequence[float]) -> Figure:
    """What a flow's velocity leaves open (`canonkit.metrics.velocity_variance`) against time, by name."""
    curves = {name: (times, variance.tolist()) for name, variance in variances.items()}
    return _curves(curves, 6.4, xlabel="t: 0 noise, 1 data", ylabel="Å² per coordinate", xlim=(0, 1))


def stability_steps(results: Mapping[str, Mapping[int, Any]]) -> Figure:
    """Atom and molecule stability against network evaluations: {name: {steps: Stability}}."""
    figure = blank(9, 3)
    atoms, molecules = figure.subplots(1, 2, sharex=True)
    order = sorted(results, key=lambda name: -results[name][max(results[name])].molecule_stable)  # as the curves end
    for k, name in enumerate(order):
        steps = sorted(results[name])
        for ax, key in ((atoms, "atom_stable"), (molecules, "molecule_stable")):
            ax.plot(steps, [100 * getattr(results[name][s], key) for s in steps], **_look(k), ms=4, label=name)
    for ax, title in ((atoms, "stable atoms (%)"), (molecules, "stable molecules (%)")):
        ax.set(xscale="log", xlabel="network evaluations", title=title)
        ax.set_ylim(0, max(1.0, 1.05 * ax.get_ylim()[1]))
        ax.grid(alpha=0.3)
    molecules.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
