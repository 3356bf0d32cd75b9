"""Weights that the authors of a paper published, as runs of the kit.

edm     the folder `edm_qm9` of EDM (Hoogeboom et al. 2022). Its generative_model_ema.npy is a file of torch.save with a
        dictionary of tensors. The arguments beside it are pickled objects; they are not read, since all sizes follow
        from the tensors.

symdiff the folder `SymDiff` of SymDiff (Zhang et al. 2024), which is laid out alike, or of its DiT. How many heads an
        attention has cannot be seen from its tensors: networks of the published widths are read.

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
from canonkit.recipes.recipe import Recipe
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
# Parts of SymDiff's transformers -> ours, and what their attention's heads are, by width.
SYMDIFF_BLOCK = {
    "attn.qkv": "inputs",
    "attn.proj": "output",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "adaLN_modulation.1": "modulation",
}
SYMDIFF_HEADS = {384: 6, 768: 12, 128: 4, 216: 8}
SYMDIFF_DISTANCES = {
    "gaussian_embedder.means.weight": "distances.means",
    "gaussian_embedder.stds.weight": "distances.spreads",
    "pos_embedder.weight": "distances.linear.weight",
    "pos_embedder.bias": "distances.linear.bias",
}


def load_published(path: str | Path, kind: str) -> Run:
    """A published checkpoint as a run, whose weights are averaged ones where the authors give those.

    Args:
        path: the authors' folder, or the file with the weights.
        kind: "edm" or "symdiff".

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown kind; a file that holds more than tensors, or not the tensors of that network.
    """
    readers = {"edm": _edm, "symdiff": _symdiff}
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
    path = _weights(path, "EDM's")
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
    names = {"embedding": "embed", "embedding_out": "out"}
    for k in layers:
        names |= {f"e_block_{k}.{theirs}": f"layers.{k}.{ours}" for theirs, ours in EDM_LAYER.items()}
    renamed = {}
    for key, tensor in parts.items():
        module, _, kind = key.rpartition(".")
        if module not in names:
            raise ValueError(f"{path}: {prefix}{key} has no place in EDM's EGNN with one layer of messages a block")
        renamed[f"{names[module]}.{kind}"] = tensor
    return _run(path, chosen, tensors, renamed, "EDM's EGNN")


def _symdiff(path: Path) -> Run:
    path = _weights(path, "SymDiff's")
    tensors = read_tensors(path)
    parts = strip_prefix(tensors, "dynamics.")
    symmetrised = "gamma_enc.x_embedder.weight" in parts
    k = "k" if symmetrised else "model"
    atoms, out = parts.get("xh_embedder.weight"), parts.get(f"{k}.final_layer.linear.weight")
    if atoms is None or out is None or atoms.ndim != 2 or out.ndim != 2:
        raise ValueError(f"{path} holds no network of SymDiff (no dynamics.xh_embedder): give another `published`")
    (gaussians, features), width = atoms.shape, out.shape[1]
    chosen = recipe("DiT" if not symmetrised else "SymDiff" if width <= 384 else "SymDiff*", "published")
    expected = len(chosen.form.elements) + 4  # coordinates and a charge
    if features != expected:
        raise ValueError(
            f"{path} takes {features} features per atom, QM9's SymDiff {expected}: models of other data cannot be read"
        )
    settings = {"gaussians": gaussians} | _transformer(path, parts, k, width)
    names = {"xh_embedder": "atoms", f"{k}.final_layer.linear": "out"}
    places = {"network." if symmetrised else "": names | _trunk(k, settings["depth"])}
    if symmetrised:
        encoder = _transformer(path, parts, "gamma_enc", len(parts["gamma_enc.x_embedder.weight"]))
        head = parts.get("gamma_dec.fc1.weight", out)
        chosen = replace(chosen, kernel_settings=encoder | {"hidden": len(head)})
        names = {"gamma_enc.x_embedder": "atoms", "gamma_dec.fc1": "head.0", "gamma_dec.fc2": "head.2"}
        places["kernel.r."] = names | _trunk("gamma_enc", encoder["depth"])
    renamed, left = {}, set(parts)
    for prefix, names in places.items():
        found = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in names.items() for kind in ("weight", "bias")}
        for theirs, ours in (SYMDIFF_DISTANCES | found).items():
            if theirs not in parts:
                raise ValueError(f"{path} has no dynamics.{theirs}: get it from the authors' repository anew")
            renamed[prefix + ours] = _reordered(theirs, parts[theirs])
            left.discard(theirs)
    # The encoder's last layer has no outputs.
    if unknown := sorted(key for key in left if parts[key].numel() or "gamma_enc.final_layer.linear" not in key):
        raise ValueError(f"{path}: dynamics.{unknown[0]} has no place in SymDiff's network")
    return _run(path, replace(chosen, network_settings=settings), tensors, renamed, "SymDiff's network")


def _transformer(path: Path, parts: dict[str, Tensor], name: str, width: int) -> dict[str, int]:
    """Width, depth and heads of a transformer of SymDiff."""
    if width not in SYMDIFF_HEADS:
        known = ", ".join(map(str, sorted(SYMDIFF_HEADS)))
        raise ValueError(f"{path}: {name} has width {width}, and heads are known of the published {known} only")
    blocks = [int(m[1]) for key in parts if (m := re.match(rf"{name}\.blocks\.(\d+)\.", key))]
    return {"width": width, "depth": max(blocks, default=-1) + 1, "heads": SYMDIFF_HEADS[width]}


def _trunk(name: str, depth: int) -> dict[str, str]:
    """Modules of a transformer of SymDiff -> ours."""
    names = {f"{name}.t_embedder.mlp.{i}": f"trunk.time.{i}" for i in (0, 2)}
    names[f"{name}.final_layer.adaLN_modulation.1"] = "trunk.modulation"
    for k in range(depth):
        names |= {f"{name}.blocks.{k}.{there}": f"trunk.blocks.{k}.{ours}" for there, ours in SYMDIFF_BLOCK.items()}
    return names


def _reordered(name: str, tensor: Tensor) -> Tensor:
    """A tensor of SymDiff with its rows in our order: scale before shift, sines before cosines."""
    if "adaLN_modulation" in name:
        order = (1, 0, 2, 4, 3, 5) if ".blocks." in name else (1, 0)
        chunks = tensor.tensor_split(len(order))
        return torch.cat([chunks[k] for k in order])
    if name.endswith("t_embedder.mlp.0.weight"):
        return torch.cat(tensor.tensor_split(2, dim=1)[::-1], dim=1)
    return tensor.flatten() if name.startswith("gaussian_embedder") else tensor


def _weights(path: Path, whose: str) -> Path:
    """The file of weights in a folder laid out as EDM's, or the file itself; averaged ones where there are both."""
    if path.is_dir():
        files = [path / f"generative_model{end}.npy" for end in ("_ema", "")]
        path = next((f for f in files if f.is_file()), files[0])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give {whose} folder, or its generative_model_ema.npy")
    return path


def _run(path: Path, chosen: Recipe, tensors: dict[str, Tensor], renamed: dict[str, Tensor], what: str) -> Run:
    """The run of a recipe with the network's weights, whose schedule of noise is EDM's."""
    part = chosen.load().part("train")
    counts = torch.bincount(lengths(part), minlength=chosen.form.longest + 1)
    model = chosen.build(counts)
    try:
        model.network.load_state_dict({k: v.float() for k, v in renamed.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {what}: {str(error).splitlines()[-1].strip()}") from None
    gamma = polynomial_schedule()
    theirs = tensors.get("gamma.gamma", gamma)
    if theirs.shape != gamma.shape or float((theirs - gamma.to(theirs)).abs().max()) > 1e-3:
        raise ValueError(f"{path} was trained with another noise schedule than EDM's polynomial one of 1,000 steps")
    model.eval().requires_grad_(False)
    # Nobody here has seen the training: no hash of its data, no steps, no machine.
    card = chosen.card("published", len(part), counts) | {"hardware": "published weights"}
    return Run(path.parent, chosen, model, [], card, 0, 0.0)
