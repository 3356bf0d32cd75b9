"""How time and memory grow with the number of atoms: a training step and an evaluation of each system.

The molecules are made up: all of one length, atoms at random at the density of molecules, single bonds along a chain.
Each system and length has a process of its own. Its memory is what the process grows by in one call. A batch has fewer
molecules where they would take more than a minute or half of the free memory; the row says how many it had. Canonical
forms are found once, before training: they take no part.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from canonkit.bench import plain
from canonkit.bench.molecules import _alone
from canonkit.molecules import Molecules
from canonkit.names import choose
from canonkit.networks import EGNN
from canonkit.recipes.names import recipe
from canonkit.tables import text_table
from canonkit.training import State, best_device, hardware, one_step, set_precision
from canonkit.training.machine import peak_memory

ATOMS = (9, 18, 29, 45, 60, 90, 120, 181)  # 181: the largest molecule of GEOM-Drugs
SYSTEMS = ("CanonFlow", "DiT", "GDM", "EDM", "EDM, plain")
BATCH, EVALUATIONS, PATIENCE = 16, 2, 60.0


class _Plain(nn.Module):
    """EDM's network in the published formulation."""

    def __init__(self, net: EGNN):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        return plain.egnn(self.net, z, t, z.new_ones(z.shape[:2], dtype=torch.bool) if mask is None else mask)


def bench_scaling(
    repeat: int = 3,
    *,
    systems: tuple[str, ...] = SYSTEMS,
    atoms: tuple[int, ...] = ATOMS,
    scale: str = "laptop",
    batch: int = BATCH,
    progress: bool = True,
) -> list[dict]:
    """One dict per system and number of atoms.

    Returns:
        system, scale, atoms, what ('train_step': loss, backward, optimizer; 'evaluation': the network once, in
        sampling), batch, seconds (per molecule, the best of `repeat`), mb (of the batch), bytes_per_pair (mb over
        batch x atoms^2), hardware.

    Raises:
        ValueError: no system of that name, fewer than one repetition.
    """
    if repeat < 1:
        raise ValueError(f"repeat {repeat} is below 1")
    if unknown := [s for s in systems if s not in SYSTEMS]:
        raise ValueError(f"no system is called {unknown[0]!r}: {choose(unknown[0], SYSTEMS)}")
    jobs = [(s, n) for n in atoms for s in systems]
    bar = tqdm(jobs, desc="bench", unit="case", disable=not progress)
    return [row for name, n in bar for row in _alone(_measure, name, scale, n, batch, repeat)]


def chains(batch: int, atoms: int, seed: int = 0) -> Molecules:
    """Made-up molecules of carbon: positions at random, one atom in 10 cubic Å, bonded in a chain; all canonical."""
    generator = torch.Generator().manual_seed(seed)
    x = (10 * atoms) ** (1 / 3) * (torch.rand(batch, atoms, 3, generator=generator) - 0.5)
    i = torch.arange(atoms - 1)
    bonds = torch.zeros(batch, atoms, atoms, dtype=torch.int8)
    bonds[:, i, i + 1] = bonds[:, i + 1, i] = 1
    numbers = torch.full((batch, atoms), 6)
    return Molecules.from_arrays(x, numbers, bonds=bonds, charges=torch.zeros_like(numbers)).centred()


def _measure(name: str, scale: str, atoms: int, batch: int, repeat: int) -> list[dict]:
    device = best_device()
    chosen = recipe(name.removesuffix(", plain"), scale)
    chosen = replace(chosen, own=replace(chosen.form, longest=atoms))
    model = chosen.build(torch.ones(atoms + 1, dtype=torch.long)).to(device).train()
    if name.endswith("plain"):
        model.network = _Plain(model.network)  # pyright: ignore[reportArgumentType]
    else:
        set_precision(model, chosen.settings.precision)
    state = State(model, chosen.settings)

    def evaluation(x: Molecules) -> float:
        seconds = _seconds(lambda: model.process.sample(model.network, x.sizes, EVALUATIONS), device)
        return seconds / model.process.evaluations(EVALUATIONS)

    def train_step(x: Molecules) -> float:
        return _seconds(lambda: one_step(state, model, x), device)

    small = chains(2, 2).to(device)
    for _ in range(2):  # loads what is loaded once
        evaluation(small)
        train_step(small)
    before, rows = peak_memory(device), []
    for what, call in (("evaluation", evaluation), ("train_step", train_step)):
        one = chains(1, atoms).to(device)
        call(one)
        seconds = call(one)
        bytes_each = max(1, peak_memory(device) - before)
        count = int(max(1, min(batch, PATIENCE // seconds, _free(device) / 2 // bytes_each)))
        x = chains(count, atoms).to(device)
        best = min(call(x) for _ in range(repeat))
        grown = peak_memory(device) - before
        rows.append(
            {
                "system": name,
                "scale": scale,
                "atoms": atoms,
                "what": what,
                "batch": count,
                "seconds": best / count,
                "mb": grown / 1e6,
                "bytes_per_pair": grown / (count * atoms**2),
                "hardware": hardware(device),
            }
        )
    return rows


def _seconds(call: Callable, device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _free(device: torch.device) -> int:
    """Bytes of memory that nobody uses; 8 GB where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 8 * 10**9


def describe_scaling(rows: list[dict]) -> str:
    """The rows as four tables: time and memory of a training step and of an evaluation, by atoms."""
    atoms, systems = (list(dict.fromkeys(r[k] for r in rows)) for k in ("atoms", "system"))
    found = {(r["what"], r["system"], r["atoms"]): r for r in rows}
    full = max(r["batch"] for r in rows)

    def table(what: str, title: str, cell: Callable[[dict], str]) -> str:
        cells = [[s, *(cell(found[what, s, n]) for n in atoms)] for s in systems]
        return f"{title}\n{text_table(['system', *atoms], cells)}\n"

    def milliseconds(r: dict) -> str:
        return f"{1e3 * r['seconds']:.3g}" + ("" if r["batch"] == full else f" ({r['batch']})")

    def megabytes(r: dict) -> str:
        return f"{r['mb']:,.0f}" + ("" if r["batch"] == full else f" ({r['batch']})")

    return "\n".join(
        [
            table(
                "train_step", f"training step, ms per molecule, batch {full} unless in brackets, by atoms", milliseconds
            ),
            table("train_step", "training step, MB", megabytes),
            table("evaluation", "evaluation, ms per molecule", milliseconds),
            table("evaluation", "evaluation, MB", megabytes),
            f"{rows[0]['scale']} scale, on {rows[0]['hardware']}",
        ]
    )
