"""How much faster the kit's networks are: both formulations with the same weights and molecules, alternating in one
process per case.

Repetition r takes a batch of QM9 molecules of one length, the (r + 1/2)/R quantile of QM9's lengths: the plain form
gets them padded to 29 atoms as its authors do, ours as it trains, unpadded. Seconds are medians over repetitions. Peak
memory is the growth of a fresh process's resident set during one call (on CUDA: of its tensors). The floor is the
number of matrix operations over this machine's measured matmul rate in the same precision.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from canonkit.bench import plain
from canonkit.data.qm9 import LONGEST, QM9, load_qm9
from canonkit.molecules import Molecules
from canonkit.names import choose
from canonkit.networks import EGNN, GNN, MCEGNN, DiT
from canonkit.processes import MoleculeSpace
from canonkit.tables import text_table
from canonkit.training.machine import best_device, hardware, matmul_rate, native_bfloat16, peak_memory

NETWORKS = ("GDM", "EDM", "MC-EGNN", "DiT")
BATCHES = (16, 64)
KINDS = ("train_step", "evaluation")
ATOMS = (9, 18, 29, 60, 120)


def bench_qm9(repeat: int = 5, *, batches=BATCHES, networks=NETWORKS, progress: bool = True) -> list[dict]:
    """Times every network at paper scale; one dict per network, batch and kind.

    Returns:
        network, batch, what ('train_step': loss, backward and AdamW; 'evaluation': no gradients), precision of ours,
        reference_s, ours_s, ratio, float32_s and float32_ratio (ours in float32), error (relative, of the outputs),
        reference_mb, ours_mb, reference_molecules_per_s, ours_molecules_per_s, floor_s, and for evaluations at the
        smallest batch seconds_by_atoms, per molecule.
    """
    if repeat < 1:
        raise ValueError(f"repeat {repeat} is below 1")
    if unknown := [n for n in networks if n not in NETWORKS]:
        raise ValueError(f"no network is called {unknown[0]!r}: {choose(unknown[0], NETWORKS)}")
    load_qm9(progress=progress)  # into the cache
    device = best_device()
    jobs = [(n, b, k) for n in networks for b in batches for k in KINDS]
    rates = {dtype: matmul_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    rows = []
    for job in tqdm(jobs, desc="bench", unit="case", disable=not progress):
        rows.append(_alone(_measure, *job, repeat, device, rates, job[1] == min(batches)))
    return rows


def _alone(function: Callable, *arguments):
    """function(*arguments) in a new process, so that nothing an earlier case left in the allocator matters."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_threads, torch.get_num_threads(), function, *arguments).result()


def _with_threads(threads: int, function: Callable, *arguments):
    torch.set_num_threads(threads)
    return function(*arguments)


def describe(rows: list[dict]) -> str:
    """The rows as two tables: speed and memory; growth with the number of atoms."""
    header = ["network", "batch", "", "plain s", "ours s", "ratio", "ours float32 s", "ratio", "floor s", "error"]
    header += ["plain MB", "ours MB", "molecules/s"]
    speed = [
        [
            f"{r['network']} {r['precision']}", r["batch"], r["what"].replace("_", " "),
            f"{r['reference_s']:.3f}", f"{r['ours_s']:.3f}", f"{r['ratio']:.1f}",
            f"{r['float32_s']:.3f}", f"{r['float32_ratio']:.1f}", f"{r['floor_s']:.3f}", f"{r['error']:.0e}",
            f"{r['reference_mb']:.0f}", f"{r['ours_mb']:.0f}", f"{r['ours_molecules_per_s']:.0f}",
        ]
        for r in rows
    ]  # fmt: skip
    growth = [
        [r["network"], *(f"{1e3 * s:.2f}" for s in r["seconds_by_atoms"].values())]
        for r in rows
        if "seconds_by_atoms" in r
    ]
    tables = [text_table(header, speed), "", "milliseconds per molecule of an evaluation, by atoms:"]
    return "\n".join([*tables, text_table(["network", *ATOMS], growth), "", f"on {hardware(best_device())}"])


class Case:
    """One network at paper scale with both ways to run it, fed with molecules."""

    def __init__(self, name: str, device: torch.device):
        torch.manual_seed(0)
        self.space, self.name, self.device = MoleculeSpace(), name, device
        if name == "MC-EGNN":
            self.net, self.plain = MCEGNN(5, 64, 9, 4), plain.mc_egnn
        elif name == "DiT":
            self.net, self.plain = DiT(self.space.features), plain.dit
            for p in self.net.parameters():  # some begin at zero, and a network that gives zero has no error
                nn.init.normal_(p, std=0.02)
        else:
            kind, self.plain = (EGNN, plain.egnn) if name == "EDM" else (GNN, plain.gnn)
            self.net = kind(self.space.features, 256, 9)
        self.net.to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-5, amsgrad=True)

    def inputs(self, molecules: Molecules) -> tuple[Tensor, Tensor, Tensor]:
        """The network's two inputs and the mask."""
        molecules = molecules.to(self.device).centred()
        z, _ = self.space.encode(molecules)
        if self.name == "MC-EGNN":
            return nn.functional.one_hot(molecules.types, 5).to(z), molecules.positions, molecules.mask
        t = torch.linspace(0.1, 0.9, len(molecules), device=self.device)
        return z, t, molecules.mask

    def evaluation(self, forward: Callable, inputs: tuple) -> None:
        with torch.no_grad():
            forward(*inputs)

    def train_step(self, forward: Callable, inputs: tuple) -> None:
        self.optimizer.zero_grad()
        out = forward(*inputs)
        torch.stack([o.square().mean() for o in (out if isinstance(out, tuple) else (out,))]).sum().backward()
        self.optimizer.step()

    def reference(self, one: Tensor, two: Tensor, mask: Tensor):
        return self.plain(self.net, one, two, mask)  # pyright: ignore[reportArgumentType]

    def ours(self, one: Tensor, two: Tensor, mask: Tensor):
        return self.net(one, two, None if bool(mask.all()) else mask)

    def seconds(self, what: str, forward: Callable, inputs: tuple) -> float:
        start = time.perf_counter()
        getattr(self, what)(forward, inputs)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _measure(name, batch, what, repeat, device, rates, growth) -> dict:
    case, qm9 = Case(name, device), load_qm9(progress=False)
    fast = torch.bfloat16 if native_bfloat16(device) and name != "MC-EGNN" else None
    times = {"reference": [], "ours": [], "float32": []}
    for r in range(-1, repeat):  # the first time warms up
        molecules = _molecules(qm9, batch, (max(r, 0) + 0.5) / repeat)
        whole, short = case.inputs(molecules.pad(LONGEST)), case.inputs(molecules)
        for side, forward, inputs, dtype in (
            ("reference", case.reference, whole, None),
            ("ours", case.ours, short, fast),
            ("float32", case.ours, short, None),
        ):
            setattr(case.net, "fast_dtype", dtype)  # noqa: B010
            seconds = case.seconds(what, forward, inputs)
            if r >= 0:
                times[side].append(seconds)
    median = {side: float(torch.tensor(values).quantile(0.5)) for side, values in times.items()}
    setattr(case.net, "fast_dtype", fast)  # noqa: B010
    with FlopCounterMode(display=False) as counter:
        getattr(case, what)(case.ours, case.inputs(_molecules(qm9, batch, 0.5)))
    row = {
        "network": name,
        "batch": batch,
        "what": what,
        "precision": "bfloat16" if fast else "float32",
        "reference_s": median["reference"],
        "ours_s": median["ours"],
        "ratio": median["reference"] / median["ours"],
        "float32_s": median["float32"],
        "float32_ratio": median["reference"] / median["float32"],
        "error": _error(case, _molecules(qm9, batch, 0.5)),
        "reference_mb": _peak_mb(case, what, "reference", qm9, batch),
        "ours_mb": _peak_mb(case, what, "ours", qm9, batch),
        "reference_molecules_per_s": batch / median["reference"],
        "ours_molecules_per_s": batch / median["ours"],
        "floor_s": counter.get_total_flops() / rates[fast or torch.float32],
    }
    if growth and what == "evaluation":
        row["seconds_by_atoms"] = {n: _seconds_at(case, n, batch) for n in ATOMS}
    return row


def _molecules(qm9: QM9, batch: int, quantile: float) -> Molecules:
    """A batch of molecules of one length, that quantile of QM9's."""
    n = int(qm9.molecules.sizes.double().quantile(quantile, interpolation="nearest"))
    return qm9.molecules[(qm9.molecules.sizes == n).nonzero()[:batch, 0]].trim()


def _error(case: Case, molecules: Molecules) -> float:
    """|ours - reference| / |reference| of the outputs, in the precision of ours."""
    n = molecules.mask.shape[1]
    with torch.no_grad():
        ours = case.ours(*case.inputs(molecules))
        theirs = case.reference(*case.inputs(molecules.pad(LONGEST)))
    pairs: Any = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    return max(float((a - b[:, :n]).norm() / b.norm()) for a, b in pairs)


def _seconds_at(case: Case, atoms: int, batch: int) -> float:
    """Seconds per molecule of that many atoms, of an evaluation; best of three."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(batch, atoms, 3, generator=generator)
    molecules = Molecules(x, torch.ones(batch, atoms, dtype=torch.long), torch.ones(batch, atoms, dtype=torch.bool))
    inputs = case.inputs(molecules)
    return min(case.seconds("evaluation", case.ours, inputs) for _ in range(3)) / batch


def _peak_mb(case: Case, what: str, side: str, qm9: QM9, batch: int) -> float:
    """Peak memory of one call in a process of its own, in MB beyond what stood there before."""
    batches = [_molecules(qm9, 1, 0.0), _molecules(qm9, batch, 0.5)]
    if side == "reference":
        batches = [x.pad(LONGEST) for x in batches]
    dtype = case.net.fast_dtype if side == "ours" else None
    return _alone(_call_twice, case.name, case.device, dtype, what, side, batches) / 1e6


def _call_twice(name, device, dtype, what, side, batches) -> int:
    """Bytes that the second call needs beyond the first, one molecule's, which loads what is loaded once."""
    case = Case(name, device)
    setattr(case.net, "fast_dtype", dtype)  # noqa: B010
    peaks = []
    for molecules in batches:
        getattr(case, what)(getattr(case, side), case.inputs(molecules))
        peaks.append(peak_memory(device))
    return peaks[1] - peaks[0]
