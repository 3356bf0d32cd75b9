r"""One readable training loop.

    every step:  batch k of the epoch's order, noise from a generator seeded with (seed, step),
                 loss -> gradient -> clip at 1.5 mean + 2 sd of the last 50 norms -> AdamW -> EMA

All randomness is a function of (seed, step), so a checkpoint needs no random state, and a run that was killed and
resumed ends with the same weights, bit for bit on a CPU, as one that was not. With several processes (accelerate) each
takes its rows of the same global batch and the same noise.

A run is a folder: run.json (recipe, settings, data, machine), log.jsonl, checkpoint.safetensors and the one before it.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import platform
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from canonkit.data.batches import LengthBatches, Samples, lengths, take
from canonkit.extras import require
from canonkit.files import replacing
from canonkit.model import OrbitModel
from canonkit.randomness import repeatable


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        batch_size: samples per step, over all processes.
        lr, canonicalizer_lr: AdamW's, for phi and for h.
        muon_lr: Muon's, for the matrices of phi's blocks, which AdamW then leaves alone; None for AdamW everywhere.
        weight_decay: AdamW's.
        ema: decay of the averaged weights per step.
        warmup: steps over which the learning rates grow linearly.
        cool_from, cool_to: steps between which they fall linearly to zero; None for never.
        clip: largest norm of the gradient; None for EDM's rule, from the norms before.
        augment: act with a random element of the symmetry group on every training sample.
        distance_weight: of flow's loss of distances between near atoms.
        correction: largest standard deviation, in Å, of what flow pushes atoms by in training; 0 for none.
        unrolled: whether a flow trains on steps of its own, for few steps in sampling.
        precision: of what is per pair of atoms: "float32", "bfloat16", or "auto" (bfloat16 where it is native).
        seed: of initial weights, order and noise.
        log_every, validate_every, sample_every: in steps, and when the budget is spent; 0 for never.
        samples, sample_steps: how many are generated to be measured, and network evaluations for each.
    """

    batch_size: int = 64
    lr: float = 1e-4
    canonicalizer_lr: float = 1e-6
    muon_lr: float | None = None
    weight_decay: float = 1e-12
    ema: float = 0.9999
    warmup: int = 0
    cool_from: int | None = None
    cool_to: int | None = None
    clip: float | None = None
    augment: bool = False
    distance_weight: float | None = None
    correction: float | None = None
    unrolled: bool | None = None
    precision: str = "auto"
    seed: int = 0
    log_every: int = 20
    validate_every: int = 500
    sample_every: int = 1000
    samples: int = 64
    sample_steps: int = 100

    def rate(self, step: int) -> float:
        """The share of the learning rates that step number `step`, from 0, is taken with."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.cool_to is None:
            return warm
        first = self.cool_from or 0
        return warm * min(1.0, max(0.0, (self.cool_to - step) / max(1, self.cool_to - first)))


class AdaptiveClip:
    """Clips the gradient's norm at 1.5 mean + 2 sd of the last 50 norms (themselves clipped), as EDM does.

    `fixed` is a limit to be kept to instead.
    """

    def __init__(self, fixed: float | None = None, last: int = 50):
        self.norms, self.count, self.fixed = torch.zeros(last), 0, fixed

    def __call__(self, parameters: list[Tensor]) -> Tensor:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.count or self.fixed is not None:
            seen = self.norms[: min(self.count, len(self.norms))].to(norm)
            fixed = None if self.fixed is None else norm.new_tensor(self.fixed)
            norm_allowed = 1.5 * seen.mean() + 2 * seen.std(correction=0) if fixed is None else fixed
            torch.nn.utils.clip_grads_with_norm_(parameters, norm_allowed, norm)
            kept = torch.minimum(norm, norm_allowed)
        else:
            kept = norm
        self.norms = self.norms.to(norm)
        self.norms[self.count % len(self.norms)] = kept
        self.count += 1
        return norm


def best_device() -> torch.device:
    """CUDA where there is one, else Apple's mps, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones there: GPUs from Ampere on, CPUs with AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


def fast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What `Settings.precision` means there for a network's `fast_dtype`.

    Raises:
        ValueError: for a precision that is not auto, float32 or bfloat16.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision {precision!r} is not auto, float32 or bfloat16")
    fast = precision == "bfloat16" or (precision == "auto" and native_bfloat16(device))
    return torch.bfloat16 if fast else None


def hardware(device: torch.device) -> str:
    """The machine in one line, for cards and logs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}" + (" (mps)" if device.type == "mps" else "")


def peak_memory(device: torch.device) -> int:
    """The most memory in bytes that this process has used so far, on a CUDA device what its tensors have."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # not ru_maxrss, which begins at the memory of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if platform.system() == "Darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def matmul_rate(device: torch.device, dtype: torch.dtype, n: int = 2048) -> float:
    """Floating-point operations per second of a square matrix product, best of five."""
    a = torch.randn(n, n, device=device, dtype=dtype)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds[1:])


# -- the state of a run -----------------------------------------------------------------------------------------------


class State:
    """All that changes while training: weights, their average, optimiser, clip, step and seconds so far."""

    def __init__(self, model: OrbitModel, settings: Settings):
        self.model, self.ema = model, copy.deepcopy(model).requires_grad_(False)
        self.optimizers = make_optimizers(model, settings)
        self.parameters = [p for group in self.groups for p in group["params"]]
        # Statistics of batch normalisation are averages already.
        kept = model.state_dict().keys()
        names = [name for name, _ in model.named_buffers() if name in kept]
        self.statistics = [(self.ema.get_buffer(name), model.get_buffer(name)) for name in names]
        self.clip = AdaptiveClip(settings.clip)
        self.step, self.seconds = 0, 0.0

    @property
    def groups(self) -> list[dict]:
        return parameter_groups(self.optimizers)

    def save(self, path: Path) -> None:
        """Writes a checkpoint, whole or not at all, and keeps the one before it as previous.safetensors."""
        from safetensors.torch import save_file

        tensors = named_tensors(self.model, self.ema, self.optimizers, {"clip": self.clip.norms})
        counters = {"step": self.step, "seconds": self.seconds, "clip": self.clip.count}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"counters": json.dumps(counters)})
            if path.exists():
                os.replace(path, path.with_name("previous.safetensors"))

    def restore(self, path: Path) -> bool:
        """Continues from the checkpoint at `path`, or the one before where that is damaged; False if there is none."""
        from safetensors import SafetensorError

        for candidate in (path, path.with_name("previous.safetensors")):
            try:
                tensors, counters = _read_checkpoint(candidate)
            except FileNotFoundError:
                continue
            except SafetensorError as error:
                print(f"{candidate} is damaged ({error}): trying the checkpoint before it")
                continue
            self.model.load_state_dict(strip_prefix(tensors, "model/"))
            self.ema.load_state_dict(strip_prefix(tensors, "ema/"))
            for prefix, optimizer in self.optimizers.items():
                states: dict[int, dict[str, Tensor]] = {}
                for key, v in strip_prefix(tensors, f"{prefix}/").items():
                    k, name = key.split("/")
                    states.setdefault(int(k), {})[name] = v
                optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
            self.clip.norms, self.clip.count = tensors["clip"], counters["clip"]
            self.step, self.seconds = counters["step"], counters["seconds"]
            return True
        return False


def make_optimizers(
    model: OrbitModel, settings: Settings, *, capturable: bool = False
) -> dict[str, torch.optim.Optimizer]:
    """AdamW, by the name of "optimizer", for all weights, or Muon, "muon", for the matrices of phi's blocks.

    Every parameter group says its full learning rate as `base_lr`.

    Args:
        model: on its device.
        settings: the rates and the weight decay; Muon where there is a `muon_lr`.
        capturable: AdamW can be recorded as a CUDA graph; its rates are tensors then.

    Raises:
        ValueError: a `muon_lr` where torch has no Muon or the network no blocks.
    """
    matrices = [] if settings.muon_lr is None else _block_matrices(model.network)
    apart = {id(p) for p in matrices}
    groups = []
    for part, lr in ((model.network, settings.lr), (model.canonicalizer, settings.canonicalizer_lr)):
        if params := [p for p in part.parameters() if p.requires_grad and id(p) not in apart]:
            groups.append({"params": params, "lr": torch.tensor(lr, device=params[0].device) if capturable else lr})
    decay = settings.weight_decay
    made: dict[str, torch.optim.Optimizer] = {}
    made["optimizer"] = torch.optim.AdamW(groups, amsgrad=True, weight_decay=decay, capturable=capturable)
    if settings.muon_lr is not None:
        made["muon"] = torch.optim.Muon(
            matrices, lr=settings.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
    for group in parameter_groups(made):
        group["base_lr"] = float(group["lr"])
    return made


def parameter_groups(optimizers: dict[str, torch.optim.Optimizer]) -> list[dict]:
    """The parameter groups of all optimisers."""
    return [group for optimizer in optimizers.values() for group in optimizer.param_groups]


def _block_matrices(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weight matrices of a network's blocks: what Muon, which makes updates orthogonal, is for."""
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"muon_lr needs torch 2.9 or newer, this is {torch.__version__}: leave it None")
    found = [p for name, p in network.named_parameters() if "blocks." in name and p.ndim == 2 and p.requires_grad]
    if not found:
        raise ValueError(f"{type(network).__name__} has no blocks for Muon: leave muon_lr None")
    return found


def named_tensors(
    model: OrbitModel, ema: OrbitModel, optimizers: dict[str, torch.optim.Optimizer], more: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Copies on the CPU of all tensors of a checkpoint, by the names under which they are stored."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema/{k}": v for k, v in ema.state_dict().items()}
    for prefix, optimizer in optimizers.items():
        for k, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}/{k}/{name}": v for name, v in state.items()}
    return {k: v.detach().cpu().contiguous().clone() for k, v in (tensors | more).items()}


def _read_checkpoint(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict]:
    if path.suffix == ".pt":  # of canonkit.hour
        saved = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        return {k: v for k, v in saved["tensors"].items() if k.startswith(prefix)}, saved["counters"]
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = [k for k in file.keys() if k.startswith(prefix)]  # noqa: SIM118 (not a dict)
        return {k: file.get_tensor(k) for k in names}, json.loads(file.metadata()["counters"])


def strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _readable_checkpoint(folder: Path, prefix: str) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and counters of a run's newest checkpoint that can be read, None where there is none."""
    from safetensors import SafetensorError

    for name in ("checkpoint.safetensors", "previous.safetensors", "checkpoint.pt", "averaged.pt"):
        with suppress(FileNotFoundError, SafetensorError):
            return _read_checkpoint(folder / name, prefix)
    return None


def load_averaged(model: OrbitModel, folder: str | Path) -> dict:
    """Loads a run's averaged weights into `model`; returns the counters {step, seconds, clip}.

    Raises:
        FileNotFoundError: where the folder holds no checkpoint that can be read.
    """
    found = _readable_checkpoint(Path(folder), "ema/")
    if found is None:
        raise FileNotFoundError(
            f"{folder} holds no readable checkpoint: train there first, `canonkit train ... --out {folder}`"
        )
    model.load_state_dict(strip_prefix(found[0], "ema/"))
    return found[1]


def read_counters(folder: str | Path) -> dict:
    """How far a run has come by its checkpoint: step and seconds, zero where there is none."""
    found = _readable_checkpoint(Path(folder), "nothing but the counters")
    return {"step": 0, "seconds": 0.0} if found is None else found[1]


def is_finished(counters: dict, steps: int | None, minutes: float | None) -> bool:
    """Whether a budget of steps or minutes is spent."""
    enough_steps = steps is not None and counters["step"] >= steps
    return enough_steps or (minutes is not None and counters["seconds"] >= 60 * minutes)


def read_log(folder: str | Path) -> list[dict]:
    """The lines of a run's log.jsonl: dicts with `kind` train, valid or sample, `step`, `seconds` and values."""
    path = Path(folder) / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:  # a line cut short by a kill
            break
    return entries


# -- one step and its measures ----------------------------------------------------------------------------------------


def one_step(
    state: State,
    net,
    x: Samples,
    settings: Settings,
    rank: int = 0,
    world: int = 1,
    backward=None,
    canonical: bool = False,
) -> dict:
    """One optimiser step on a global batch; returns the loss terms and gradient norm as tensors.

    `canonical` says that the batch stands in its canonical form already.
    """
    generator = torch.Generator().manual_seed(settings.seed * 1_000_000_007 + state.step)
    if settings.augment:
        x = state.model.process.space.randomize(x, generator)
    rows = slice(rank, None, world)
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed())  # dropout knows no generator
        if not canonical and not state.model.learned:  # first: a flow deals its noise out among canonical molecules
            x, canonical = state.model.canonicalizer(x).x, True
        draw = state.model.process.draw(x, generator)
        loss = net(x[rows], draw[rows], canonical)
    share = len(draw.t[rows]) * world / len(x)  # so that the mean over processes is the mean over the batch
    (backward or Tensor.backward)(loss.total * share)
    norm = state.clip(state.parameters)
    for group in state.groups:
        group["lr"] = group["base_lr"] * settings.rate(state.step)
    for optimizer in state.optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    state.step += 1
    # Early on a shorter average, (1 + step) / (10 + step), so that a short run is not mostly its initial weights.
    decay = min(settings.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.ema.parameters()), list(state.model.parameters()), 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for average, current in state.statistics:
            average.copy_(current)
    return {"loss": loss.total.detach(), **{k: v.detach() for k, v in loss.terms.items()}, "gradient_norm": norm}


@torch.no_grad()
def validate(model: OrbitModel, data: Samples, *, seed: int = 0, batch_size: int = 256) -> dict[str, float]:
    """Training loss by terms and, of diffusion, NLL bound (nats): means over samples, same noise at every call.

    The bound's terms at small t weigh most and are few in one draw per sample: its `nll_error` is the standard error.
    """
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, float] = {}
    nll = []
    for rows in torch.argsort(lengths(data).cpu(), stable=True).split(batch_size):
        x = model.canonicalizer(take(data, rows, model.size_counts.device)).x
        with repeatable(generator):
            loss = model(x, model.process.draw(x, generator), canonical=True)
        for name, value in {"loss": loss.total, **loss.terms}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(x)
        if model.process.has_nll:
            nll.append(model.nll(x, generator, canonical=True).double().cpu())
    model.train(was_training)
    found = {k: v / len(data) for k, v in sums.items()}
    if nll:
        bound = torch.cat(nll)
        found |= {"nll": float(bound.mean()), "nll_error": float(bound.std() / len(bound) ** 0.5)}
    return found


@dataclass(frozen=True)
class Cost:
    """What training will cost on this machine, measured over a few steps of a copy that is thrown away."""

    steps_per_second: float
    samples_per_second: float
    peak_memory_gb: float


def measure_cost(
    state: State, data: Samples, batches: LengthBatches, settings: Settings, steps: int = 6, canonical: bool = False
) -> Cost:
    """Times training steps of typical batches without touching the run's state."""
    probe = State(copy.deepcopy(state.model), settings)
    device = state.model.size_counts.device
    picks = batches.epoch(0)[: steps + 2]
    times = []
    for rows in picks:
        x = take(data, rows, device)
        start = time.perf_counter()
        float(one_step(probe, probe.model, x, settings, canonical=canonical)["loss"])  # waits for the device
        times.append(time.perf_counter() - start)
    seconds = sum(times[2:] or times) / len(times[2:] or times)
    return Cost(1 / seconds, batches.batch_size / seconds, peak_memory(device) / 1e9)


# -- the loop ---------------------------------------------------------------------------------------------------------


@contextmanager
def locked_folder(out: Path, patience: float = 60.0) -> Iterator[None]:
    """Holds a run's folder, so that two processes never train the same run; a kill lets go of it.

    Raises:
        FileExistsError: another process holds it, and still does after `patience` seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "lock", "w") as file:
        end = time.monotonic() + patience
        while not _try_lock(file):
            if time.monotonic() > end:
                raise FileExistsError(f"{out} is being trained by another process: stop that, or choose another folder")
            time.sleep(0.2)
        yield


def _try_lock(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_training(folder: str | Path) -> bool:
    """Whether a process is training the run in that folder now."""
    path = Path(folder) / "lock"
    if not path.exists():
        return False
    with open(path) as file:
        return not _try_lock(file)


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a step is never cut in half."""
    stop = threading.Event()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    model: OrbitModel,
    data: Samples,
    valid: Samples,
    settings: Settings,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    canonical: bool = False,
    describe: dict | None = None,
    measure: Callable[[Samples], dict] | None = None,
    device: str | torch.device | None = None,
    monitor: Callable[[list[dict]], None] | None = None,
    progress: bool = True,
    checkpoint_seconds: float = 60.0,
) -> OrbitModel:
    """Trains until `steps` or `minutes` (over all resumptions) are reached; returns the averaged model.

    Args:
        model: trained in place.
        data, valid: training and validation samples; validation uses the first 1,024.
        settings: see `Settings`.
        out: the run's folder.
        minutes, steps: the budget; at least one.
        resume: continue the run in `out`; without it a folder that holds one is refused.
        canonical: `data` stands in canonical form already.
        describe: what run.json should say of the model and the data, compared at resumption.
        measure: what is measured of generated samples while training; None for nothing.
        device: by default the best there is.
        monitor: called with all log entries after each new one, for live curves.
        progress: print the cost beforehand and show a bar with the time left.
        checkpoint_seconds: seconds between checkpoints.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False; or another process is training there.
        ValueError: no budget; or the run in `out` was started with other settings.
        FloatingPointError: the loss is no longer finite; the last good checkpoint stays.
    """
    from tqdm.auto import tqdm

    if minutes is None and steps is None:
        raise ValueError("give a budget: minutes or steps")
    began = time.monotonic()
    out = Path(out)
    accelerator = None
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        require("accelerate")
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=device == "cpu")
        device = accelerator.device
    main = accelerator is None or accelerator.is_main_process
    rank, world = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    device = best_device() if device is None else torch.device(device)
    fast = fast_dtype(settings.precision, device)
    model.to(device).train()
    for part in (model.network, model.canonicalizer):
        if hasattr(part, "fast_dtype"):
            part.fast_dtype = fast

    with locked_folder(out) if main else nullcontext():
        about = (describe or {}) | {"settings": asdict(settings)}
        claim_folder(out, about, {"steps": steps, "minutes": minutes}, resume, main, hardware(device))
        state = State(model, settings)
        checkpoint = out / "checkpoint.safetensors"
        if resume:
            state.restore(checkpoint)
        entries = [e for e in read_log(out) if e["step"] <= state.step]
        batches = LengthBatches(lengths(data), settings.batch_size, settings.seed)
        net = model
        if accelerator is not None:
            net = accelerator.prepare_model(model)
        elif progress:
            cost = measure_cost(state, data, batches, settings, canonical=canonical)
            _announce(cost, state, minutes, steps, len(batches), device, fast, time.monotonic() - began)

        if main:
            with replacing(out / "log.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(e) + "\n" for e in entries))

        def log(kind: str, values: dict) -> None:
            entry = {"kind": kind, "step": state.step, "seconds": round(state.seconds, 2)}
            entry |= {"seen": state.step * settings.batch_size, **values}
            entries.append(entry)
            with open(out / "log.jsonl", "a") as file:
                file.write(json.dumps(entry) + "\n")
            if monitor is not None:
                monitor(entries)

        def finished() -> bool:
            return is_finished({"step": state.step, "seconds": state.seconds}, steps, minutes)

        def due(every: int) -> bool:
            return main and bool(every) and (state.step % every == 0 or finished())

        in_steps = steps is not None
        bar = tqdm(
            total=steps if in_steps else 60 * minutes,
            initial=state.step if in_steps else round(state.seconds),
            desc="training",
            unit="step" if in_steps else "s",
            bar_format=None if in_steps else "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            disable=not (progress and main),
        )
        sums: dict[str, Tensor] = {}
        summed = 0
        saved = clock = time.monotonic()
        with _stop_on_signal() as stop, bar:
            for rows in batches.from_step(state.step):
                stopping = finished() or stop.is_set()
                if accelerator is not None:  # all processes stop at the same step
                    flag = torch.tensor(float(stopping), device=device)
                    stopping = bool(accelerator.reduce(flag, "max") > 0)
                if stopping:
                    break
                x = take(data, rows, device)
                backward = accelerator and accelerator.backward
                values = one_step(state, net, x, settings, rank, world, backward, canonical)
                sums = {k: sums.get(k, 0) + v for k, v in values.items()}
                now = time.monotonic()
                state.seconds, clock = state.seconds + now - clock, now
                summed += 1
                if due(settings.log_every):
                    means = {k: float(v) / summed for k, v in sums.items()}
                    sums, summed = {}, 0
                    if not means["loss"] < float("inf"):
                        where = f"the loss is {means['loss']} near step {state.step}"
                        raise FloatingPointError(f"{where}: train anew with a lower lr; {checkpoint} is from before")
                    log("train", means)
                    bar.set_postfix_str(f"step {state.step}, loss {means['loss']:.4f}", refresh=False)
                if due(settings.validate_every):
                    bar.set_description_str("measuring the loss")
                    log("valid", validate(state.ema, valid[:1024]))
                if measure is not None and due(settings.sample_every):
                    bar.set_description_str(f"measuring {settings.samples} samples")
                    found = measure(state.ema.sample(settings.samples, settings.sample_steps, seed=0))
                    log("sample", found | {"samples": settings.samples, "steps": settings.sample_steps})
                if main and now - saved > checkpoint_seconds:
                    state.save(checkpoint)
                    saved = time.monotonic()
                bar.set_description_str("training", refresh=False)
                clock = time.monotonic()  # measuring and saving do not count as training
                bar.update(1 if in_steps else min(state.seconds, bar.total) - bar.n)
        if main:
            state.save(checkpoint)
        return state.ema


MEASURED = ("log_every", "validate_every", "sample_every", "samples", "sample_steps")  # settings that train nothing
RENAMED = {"guessing": "self_conditioning"}


def read_card(path: Path) -> dict:
    """A run.json or a card; what it calls by a name of earlier versions has its present one."""
    return json.loads(path.read_text(), object_pairs_hook=lambda pairs: {RENAMED.get(k, k): v for k, v in pairs})


def claim_folder(out: Path, about: dict, budget: dict, resume: bool, main: bool, machine: str) -> None:
    """Writes run.json, or checks that the run there is the one to continue and notes its new budget."""
    path = out / "run.json"
    card = about | {"hardware": machine, "torch": torch.__version__, "started": time.strftime("%Y-%m-%d")}
    if path.exists():
        if not resume:
            raise FileExistsError(f"{out} holds a run: continue it with resume (--resume) or choose another folder")
        card = read_card(path)
        if differences := _differences(card, json.loads(json.dumps(about))):
            raise ValueError(f"{path} was started with {'; '.join(differences)}: use another folder")
        card["settings"] |= {name: about["settings"][name] for name in MEASURED}
    if main:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(card | {"budget": budget}, indent=1))


def _differences(card: dict, about: dict) -> list[str]:
    """What is not as the card says, by name; how training is measured may change.

    A setting that came after a run was begun was at its default, None.
    """
    found = []
    for key, value in about.items():
        old, new = (x if isinstance(x, dict) else {"": x} for x in (card.get(key), value))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name) and not (key == "settings" and name in MEASURED):
                found.append(f"{f'{key} {name}'.strip()} = {old.get(name)}, not {new.get(name)}")
    return found


def _announce(
    cost: Cost,
    state: State,
    minutes,
    steps,
    per_epoch: int,
    device: torch.device,
    fast: torch.dtype | None,
    startup: float,
) -> None:
    left = [] if steps is None else [(steps - state.step) / cost.steps_per_second]
    if minutes is not None:
        left.append(60 * minutes - state.seconds)
    seconds = max(0.0, min(left))
    total = state.step + seconds * cost.steps_per_second
    print(
        f"{hardware(device)}, {'bfloat16' if fast else 'float32'}: {cost.steps_per_second:.2f} steps per second, "
        f"{cost.samples_per_second:,.0f} samples per second\n"
        f"{seconds / 60:.2g} minutes to go, to about step {total:,.0f} ({total / per_epoch:.2g} epochs); "
        f"peak memory of this process {cost.peak_memory_gb:.1f} GB\n"
        f"the start took {startup:.0f} seconds; it and measuring come on top of the budget"
    )
