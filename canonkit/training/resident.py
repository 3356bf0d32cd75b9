"""Steps on data that live on the model's device: as many as a big GPU can take.

A step picks one of a handful of lengths, and samples of up to that many atoms at random. On CUDA every length has its
step, from picking to averaging the weights, recorded once as a graph and replayed, so that the host only says which.
Canonicalizers that do not learn are applied once to all data. Which samples are picked depends on the device's random
numbers, so a resumed run is not the same as one that was not cut.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from canonkit.data.batches import Samples, lengths
from canonkit.molecules import Molecules
from canonkit.training.prepared import Prepared
from canonkit.training.step import State, one_step

PADDINGS = 11  # lengths that molecules are padded to, at most


def recordable(prepared: Prepared) -> bool:
    """Whether a step can be recorded as a CUDA graph.

    Haar rotations come from a QR factorisation, a flow's coupling from the host, and Muon's rate could not change:
    a graph can record none of them.
    """
    recipe = prepared.about.get("recipe", {})
    random = prepared.settings.augment or recipe.get("kernel") or recipe.get("flow")
    return not (random or prepared.settings.muon_lr)


class Resident:
    """Steps on resident data.

    Args:
        prepared: model, data and settings.
        state: of the model, on its device.
        graphs: record every length's step as a CUDA graph; by default on CUDA where that is possible.
    """

    def __init__(self, prepared: Prepared, state: State, graphs: bool | None = None):
        self.state, settings = state, prepared.settings
        data = prepared.train.to(state.device)
        data = data[torch.argsort(lengths(data), stable=True)]
        if not (prepared.canonical or state.model.learned or settings.augment):
            data, prepared = state.model.canonical(data, 4096), replace(prepared, canonical=True)
        self.prepared, self.data = prepared, data
        sizes = lengths(data)
        at = torch.linspace(0, len(data) - 1, PADDINGS + 1)[1:].long()
        paddings = sizes[at.to(sizes.device)].unique()
        ends = torch.searchsorted(sizes, paddings, right=True).tolist()
        self.lengths = dict(zip(paddings.tolist(), zip([0, *ends[:-1]], ends, strict=True), strict=True))
        # Steps drawn in proportion see every sample equally often.
        self.shares = torch.tensor([last - first for first, last in self.lengths.values()], dtype=torch.float)
        torch.manual_seed(settings.seed + state.step)
        self.outputs: dict[int, dict[str, Tensor]] = {}
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        if graphs or (graphs is None and state.device.type == "cuda" and recordable(prepared)):
            self._record_all()

    def __call__(self) -> dict[str, Tensor]:
        """The next step; returns its loss, terms and gradient norm."""
        state = self.state
        host = torch.Generator().manual_seed(state.settings.seed * 1_000_000_007 + state.step)
        length = list(self.lengths)[int(torch.multinomial(self.shares, 1, generator=host))]
        state.step += 1
        if length not in self.graphs:
            return self.step(length)
        self.graphs[length].replay()
        return self.outputs[length]

    def step(self, length: int) -> dict[str, Tensor]:
        """One step on samples of up to `length` atoms, without asking the device for a value."""
        first, last = self.lengths[length]
        rows = torch.randint(first, last, (self.state.settings.batch_size,), device=self.state.device)
        return one_step(self.state, self.state.model, self.prepared.ready(_cut(self.data, rows, length)))

    def _record_all(self) -> None:
        with self.state.untouched():
            self.state.set_rate(0)
            for length in self.lengths:
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(3):
                        self.step(length)
                torch.cuda.current_stream().wait_stream(side)
                self.graphs[length] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graphs[length]):
                    self.outputs[length] = self.step(length)


def _cut(data: Samples, rows: Tensor, length: int) -> Samples:
    """Rows of the data, molecules cut to `length` atoms."""
    if not isinstance(data, Molecules):
        return data[rows]
    cut = {k: v[rows, :length] for k, v in data._tensors().items()}
    if "bonds" in cut:
        cut["bonds"] = cut["bonds"][..., :length]
    return data.with_(**cut)
