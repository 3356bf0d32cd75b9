r"""One training step, and all that it changes.

    loss -> gradient -> clip at 1.5 mean + 2 sd of the last 50 norms -> AdamW (and Muon) -> average of the weights

Counters and the norms before are tensors on the model's device and no value is asked for, so that the same step runs
plainly and is recorded in a CUDA graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from canonkit.model import OrbitModel
from canonkit.training.checkpoint import read_checkpoint, strip_prefix, write_averaged, write_checkpoint
from canonkit.training.optimizers import make_optimizers, parameter_groups
from canonkit.training.settings import Settings

LAST = 50  # norms that the clip looks back on


class State:
    """All that changes while training: weights, their average, optimisers, norms, step and seconds so far.

    Args:
        model: on its device; trained in place.
        settings: the optimisers' rates and the clip.

    `sums` are those of `summed` steps' losses since the log's last line, `owed` what is to be measured at this step.
    `count` is the number of steps on the device, `step` the same on the host; `norms` are those of the last gradients.
    """

    def __init__(self, model: OrbitModel, settings: Settings):
        self.model, self.ema = model, copy.deepcopy(model).requires_grad_(False)
        self.settings, self.device = settings, model.size_counts.device
        self.optimizers = make_optimizers(model, settings)
        self.groups = parameter_groups(self.optimizers)
        self.parameters = [p for group in self.groups for p in group["params"]]
        # Statistics of batch normalisation are averages already.
        kept = model.state_dict().keys()
        names = [name for name, _ in model.named_buffers() if name in kept]
        self.statistics = [(self.ema.get_buffer(name), model.get_buffer(name)) for name in names]
        self.norms = torch.zeros(LAST, device=self.device)
        self.count = torch.zeros((), dtype=torch.long, device=self.device)
        self.step, self.seconds = 0, 0.0
        self.sums: dict[str, Tensor] = {}
        self.summed, self.owed = 0, []

    def set_rate(self, share: float) -> None:
        """Sets the learning rates to this share of their height."""
        for group in self.groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(share * group["base_lr"])  # in place: a recorded step reads it
            else:
                group["lr"] = share * group["base_lr"]

    def tensors(self) -> dict[str, Tensor]:
        """All that changes, as live tensors by the names under which a checkpoint has them."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema/{k}": v for k, v in self.ema.state_dict().items()}
        for prefix, optimizer in self.optimizers.items():
            for k, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{prefix}/{k}/{name}": v for name, v in state.items()}
        return tensors | {"clip": self.norms, "count": self.count}

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Whatever changes within is put back, in place: for steps that are timed or recorded."""
        before, step = {k: v.detach().clone() for k, v in self.tensors().items()}, self.step
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield
        with torch.no_grad():
            for name, tensor in self.tensors().items():  # moments that were not there before begin at zero
                tensor.copy_(before[name]) if name in before else tensor.zero_()
        self.step = step

    def save(self, folder: Path) -> None:
        """Writes a checkpoint, whole or not at all, and keeps the one before it.

        Raises:
            FloatingPointError: weights or moments are not finite; nothing is written.
        """
        self.count.fill_(self.step)
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self.tensors().items()}
        if bad := [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]:
            raise FloatingPointError(
                f"{bad[0]} is not finite at step {self.step}: train anew with a lower lr; the checkpoints in {folder} "
                "are from before"
            )
        tensors |= {f"sums/{k}": v.cpu().contiguous() for k, v in self.sums.items()}
        counters = {"step": self.step, "seconds": self.seconds, "summed": self.summed, "owed": self.owed}
        write_checkpoint(folder, tensors, counters)

    def save_averaged(self, folder: Path) -> None:
        """Writes the averaged weights alone, in half precision."""
        write_averaged(folder, self.ema, {"step": self.step, "seconds": self.seconds})

    def restore(self, folder: Path, aside: bool = False) -> bool:
        """Continues from the folder's checkpoint, or the one before where that is damaged; False if there is none.

        With `aside` a damaged one is renamed.

        Raises:
            ValueError: both are damaged.
        """
        found = read_checkpoint(folder, averaged=False, aside=aside)
        if found is None:
            return False
        tensors, counters = found
        self.model.load_state_dict(strip_prefix(tensors, "model/"))
        self.ema.load_state_dict(strip_prefix(tensors, "ema/"))
        for prefix, optimizer in self.optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for key, v in strip_prefix(tensors, f"{prefix}/").items():
                k, name = key.split("/")
                states.setdefault(int(k), {})[name] = v
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        self.groups = parameter_groups(self.optimizers)
        self.norms.copy_(tensors["clip"])
        self.step, self.seconds = counters["step"], counters["seconds"]
        self.sums = {k: v.to(self.device) for k, v in strip_prefix(tensors, "sums/").items()}
        self.summed, self.owed = counters.get("summed", 0), counters.get("owed", [])
        self.count.fill_(self.step)
        return True


def clip(parameters: list[Tensor], norms: Tensor, count: Tensor, fixed: float | None = None) -> Tensor:
    """Clips the gradient's norm at 1.5 mean + 2 sd of the last norms (themselves clipped), as EDM does; returns it.

    Args:
        parameters: with gradients.
        norms: of the last gradients; this one takes the place of the oldest.
        count: how many came before.
        fixed: a limit to be kept to instead.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    known = torch.arange(len(norms), device=norms.device) < count
    n = known.sum().clamp(min=1)
    mean = (norms * known).sum() / n
    deviation = (((norms - mean) * known).square().sum() / n).sqrt()
    allowed = torch.where(count > 0, 1.5 * mean + 2 * deviation, torch.inf).to(norm)
    if fixed is not None:
        allowed = torch.full_like(norm, fixed)
    torch.nn.utils.clip_grads_with_norm_(parameters, allowed, norm)  # pyright: ignore[reportArgumentType]
    norms.scatter_(0, (count % len(norms))[None], torch.minimum(norm, allowed).to(norms)[None])
    return norm


def one_step(state: State, net, x, draw=None, share: float = 1.0, backward: Callable | None = None) -> dict:
    """One step on a batch that `Prepared.ready` gave; returns the loss, its terms and the gradient's norm as tensors.

    Args:
        state: all that changes.
        net: the model, or what stands for it where several processes train.
        x: the batch, of several processes this one's share of it.
        draw: its randomness; None to draw it on the device.
        share: what the loss is multiplied by, so that its mean over processes is that over the batch.
        backward: instead of the loss's own.
    """
    loss = net(x, draw)
    (backward or Tensor.backward)(loss.total * share)
    norm = clip(state.parameters, state.norms, state.count, state.settings.clip)
    for optimizer in state.optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    state.count += 1
    # Early on a shorter average, (1 + step) / (10 + step), so that a short run is not mostly its initial weights.
    weight = 1 - torch.clamp((1 + state.count) / (10 + state.count), max=state.settings.ema)
    averaged, current = list(state.ema.parameters()), list(state.model.parameters())
    with torch.no_grad():
        if weight.is_cuda:  # without asking for the weight
            change = torch._foreach_sub(current, averaged)  # pyright: ignore
            torch._foreach_mul_(change, weight)  # pyright: ignore
            torch._foreach_add_(averaged, change)  # pyright: ignore
        else:
            torch._foreach_lerp_(averaged, current, float(weight))  # pyright: ignore
        for average, now in state.statistics:
            average.copy_(now)
    return {"loss": loss.total.detach(), **{k: v.detach() for k, v in loss.terms.items()}, "gradient_norm": norm}
