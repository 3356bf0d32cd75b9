"""A data set of molecules as one file that needs numpy alone, for machines that have little else."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from canonkit.chemistry.bonds import padded_graphs, ragged_graphs
from canonkit.data.base import Dataset, Form
from canonkit.files import in_short, read_arrays, replacing
from canonkit.molecules import Molecules


@dataclass(frozen=True, eq=False)
class Packed(Dataset):
    """What `pack` kept of a data set."""

    name: str
    form: Form
    sha256: str
    parts: dict[str, Molecules]
    provenance: str = "a packed file"

    def part(self, name: str) -> Molecules:
        return self.parts[name]

    def with_graphs(self, *, progress: bool = False) -> Packed:
        if self.parts["train"].bonds is None:
            raise ValueError("the file has no bonds: make it with `canonkit data qm9 --bonds --file FILE`")
        return self

    def without_hydrogens(self, *, progress: bool = False) -> Dataset:
        return self if self.form.heavy else super().without_hydrogens(progress=progress)


def pack(data: Dataset, path: str | Path) -> Path:
    """Writes the training and 1,024 validation molecules as one .npz file, with bonds and charges where they are."""
    path = Path(path)
    form = data.form
    arrays = {"sha256": np.array(data.sha256), "name": np.array(data.name), "longest": np.array(form.longest)}
    arrays |= {"elements": np.array(form.elements), "heavy": np.array(form.heavy)}
    for name, part in (("train", data.part("train")), ("valid", data.part("valid")[:1024])):
        arrays |= {f"{name}_positions": part.positions[part.mask].numpy(), f"{name}_sizes": part.sizes.short().numpy()}
        arrays |= {f"{name}_types": part.types[part.mask].byte().numpy()}
        if part.bonds is not None:
            arrays |= {f"{name}_graphs_{k}": v.numpy() for k, v in ragged_graphs(part).items()}
    buffer = io.BytesIO()  # on a full disk zipfile's own errors would hide the system's
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return path


def unpack(path: str | Path) -> Packed:
    """The data set in a file that `pack` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or of an earlier version.
    """
    remedy = f"make it with `canonkit data qm9 --file {path}`"
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: {remedy}")
    try:
        arrays = read_arrays(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {remedy}") from error
    if "elements" not in arrays:
        raise ValueError(f"{path} is of an earlier version: {remedy}")
    try:
        return _unpacked(arrays)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit together ({in_short(error)}): {remedy}") from error


def _unpacked(arrays: dict[str, np.ndarray]) -> Packed:
    form = Form(tuple(arrays["elements"].tolist()), int(arrays["longest"]), heavy=bool(arrays["heavy"]))

    def molecules(name: str) -> Molecules:
        sizes = torch.from_numpy(arrays[f"{name}_sizes"]).long()
        if sizes.ndim != 1 or not len(sizes) or not 0 < int(sizes.min()) <= int(sizes.max()) <= form.longest:
            raise ValueError(f"sizes of molecules that are not 1 to {form.longest}")
        mask = torch.arange(int(sizes.max())) < sizes[:, None]
        positions, types = torch.zeros(*mask.shape, 3), torch.zeros(mask.shape, dtype=torch.long)
        positions[mask] = torch.from_numpy(arrays[f"{name}_positions"])
        types[mask] = torch.from_numpy(arrays[f"{name}_types"]).long()
        if int(types.min()) < 0 or int(types.max()) >= len(form.elements):
            raise ValueError(f"elements that are none of {', '.join(form.elements)}")
        made, prefix = Molecules(positions, types, mask, form.elements), f"{name}_graphs_"
        ragged = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
        made.check_finite()
        return padded_graphs(made, ragged) if ragged else made

    parts = {name: molecules(name) for name in ("train", "valid")}
    return Packed(str(arrays["name"]), form, str(arrays["sha256"]), parts)
