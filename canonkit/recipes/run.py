"""A trained model and how it came about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from canonkit.data.base import Form
from canonkit.data.batches import Samples
from canonkit.files import in_short
from canonkit.model import OrbitModel
from canonkit.processes.spaces import MoleculeSpace
from canonkit.processes.trajectory import Trajectory
from canonkit.recipes.recipe import Recipe
from canonkit.training import Settings, load_averaged, read_card, read_log


@dataclass(frozen=True, eq=False)
class Run:
    """A trained model and how it came about.

    Args:
        folder: where it lives.
        recipe: what it is.
        model: with the averaged weights, in eval mode.
        log: entries of log.jsonl.
        card: run.json.
        step, seconds: how long it was trained.
    """

    folder: Path
    recipe: Recipe
    model: OrbitModel
    log: list[dict[str, Any]]
    card: dict[str, Any]
    step: int
    seconds: float

    def __repr__(self) -> str:
        return (
            f"Run({self.recipe.name}, {self.recipe.scale}: {self.step:,} steps, {self.seen:,} samples seen, "
            f"{self.training_seconds / 60:.1f} minutes on {self.card.get('hardware', '?')})"
        )

    @property
    def seen(self) -> int:
        """Training samples seen, those of the weights that the run started from included."""
        return self.step * self.recipe.settings.batch_size + self.card.get("init", {}).get("seen", 0)

    @property
    def training_seconds(self) -> float:
        """Seconds of training, those of the weights that the run started from included."""
        return self.seconds + self.card.get("init", {}).get("seconds", 0)

    def provenance(self) -> dict[str, Any]:
        """What a table must say beside a number got from this run."""
        machines = [self.card.get("init", {}).get("hardware"), self.card.get("hardware", "?")]
        return {
            "recipe": self.recipe.name,
            "scale": self.recipe.scale,
            "seed": self.recipe.settings.seed,
            "step": self.step,
            "seen": self.seen,
            "seconds": round(self.training_seconds, 1),
            "data": self.card.get("data", {}).get("sha256", self.recipe.data),
            "hardware": ", then ".join(dict.fromkeys(machine for machine in machines if machine)),
        }

    @overload
    def sample(self, *arguments: Any, trajectory: Literal[True], **options: Any) -> Trajectory: ...
    @overload
    def sample(self, *arguments: Any, trajectory: Literal[False] = False, **options: Any) -> Samples: ...
    def sample(
        self,
        count: int = 1,
        steps: int | None = None,
        *,
        hydrogens: bool = True,
        trajectory: bool = False,
        **options: Any,
    ) -> Samples | Trajectory:
        """`OrbitModel.sample`; of a model of heavy atoms with hydrogens added by rule, unless that is not wanted.

        A molecule with impossible bonds, to which RDKit adds no hydrogens, stays among the samples as it is: an invalid
        and unstable one, as others make them too. `canonkit.chemistry.hydrogens.add_hydrogens` tells which these are.
        A trajectory has the hydrogens in one frame more, its last.
        """
        add = self.recipe.form.heavy and hydrogens
        if trajectory:
            path = self.model.sample(count, steps, trajectory=True, **options)
            return Trajectory((*path.frames, self.recipe.form.complete(path.samples).molecules)) if add else path
        samples = self.model.sample(count, steps, **options)
        return self.recipe.form.complete(samples).molecules if add else samples


def new_run_folder(start: str | Path) -> Path:
    """`start`, or `start-2`, `start-3`, ...: the first that holds no run yet, so that a notebook can be run again."""
    start, k = Path(start), 2
    folder = start
    while (folder / "run.json").exists():
        folder, k = start.with_name(f"{start.name}-{k}"), k + 1
    return folder


def _by_hand(model: OrbitModel, card: dict[str, Any]) -> Recipe:
    """What is known of a model that was not built by a recipe."""
    space, settings = model.process.space, Settings(**card["settings"])
    of_molecules = isinstance(space, MoleculeSpace)
    form = Form(space.elements, len(model.size_counts) - 1) if of_molecules else Form(shape=tuple(space.shape))
    names = [type(part).__name__ for part in (model.canonicalizer, model.network)]
    return Recipe("by hand", "–", names[0], {}, names[1], {}, settings, "data of one's own", own=form)


def load_run(folder: str | Path, model: OrbitModel | None = None) -> Run:
    """A run from its folder, on the CPU, with averaged weights.

    Args:
        folder: the run's.
        model: of a run that was made by hand, without a recipe: a model built as it was then, filled in place.

    Raises:
        FileNotFoundError: no run, or no checkpoint there.
        ValueError: run.json, log.jsonl or all checkpoints are damaged; a run made by hand, and no model, or another.
    """
    folder = Path(folder)
    try:
        card = read_card(folder / "run.json")
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no run (no run.json): train one with `canonkit train`") from None
    if card.get("recipe") is not None:
        chosen, model = Recipe.rebuilt(card, folder / "run.json")
    elif model is None:
        raise ValueError(
            f"{folder} was trained by hand, without a recipe: build its model as then, and open it with "
            f"ck.load_run({str(folder)!r}, model)"
        )
    else:
        chosen = _by_hand(model, card)
    try:
        counters = load_averaged(model, folder)
    except RuntimeError as error:
        said = f"run.json and the checkpoint do not fit ({in_short(error, last=True)})"
        raise ValueError(f"{folder}: {said}: restore one of them") from error
    model.eval().requires_grad_(False)
    return Run(folder, chosen, model, read_log(folder), card, counters["step"], counters["seconds"])
