"""Curves of training and sampling, and what is left to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from matplotlib.figure import Figure
from torch import Tensor

from canonkit.figures.base import blank


def _curves(curves: Mapping[str, tuple[Sequence, Sequence]], width: float, **labels) -> Figure:
    """Curves (x, y) by name in one panel, the legend beside it."""
    figure = blank(width, 3.1)
    ax = figure.subplots()
    for name, (x, y) in curves.items():
        ax.plot(x, y, marker="o", markersize=3, label=name)
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


def training_curves(logs: Mapping[str, Sequence[dict]]) -> Figure:
    """Training loss, validation loss and, for molecules, atom stability of runs by name, against samples seen."""
    firsts = [log[0] for log in logs.values() if log]
    of_images = bool(firsts) and all("coordinates" in entry for entry in firsts)
    figure = blank(7 if of_images else 10, 3)
    panels = figure.subplots(1, 2 if of_images else 3)
    left, middle = panels[:2]
    curves = [(left, "train", "loss"), (middle, "valid", "loss")]
    titles = ["training loss", "validation loss"]
    if not of_images:
        curves.append((panels[2], "sample", "atom_stable"))
        titles.append("atom stability of samples")
        panels[2].set_ylim(0, 1)
    for k, (name, log) in enumerate(logs.items()):
        colour = f"C{k}"
        for ax, kind, key in curves:
            entries = [e for e in log if e["kind"] == kind]
            marker = "o" if len(entries) == 1 or kind != "train" else ""
            seen, values = [e["seen"] / 1000 for e in entries], [e[key] for e in entries]
            ax.plot(seen, values, marker=marker, markersize=3, linewidth=1, color=colour, label=name)
    for ax, title in zip(panels, titles, strict=True):
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("thousand samples seen")
        ax.grid(alpha=0.3)
    left.set_yscale("log")
    middle.set_yscale("log")
    for ax in panels:
        if not any(len(line.get_xdata()) for line in ax.lines):
            ax.text(0.5, 0.5, "none yet", transform=ax.transAxes, ha="center", color="gray")
            ax.set(xticks=(), yticks=())
    if any(logs.values()):
        left.legend(fontsize=8)
    return figure


def velocity_curves(variances: Mapping[str, Tensor], times: Sequence[float]) -> Figure:
    """What a flow's velocity leaves open (`canonkit.metrics.velocity_variance`) against time, by name."""
    curves = {name: (times, variance.tolist()) for name, variance in variances.items()}
    return _curves(curves, 6.4, xlabel="t: 0 noise, 1 data", ylabel="Å² per coordinate", xlim=(0, 1))


def stability_steps(results: Mapping[str, Mapping[int, object]]) -> Figure:
    """Atom and molecule stability against network evaluations: {name: {steps: Stability}}."""
    figure = blank(9, 3)
    atoms, molecules = figure.subplots(1, 2, sharex=True)
    for name, by_steps in results.items():
        steps = sorted(by_steps)
        for ax, key in ((atoms, "atom_stable"), (molecules, "molecule_stable")):
            ax.plot(steps, [100 * getattr(by_steps[s], key) for s in steps], marker="o", markersize=3, label=name)
    for ax, title in ((atoms, "stable atoms (%)"), (molecules, "stable molecules (%)")):
        ax.set(xscale="log", xlabel="network evaluations", title=title)
        ax.set_ylim(0, max(1.0, 1.05 * ax.get_ylim()[1]))
        ax.grid(alpha=0.3)
    molecules.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
