"""Weights that the authors of a paper published, as runs of the kit.

edm     the folder `edm_qm9` of EDM (Hoogeboom et al. 2022). Its generative_model_ema.npy is a file of torch.save with a
        dictionary of tensors. The arguments beside it are pickled objects; they are not read, since all sizes follow
        from the tensors.

Only tensors, numbers and strings are admitted from such a file: no code in it runs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from canonkit.data.batches import lengths
from canonkit.files import in_short
from canonkit.names import choose
from canonkit.processes.diffusion import polynomial_schedule
from canonkit.recipes.names import recipe
from canonkit.recipes.run import Run
from canonkit.training.checkpoint import strip_prefix

# Parts of a layer of EDM's EGNN -> ours. GCL: messages, attention and the node's MLP; the other: lengths of moves.
EDM_LAYER = {
    "gcl_0.edge_mlp.0": "nodes.message.first",
    "gcl_0.edge_mlp.2": "nodes.message.second",
    "gcl_0.att_mlp.0": "nodes.attention",
    "gcl_0.node_mlp.0": "nodes.node.0",
    "gcl_0.node_mlp.2": "nodes.node.2",
    "gcl_equiv.coord_mlp.0": "pairs.first",
    "gcl_equiv.coord_mlp.2": "pairs.second",
    "gcl_equiv.coord_mlp.4": "length",
}


def load_published(path: str | Path, kind: str) -> Run:
    """A published checkpoint as a run, whose weights are averaged ones where the authors give those.

    Args:
        path: the authors' folder, or the file with the weights.
        kind: "edm".

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown kind; a file that holds more than tensors, or not the tensors of that network.
    """
    readers = {"edm": _edm}
    if kind not in readers:
        raise ValueError(f"published={kind!r} is not known: {choose(kind, readers)}")
    return readers[kind](Path(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors in a file of torch.save, whatever it is called.

    Raises:
        ValueError: the file is damaged, or holds other objects, which are not made.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch, zipfile and its reader of pickles each have their own way to say it
        said = f"{path} is no file of tensors ({in_short(error)})"
        raise ValueError(f"{said}: get it from the authors' repository anew") from None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path} holds {type(found).__name__}, not a dictionary of tensors: give the weights' file")
    return {k.removeprefix("module."): v for k, v in found.items()}


def _edm(path: Path) -> Run:
    if path.is_dir():
        files = [path / f"generative_model{end}.npy" for end in ("_ema", "")]
        path = next((f for f in files if f.is_file()), files[0])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give EDM's folder, or its generative_model_ema.npy")
    tensors = read_tensors(path)
    prefix = "dynamics.egnn."
    parts = strip_prefix(tensors, prefix)
    layers = {int(m[1]) for k in parts if (m := re.match(r"e_block_(\d+)\.", k))}
    embedding = parts.get("embedding.weight")
    if embedding is None or not layers:
        raise ValueError(f"{path} holds no EGNN of EDM (no {prefix}embedding.weight): give another `published`")
    width, features = embedding.shape
    chosen = recipe("EDM", "paper")
    expected = len(chosen.form.elements) + 2  # a charge and the time
    if features != expected:
        raise ValueError(
            f"{path} takes {features} features per atom, QM9's EDM {expected}: models of other data or with conditions "
            "cannot be read"
        )
    chosen = replace(chosen, network_settings={"width": width, "layers": max(layers) + 1})
    part = chosen.load().part("train")
    counts = torch.bincount(lengths(part), minlength=chosen.form.longest + 1)
    model = chosen.build(counts)
    names = {"embedding": "embed", "embedding_out": "out"}
    for k in layers:
        names |= {f"e_block_{k}.{theirs}": f"layers.{k}.{ours}" for theirs, ours in EDM_LAYER.items()}
    renamed = {}
    for key, tensor in parts.items():
        module, _, kind = key.rpartition(".")
        if module not in names:
            raise ValueError(f"{path}: {prefix}{key} has no place in EDM's EGNN with one layer of messages a block")
        renamed[f"{names[module]}.{kind}"] = tensor.float()
    try:
        model.network.load_state_dict(renamed)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit EDM's EGNN: {str(error).splitlines()[-1].strip()}") from None
    gamma = polynomial_schedule()
    theirs = tensors.get("gamma.gamma", gamma)
    if theirs.shape != gamma.shape or float((theirs - gamma.to(theirs)).abs().max()) > 1e-3:
        raise ValueError(f"{path} was trained with another noise schedule than EDM's polynomial one of 1,000 steps")
    model.eval().requires_grad_(False)
    # Nobody here has seen the training: no hash of its data, no steps, no machine.
    card = chosen.card("published", len(part), counts) | {"hardware": "published weights"}
    return Run(path.parent, chosen, model, [], card, 0, 0.0)
