r"""An hour on a big GPU: as many steps as the device can take in a fixed number of minutes.

    canonkit data qm9 --file qm9.npz                  # at home: one file with all that is needed
    python -m canonkit.hour canon+GDM --data qm9.npz --out runs/hour --minutes 60
                                                      # there: torch and numpy are enough
    canonkit release runs/hour                        # at home again

All molecules live on the device. A step picks one of a handful of lengths, and molecules of up to that many atoms at
random; on CUDA every length has its step, from picking to averaging the weights, recorded once as a graph and replayed,
so that the host only says which. Canonicalizers that do not learn are applied once to all data. The learning rate rises
over the first steps and falls to zero over the last part of the time.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canonkit.data.bonds import padded_graphs, ragged_graphs
from canonkit.files import replacing
from canonkit.model import OrbitModel
from canonkit.molecules import Molecules
from canonkit.recipes import SCALES, SYSTEMS, fit_prior, recipe
from canonkit.training import (
    Settings,
    best_device,
    claim_folder,
    fast_dtype,
    hardware,
    locked_folder,
    make_optimizers,
    matmul_rate,
    named_tensors,
    parameter_groups,
    strip_prefix,
    validate,
)

LENGTHS = (12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 29)  # atoms that molecules are padded to
LOG_EVERY = 100
LOOK_SECONDS = 10  # between two looks at the loss on slow machines


def save_data(qm9, path: str | Path) -> Path:
    """Writes QM9's training and 1,024 validation molecules as one .npz file that needs numpy alone.

    With bonds and charges where the molecules have them (`canonkit.data.bonds.with_bonds`).
    """
    path = Path(path)
    arrays = {"sha256": np.array(qm9.sha256)}
    for name, part in (("train", qm9.part("train")), ("valid", qm9.part("valid")[:1024])):
        arrays |= {f"{name}_positions": part.positions[part.mask].numpy(), f"{name}_sizes": part.sizes.byte().numpy()}
        arrays |= {f"{name}_numbers": part.numbers[part.mask].byte().numpy()}
        if part.bonds is not None:
            arrays |= {f"{name}_graphs_{k}": v.numpy() for k, v in ragged_graphs(part).items()}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return path


def read_data(path: str | Path) -> tuple[Molecules, Molecules, str]:
    """Training and validation molecules and the data's hash from a file that `save_data` wrote."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: make it with `canonkit data qm9 --file {path}`")
    with np.load(path) as file:
        arrays = dict(file)

    def molecules(name: str) -> Molecules:
        sizes = arrays[f"{name}_sizes"].astype(np.int64)
        mask = np.arange(sizes.max()) < sizes[:, None]
        positions = np.zeros((*mask.shape, 3), np.float32)
        numbers = np.zeros(mask.shape, np.int64)
        positions[mask], numbers[mask] = arrays[f"{name}_positions"], arrays[f"{name}_numbers"]
        made, prefix = Molecules.from_arrays(positions, numbers), f"{name}_graphs_"
        ragged = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
        return padded_graphs(made, ragged) if ragged else made

    return molecules("train"), molecules("valid"), str(arrays["sha256"])


class Stepper:
    """Training steps on data that live on the model's device.

    Args:
        model: on its device.
        data: training molecules, there too.
        settings: batch_size, the optimisers' rates, ema, augment and clip count.
        graphs: record every length's step as a CUDA graph; Muon's rate could not change in one.
    """

    def __init__(self, model: OrbitModel, data: Molecules, settings: Settings, *, graphs: bool = False):
        self.model, self.averaged = model, copy.deepcopy(model).requires_grad_(False)
        self.settings, self.device = settings, data.device
        self.learned = model.learned
        data = data[torch.argsort(data.sizes)]
        if not self.learned and not settings.augment:
            data = model.canonical(data, 4096)
        self.data = data
        ends = torch.searchsorted(data.sizes, torch.tensor(LENGTHS, device=self.device), right=True).tolist()
        ranges = zip(LENGTHS, [0, *ends], ends, strict=False)
        self.lengths = {length: (first, last) for length, first, last in ranges if last > first}
        self.optimizers = make_optimizers(model, settings, capturable=self.device.type == "cuda")
        self.parameters = [p for group in parameter_groups(self.optimizers) for p in group["params"]]
        self.norms = torch.zeros(50, device=self.device)
        self.count = torch.zeros((), dtype=torch.long, device=self.device)  # steps taken
        self.total = torch.zeros((), device=self.device)  # of losses since they were last read
        self.set_rate(0)  # steps for recording and measuring leave the weights alone
        self.graphs = {length: self._record(length) for length in self.lengths} if graphs else {}

    def shares(self) -> Tensor:
        """How many molecules each length has: steps drawn in proportion see every molecule equally often."""
        return torch.tensor([last - first for first, last in self.lengths.values()], dtype=torch.float)

    def set_rate(self, share: float) -> None:
        """Sets the learning rates to this share of their height."""
        for group in parameter_groups(self.optimizers):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(share * group["base_lr"])  # in place: a graph reads it
            else:
                group["lr"] = share * group["base_lr"]

    def __call__(self, length: int) -> None:
        """One step on molecules of up to `length` atoms."""
        if length in self.graphs:
            self.graphs[length].replay()
        else:
            self._step(length)

    def _step(self, length: int) -> None:
        """Everything from picking molecules to averaging weights, without asking the device for a value."""
        first, last = self.lengths[length]
        rows = torch.randint(first, last, (self.settings.batch_size,), device=self.device)
        cut = {k: v[rows, :length] for k, v in self.data._tensors().items()}
        if "bonds" in cut:
            cut["bonds"] = cut["bonds"][..., :length]
        x = self.data.with_(**cut)
        if self.settings.augment:
            x = self.model.process.space.randomize(x)
        loss = self.model(x, canonical=not (self.learned or self.settings.augment)).total
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        self._clip()
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.count += 1
        self.total += loss.detach()
        averaged, current = list(self.averaged.parameters()), list(self.model.parameters())
        with torch.no_grad():
            weight = 1 - torch.clamp((1 + self.count) / (10 + self.count), max=self.settings.ema)
            change = torch._foreach_sub(current, averaged)
            torch._foreach_mul_(change, weight)
            torch._foreach_add_(averaged, change)

    def _clip(self) -> None:
        """`canonkit.training.AdaptiveClip` with its counter on the device."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters])
        known = torch.arange(len(self.norms), device=self.device) < self.count
        n = known.sum().clamp(min=1)
        mean = (self.norms * known).sum() / n
        deviation = (((self.norms - mean) * known).square().sum() / n).sqrt()
        allowed = torch.where(self.count > 0, 1.5 * mean + 2 * deviation, torch.inf)
        if self.settings.clip is not None:
            allowed = torch.full_like(norm, self.settings.clip)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, allowed, norm)
        self.norms.scatter_(0, (self.count % len(self.norms))[None], torch.minimum(norm, allowed)[None])

    def _record(self, length: int) -> torch.cuda.CUDAGraph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step(length)
        torch.cuda.current_stream().wait_stream(side)
        self.model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(length)
        return graph

    def state(self) -> dict[str, Tensor]:
        """All that changes, as tensors by name, as `canonkit.training.State` names them."""
        more = {"clip": self.norms, "count": self.count}
        return named_tensors(self.model, self.averaged, self.optimizers, more)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continues from what `state` gave; in place, so that recorded graphs stay valid."""
        self.model.load_state_dict(strip_prefix(tensors, "model/"))
        self.averaged.load_state_dict(strip_prefix(tensors, "ema/"))
        for prefix, optimizer in self.optimizers.items():
            for k, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
                own = optimizer.state[p]
                for name, value in strip_prefix(tensors, f"{prefix}/{k}/").items():
                    own[name] = own[name].copy_(value) if name in own else value.to(p.device)
        self.norms.copy_(tensors["clip"])
        self.count.copy_(tensors["count"])


def train_for(
    minutes: float,
    name: str,
    data: str | Path,
    out: str | Path,
    *,
    scale: str = "paper",
    batch_size: int = 512,
    warmup: int = 500,
    fall: float = 0.3,
    resume: bool = False,
    device: torch.device | None = None,
    graphs: bool | None = None,
    progress: bool = True,
    **changes,
) -> dict:
    """Trains a recipe for `minutes`, everything but reading the data included; see the module's text.

    Args:
        minutes: of wall-clock time in this call.
        name, scale: the recipe; `changes` replace its training settings.
        data: a file that `save_data` wrote.
        out: gets run.json, log.jsonl, checkpoint.pt (all that is needed to resume) and averaged.pt (averaged weights in
            half precision, small enough to carry home). `canonkit.load_run` and `canonkit release` read it.
        batch_size: molecules per step.
        warmup: steps over which the learning rates rise.
        fall: share of the minutes over which they fall to zero.
        resume: continue from checkpoint.pt in `out`.
        device, graphs: by default the best there is, and CUDA graphs where it is CUDA.
        progress: print a line now and then.

    Returns:
        step, seconds, molecules_per_second, floor_molecules_per_second (matrix operations over the device's measured
        matmul rate), loss (mean of the last logged steps), validation_loss.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        FloatingPointError: the loss is no longer finite.
    """
    start, out = time.monotonic(), Path(out)
    device = device or best_device()
    chosen = recipe(name, scale, batch_size=batch_size, warmup=warmup, **changes)
    settings = chosen.settings
    if chosen.heavy:
        raise ValueError(f"{name} is trained without hydrogens, which this loop has not: use canonkit train")
    train, valid, sha256 = read_data(data)
    counts = torch.bincount(train.sizes, minlength=LENGTHS[-1] + 1)
    saved = torch.load(out / "checkpoint.pt", weights_only=True) if resume else None
    before = saved["counters"] if resume else {"step": 0, "seconds": 0.0}
    with locked_folder(out):
        budget = {"steps": None, "minutes": minutes + before["seconds"] / 60}
        claim_folder(out, chosen.card(sha256, len(train), counts), budget, resume, True, hardware(device))
        torch.manual_seed(settings.seed + before["step"])
        model = chosen.build(counts).to(device).train()
        model.network.fast_dtype = fast = fast_dtype(settings.precision, device)
        if not resume:  # a checkpoint holds it
            fit_prior(model, train)
        # Haar rotations come from a QR factorisation, a flow's coupling from the host: a graph can record neither.
        recordable = not (settings.augment or chosen.kernel or chosen.flow or settings.muon_lr)
        graphs = recordable and device.type == "cuda" if graphs is None else graphs
        step = Stepper(model, train.to(device), settings, graphs=graphs)
        floor = _floor(step, device, fast or torch.float32)
        if resume:
            step.restore(saved["tensors"])
        left = max(1.0, 60 * minutes - (time.monotonic() - start))  # a second where reading the data took it all
        result = _run(step, left, out, before["seconds"], warmup, fall, progress)
        validation = validate(step.averaged.eval(), valid.to(device))
    return result | {"floor_molecules_per_second": floor, "validation_loss": validation["loss"]}


def _run(step: Stepper, budget: float, out: Path, before: float, warmup: int, fall: float, progress: bool) -> dict:
    """Steps for `budget` seconds, logs, writes the weights; `before` are seconds trained earlier."""
    host = torch.Generator().manual_seed(int(step.count))
    lengths, shares = list(step.lengths), step.shares()
    first, taken, begin = int(step.count), 0, time.monotonic()
    looked, logged = begin, 0
    step.total.zero_()

    def look() -> float:
        """The mean loss since the last look, logged."""
        loss = float(step.total) / (taken - logged)  # waits for the device
        step.total.zero_()
        if not loss < float("inf"):
            raise FloatingPointError(f"the loss is {loss} near step {first + taken}: train anew with a lower lr")
        entry = {"kind": "train", "step": first + taken, "seconds": round(before + time.monotonic() - begin, 2)}
        entry |= {"seen": (first + taken) * step.settings.batch_size, "loss": loss}
        with open(out / "log.jsonl", "a") as file:
            print(json.dumps(entry), file=file)
        if progress:
            left = max(0.0, 1 - (time.monotonic() - begin) / budget)
            print(f"step {first + taken:,}, loss {loss:.4f}, {left:.0%} of the time left", flush=True)
        return loss

    while (share := (time.monotonic() - begin) / budget) < 1:
        step.set_rate(min(1.0, (first + taken + 1) / max(1, warmup), (1 - share) / fall if fall else 1.0))
        for k in torch.multinomial(shares, 10, replacement=True, generator=host).tolist():
            step(lengths[k])
        taken += 10
        if taken - logged >= LOG_EVERY or time.monotonic() - looked > LOOK_SECONDS:
            loss, logged, looked = look(), taken, time.monotonic()
    if taken > logged:
        loss = look()
    count = int(step.count)  # waits for the device
    seconds = time.monotonic() - begin
    counters = {"step": count, "seconds": before + seconds}
    tensors = step.state()
    parameters = {f"ema/{k}" for k, _ in step.averaged.named_parameters()}
    averaged = {k: v.half() if k in parameters else v for k, v in tensors.items() if k.startswith("ema/")}
    for file, content in (("checkpoint.pt", tensors), ("averaged.pt", averaged)):
        with replacing(out / file) as temporary:
            torch.save({"tensors": content, "counters": counters}, temporary)
    return counters | {"molecules_per_second": taken * step.settings.batch_size / seconds, "loss": loss}


def _floor(step: Stepper, device: torch.device, dtype: torch.dtype) -> float:
    """Molecules per second if nothing but the matrix products of a step took time."""
    from torch.utils.flop_counter import FlopCounterMode

    lengths, shares = list(step.lengths), step.shares()
    typical = lengths[int((shares.cumsum(0) >= shares.sum() / 2).nonzero()[0])]
    with FlopCounterMode(display=False) as counter:
        step._step(typical)
    return step.settings.batch_size * matmul_rate(device, dtype) / counter.get_total_flops()


def main() -> None:
    """The command line of `python -m canonkit.hour`."""
    parser = argparse.ArgumentParser(prog="python -m canonkit.hour", description="Train for a fixed number of minutes.")
    parser.add_argument("recipe", choices=[name for name, system in SYSTEMS.items() if system.data == "QM9"])
    parser.add_argument("--data", required=True, help="a file made by `canonkit data qm9 --file FILE`")
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--scale", choices=SCALES, default="paper")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--canonicalizer-lr", type=float)
    parser.add_argument("--ema", type=float)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--fall", type=float, default=0.3, help="share of the time over which the learning rate falls")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", default=None)
    given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    print(
        json.dumps(train_for(given.pop("minutes"), given.pop("recipe"), given.pop("data"), given.pop("out"), **given))
    )


if __name__ == "__main__":
    main()
