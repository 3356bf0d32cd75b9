"""Trained weights by name, those that come with the kit and your own: half precision, each with a card.

The card says how the weights were trained. A name is looked up in your folder first, then in the kit's.

NAME.safetensors    averaged weights, float16 (whole numbers and counts as they are)
NAME.json           the card: recipe and settings, data and its hash, steps, molecules seen, hardware, training time,
                    date, evaluation with its protocol, and the hash of the weights
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load as read_weights
from safetensors.torch import save_file

from canonkit.files import in_short, replacing, settled, sha256, weights_folder
from canonkit.names import choose
from canonkit.published import load_published
from canonkit.recipes.recipe import Recipe
from canonkit.recipes.run import Run
from canonkit.tables import Table
from canonkit.training import read_card, write_card

FOLDER = Path(__file__).parent / "pretrained"
FORMAT = 1  # of cards and weights
RESTORE = "restore it, or release the weights again"


def cards() -> dict[str, dict]:
    """The cards of all weights by name.

    Raises:
        ValueError: for a card that cannot be read or is of another version.
    """
    return {name: card for name, (_, card) in _found().items()}


def _found() -> dict[str, tuple[Path, dict]]:
    """The folder and the card of all weights, by name."""
    found = {}
    for path in (p for folder in (FOLDER, weights_folder()) for p in sorted(folder.glob("*.card.json"))):
        card = read_card(path, "WeightsCard", RESTORE)
        if card["format"] != FORMAT:
            raise ValueError(f"{path} has format {card['format']}, this canonkit reads {FORMAT}: update the kit")
        found[path.name.removesuffix(".card.json")] = path.parent, card
    return dict(sorted(found.items()))


def load(name: str, published: str | None = None) -> Run:
    """The trained model of that name, on the CPU; or, with `published`, a checkpoint that the authors of a paper give.

    Args:
        name: of trained weights; or a path to the authors' files.
        published: whose files they are, "edm" or "symdiff"; see `canonkit.published`.

    Raises:
        ValueError: no weights of that name; or they are missing, truncated or altered.
    """
    if published is not None:
        return load_published(name, published)
    known = _found()
    if name not in known:
        raise ValueError(f"no weights are called {name!r}: {choose(name, known)}")
    # A release that is replaced at this moment is read anew.
    return settled(known[name][0] / f"{name}.card.json", lambda: _load(name))


def _load(name: str) -> Run:
    folder, card = _found()[name]
    path = folder / f"{name}.safetensors"
    for file in (_next(folder, name), path):  # read once, as it may be replaced meanwhile
        try:
            content = file.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            continue
        if hashlib.sha256(content).hexdigest() == card["weights_sha256"]:
            break
    else:
        what = "is not the file that its card describes" if path.is_file() else "is missing"
        raise ValueError(f"{path} {what}: {RESTORE}")
    recipe, model = Recipe.rebuilt(card, folder / f"{name}.card.json")
    try:
        model.load_state_dict(read_weights(content))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its card ({in_short(error, last=True)}): {RESTORE}") from error
    model.eval().requires_grad_(False)
    return Run(folder, recipe, model, [], card, card["step"], card["seconds"])


def _next(folder: Path, name: str) -> Path:
    """Where new weights lie until their card is there: whenever a release is cut off, a card has its weights."""
    return folder / f"{name}.next.safetensors"


def pretrained() -> Table:
    """What there is: one row per name."""
    header = ["name", "data", "scale", "samples seen", "trained", "measured"]
    rows, notes = [], set()
    for name, card in cards().items():
        e, data = card["evaluation"], card["data"]["name"]
        if "denoising_error" in e:
            found = f"denoising error {e['denoising_error']:.4f} ({e['low']:.4f} to {e['high']:.4f})"
            notes.add(f"{data}: {e['test_images']:,} test images, {e['protocol']}")
        else:
            names = {"atom_stable": "stable atoms", "molecule_stable": "stable molecules", "valid": "valid"}
            drugs = {"stable": "stable molecules", "valid": "valid and connected", "sound": "both"}
            by = e.get("by_corrected_valencies")  # of elements that EDM's rule does not know
            shown, names = (by, drugs) if by else (e, names)
            found = ", ".join(f"{100 * shown[k]:.1f} % {text}" for k, text in names.items())
            notes.add(f"{data}: {e['molecules']:,} samples at {e['steps']} network evaluations, {shown['protocol']}")
        trained = f"{e['seconds'] / 60:.0f} min on {card['hardware']}"
        rows.append([name, data, card["recipe"]["scale"], f"{e['seen']:,}", trained, found])
    return Table("Trained weights", header, rows, sorted(notes))


def _loss_terms(evaluation: dict) -> set[str]:
    return {k for k in evaluation if k.startswith("validation_")}


def release(
    run: Run, evaluate: Callable[[Run], dict], name: str | None = None, folder: str | Path | None = None
) -> Path:
    """Keeps a run's averaged weights and its card under a name; returns the path of the weights.

    Better weights replace worse ones of the same name, not the other way round: the validation loss decides, or, where
    the losses have other terms, the share of stable molecules.

    Args:
        run: a trained run; its parameters are rounded to half precision in place.
        evaluate: what to measure of the rounded run, such as `canonkit.results.evaluate_run`.
        name: by default the recipe's, with the scale behind it where that is not laptop.
        folder: where to keep them; by default `canonkit.files.weights_folder()`.

    Raises:
        ValueError: a name that is no file name, or better weights of that name.
    """
    scale = run.recipe.scale
    name = name or (run.recipe.name if scale == "laptop" else f"{run.recipe.name}-{scale}")
    if not re.fullmatch(r"[\w()+-]+(, [\w()+-]+)*", name):
        raise ValueError(f"{name!r} is no name for weights: use letters, digits, + - ( ) and commas")
    for parameter in run.model.parameters():
        parameter.data = parameter.data.half().float()
    evaluation = evaluate(run)
    if before := cards().get(name):
        old = before["evaluation"]
        same_loss = _loss_terms(old) == _loss_terms(evaluation)
        key, sign = ("validation_loss", 1) if same_loss else ("molecule_stable", -1)
        # Of elements that EDM's rule does not know: stable and valid by the corrected valencies.
        worth = [e[key] if key in e else e["by_corrected_valencies"]["sound"] for e in (old, evaluation)]
        if sign * worth[0] < sign * worth[1]:
            what = f"{key.replace('_', ' ')} {worth[0]:.5f} against {worth[1]:.5f}"
            raise ValueError(f"the weights called {name!r} are better: {what}; give yours another name")
    halved = {k for k, _ in run.model.named_parameters()}
    path = (weights_folder() if folder is None else Path(folder)) / f"{name}.safetensors"
    new = _next(path.parent, name)
    with replacing(new) as temporary:
        state = run.model.state_dict()
        save_file({k: (v.half() if k in halved else v).contiguous() for k, v in state.items()}, temporary)
    card = {
        "format": FORMAT,
        "recipe": asdict(run.recipe) | {"settings": None},
        "settings": asdict(run.recipe.settings),
    }
    card |= {k: run.card[k] for k in ("data", "canonkit", "torch", "size_counts", "hardware")}
    card |= {"init": run.card["init"]} if "init" in run.card else {}
    card |= {"step": run.step, "seconds": round(run.seconds, 1), "released": time.strftime("%Y-%m-%d")}
    card |= {"evaluation": evaluation, "weights_sha256": sha256(new)}
    write_card(path.with_name(f"{name}.card.json"), card)
    os.replace(new, path)
    return path
