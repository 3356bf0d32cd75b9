"""Damages files, fills disks and kills processes, and counts what is lost, what is believed and what crashes.

    python -m tests.campaign                        # a small part of it, as in `make test`
    python -m tests.campaign --full                 # all of it; or some parts, such as: mutations kills
    python -m tests.campaign --full --keep found.jsonl --only card

What is tried is a function of the seed, so that a failure can be looked at again. Readers and writers work in child
processes, which may use 1 GB more than what was there before and take ten seconds per try.

A try survives where the kit refuses a file in one line that names it, makes a cache anew, or reads what was written. A
file with a hash must never be read as anything else. One without (text that people write, such as .xyz, queues and
logs) may also be read as another file that is as described.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import gzip
import hashlib
import importlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import canonkit as ck
from canonkit import releases, results
from canonkit.chemistry.hydrogens import without_hydrogens
from canonkit.data import qm9_files, rotmnist
from canonkit.data.own import OwnMolecules
from canonkit.data.packed import pack, unpack
from canonkit.data.stored import load_stored, store
from canonkit.metrics import known_smiles
from canonkit.molecules import Molecules
from canonkit.published import read_tensors
from canonkit.queue import read_queue
from canonkit.recipes import load_run, recipe
from canonkit.tables import Table
from canonkit.training import loop, read_log, train
from canonkit.training.checkpoint import read_checkpoint, write_checkpoint
from canonkit.widgets import threedmol

SLOW = (
    "torch._dynamo",
    "rdkit.Chem",
    "rdkit.Chem.rdDetermineBonds",
    "matplotlib.pyplot",
    "scipy.spatial",
    "tqdm.auto",
    "torch_geometric.data",
)  # imported before children are made
FORK = get_context("fork")
SECONDS, BYTES = 10, 10**9  # for one try
FULL = {"mutations": 5000, "damage": 1000, "disk": 50, "kills": 50, "training": 100, "together": 200}
SMALL = {"mutations": 30, "damage": 20, "disk": 3, "kills": 3, "training": 2, "together": 5}


# -- what there is to damage: small files of every kind ---------------------------------------------------------------


def molecules(seed: int = 0, count: int = 12) -> Molecules:
    """Methanes, each with noise of its own, with bonds, charges and titles."""
    generator = torch.Generator().manual_seed(seed)
    x = 1.09 / 3**0.5 * torch.tensor([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    positions = [x + 0.02 * torch.randn(x.shape, generator=generator) for _ in range(count)]
    bonds = torch.tensor([[0, k, 1] for k in range(1, 5)])
    return Molecules.from_list(
        positions,
        [torch.tensor([6, 1, 1, 1, 1])] * count,
        charges=[torch.zeros(5, dtype=torch.long)] * count,
        bonds=[bonds] * count,
        titles=[f"methane {b}" for b in range(count)],
    )


def small_run(out: Path, steps: int = 3, seconds: float = 60.0, resume: bool = False) -> None:
    """Trains a small model of methanes into the folder."""
    data = OwnMolecules(molecules(count=40), "methanes")
    changes = {"batch_size": 8, "log_every": 5, "validate_every": 20, "sample_every": 0, "lr": 1e-3, "ema": 0.9}
    chosen = recipe("GDM", **changes).on(data)
    prepared = replace(chosen, network_settings={"width": 8, "layers": 1}).prepare(data)
    options = {"device": "cpu", "progress": False, "checkpoint_seconds": seconds}
    train(prepared, out, steps=steps, resume=resume, **options)


def digest(value: object) -> str:
    """A hash of tensors, molecules and whatever has a repr, to compare by."""
    if isinstance(value, Molecules):
        value = vars(value)
    if isinstance(value, torch.Tensor):
        value = (str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes())
    if isinstance(value, np.ndarray):
        value = (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        value = [(k, digest(v)) for k, v in sorted(value.items())]
    if isinstance(value, list | tuple):
        value = [v if isinstance(v, bytes) else digest(v) for v in value] if not isinstance(value, str) else value
    return hashlib.sha256(repr(value).encode()).hexdigest()


def released(folder: Path) -> None:
    """Weights of the small run with their card, as `canonkit release` keeps them."""
    small_run(folder / "run")
    evaluation = {"molecule_stable": 0.5, "atom_stable": 0.9, "valid": 0.5, "molecules": 10, "steps": 100}
    evaluation |= {"seconds": 1.0, "seen": 24, "validation_loss": 0.5, "protocol": "none"}
    releases.release(load_run(folder / "run"), lambda run: run.provenance() | evaluation, "small", folder)


def images(folder: Path) -> None:
    """Four IDX files that pass for MNIST, the images packed."""
    numbers = np.random.default_rng(0)
    for name in rotmnist.IDX:
        count = 60 if "train" in name else 10
        shape = (count, 28, 28) if "images" in name else (count,)
        x = numbers.integers(0, 256 if len(shape) == 3 else 10, shape).astype(np.uint8)
        content = bytes([0, 0, 8, x.ndim]) + b"".join(n.to_bytes(4, "big") for n in x.shape) + x.tobytes()
        rotmnist.IDX[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
        packed = name == "train-images-idx3-ubyte"
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


def amat(folder: Path) -> None:
    numbers = np.random.default_rng(0)
    for name in rotmnist.AMAT:
        rotmnist.AMAT[name] = 4
        rows = np.column_stack([numbers.random((4, 784)).round(3), numbers.integers(0, 10, 4)])
        np.savetxt(folder / name, rows, fmt="%.4g")


def wheel(folder: Path) -> None:
    """A CSV file as in the qm9pack wheel."""
    lines = ["Index,SMILES,Elements,XYZ_Ang"]
    for b, x in enumerate(molecules().positions.tolist()):
        lines.append(f"{b + 1},C,\"['C', 'H', 'H', 'H', 'H']\",\"{x}\"")
    (folder / "qm9_part1.csv").write_text("\n".join(lines) + "\n")


def read_wheel(folder: Path):
    qm9_files.qm9pack_files = lambda: [folder / "qm9_part1.csv"]
    return qm9_files.parse_qm9pack(False)


def pyg(folder: Path) -> None:
    """Molecules as PyTorch Geometric saves its processed QM9."""
    from torch_geometric.data import Data, InMemoryDataset

    x = molecules()
    items = [Data(pos=m.positions[0], z=m.numbers[0], idx=b, name=f"gdb_{b + 1}") for b, m in enumerate(x)]
    InMemoryDataset.save(items, str(folder / "data_v3.pt"))


def three_dmol(folder: Path) -> None:
    """A copy of 3Dmol.js that the user named, with its hash."""
    path, content = folder / "labextensions" / "canonkit" / threedmol.FILE, b"var $3Dmol = {};\n" * 200
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest())


def read_three_dmol(folder: Path) -> bytes | None:
    os.environ["JUPYTER_DATA_DIR"] = str(folder)
    os.environ.pop(threedmol.SOURCE, None)
    found = threedmol.local_copy()  # asked offline, so that None stands for fetching it anew
    return None if found is None else found.read_bytes()


def run_digest(run) -> str:
    return digest([run.model.state_dict(), run.card, run.log, run.step, run.seconds])


QUEUE = """folder = "runs"
at_once = 2

[[run]]
recipe = "canon+GDM"
minutes = 120
seed = 1
set = { lr = 1e-3, batch_size = 32 }

[[run]]
recipe = "GDM"
steps = 4000
name = "control"
"""


@dataclass(frozen=True)
class Reader:
    """A kind of file: which one is damaged, how a good one is made, how it is read; whether its hash is known."""

    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    hashed: bool = False


def read_molecules(name: str) -> Callable[[Path], object]:
    return lambda folder: ck.read(folder / name, progress=False)


READERS = {
    "sdf": Reader("a.sdf", lambda f: ck.write(molecules(), f / "a.sdf"), read_molecules("a.sdf")),
    "xyz": Reader("a.xyz", lambda f: ck.write(molecules(), f / "a.xyz"), read_molecules("a.xyz")),
    "npz": Reader("a.npz", lambda f: ck.write(molecules(), f / "a.npz"), read_molecules("a.npz")),
    "packed": Reader(
        "a.packed.npz",
        lambda f: pack(OwnMolecules(without_hydrogens(molecules(count=20)), heavy=True), f / "a.packed.npz"),
        lambda f: [vars(unpack(f / "a.packed.npz").part(part)) for part in ("train", "valid")],
    ),
    "card": Reader("small.card.json", released, lambda f: run_digest(load_from(f, "small")), True),
    "weights": Reader("small.safetensors", released, lambda f: run_digest(load_from(f, "small")), True),
    "run.json": Reader("run.json", small_run, lambda f: run_digest(load_run(f)), True),
    "log": Reader("log.jsonl", small_run, read_log),
    "checkpoint": Reader("checkpoint.safetensors", small_run, lambda f: run_digest(load_run(f)), True),
    "queue": Reader(
        "queue.toml", lambda f: (f / "queue.toml").write_text(QUEUE), lambda f: read_queue(f / "queue.toml")
    ),
    "results": Reader(
        "costs-laptop.json",
        lambda f: shutil.copy(Path(results.__file__).parent / "pretrained" / "costs-laptop.json", f),
        lambda f: shipped(f, "costs-laptop"),
    ),
    "cache": Reader(
        "a.safetensors",
        lambda f: store(
            f / "a.safetensors", {"x": torch.arange(60).reshape(5, 4, 3), "y": torch.ones(3).byte()}, by="me"
        ),
        lambda f: load_stored(f / "a.safetensors"),
        True,
    ),
    "rotmnist cache": Reader(
        "rotmnist.safetensors",
        lambda f: rotmnist._stored(f / "rotmnist.safetensors", little_digits),
        lambda f: vars(rotmnist._stored(f / "rotmnist.safetensors", made_anew)),
        True,
    ),
    "smiles cache": Reader("", lambda f: smiles(f), lambda f: smiles(f), True),
    "idx": Reader("train-images-idx3-ubyte.gz", images, lambda f: read_idx(f), True),
    "amat": Reader(next(iter(rotmnist.AMAT)), amat, lambda f: rotmnist._read_amat(f)[0]),
    "qm9 wheel": Reader("qm9_part1.csv", wheel, read_wheel),
    "gdb9.sdf": Reader(
        "gdb9.sdf",
        lambda f: ck.write(replace(molecules(), titles=tuple(f"gdb_{b}" for b in range(1, 13))), f / "gdb9.sdf"),
        lambda f: qm9_files.parse_sdf(f / "gdb9.sdf", set(range(1, 13)), False),
    ),
    "pyg": Reader("data_v3.pt", pyg, lambda f: qm9_files.parse_pyg(f / "data_v3.pt", False)),
    "3dmol": Reader(f"labextensions/canonkit/{threedmol.FILE}", three_dmol, read_three_dmol, True),
    "published": Reader(
        "weights.npy",
        lambda f: torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}, f / "weights.npy"),
        lambda f: read_tensors(f / "weights.npy"),
    ),
}


class MadeAnewError(ValueError):
    """What stands for the work of making a cache anew."""


def made_anew():
    raise MadeAnewError("rotmnist.safetensors is made anew")


def little_digits():
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 1, 28, 28), generator=numbers, dtype=torch.uint8)
    return {"pixels": pixels, "digits": torch.arange(6), "angles": torch.rand(6, generator=numbers)}, "MNIST"


def smiles(folder: Path) -> list[str]:
    os.environ["CANONKIT_CACHE"] = str(folder)
    return sorted(known_smiles(molecules(), progress=False))


def load_from(folder: Path, name: str):
    os.environ["CANONKIT_WEIGHTS"] = str(folder)
    releases.FOLDER = folder
    return releases.load(name)


def shipped(folder: Path, name: str) -> list:
    results.__file__ = str(folder / "results.py")
    (folder / "pretrained").mkdir(exist_ok=True)
    shutil.copy(folder / f"{name}.json", folder / "pretrained")
    return results._shipped(name)


def read_idx(folder: Path):
    return rotmnist._mnist({n: rotmnist._unpacked(rotmnist._idx_path(folder, n)) for n in rotmnist.IDX})


# -- how it is damaged ------------------------------------------------------------------------------------------------

ODD = [
    -1,
    0,
    1,
    2,
    17,
    1.5,
    -0.5,
    1e30,
    1e308,
    10**12,
    2**63,
    2**70,
    float("nan"),
    float("inf"),
    None,
    "",
    "x",
    "../..",
    [],
    {},
    True,
]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """One flipped bit, or the file cut short."""
    if chance.random() < 0.5:
        return content[: chance.randrange(len(content))]
    k = chance.randrange(8 * len(content))
    return content[: k // 8] + bytes([content[k // 8] ^ 1 << k % 8]) + content[k // 8 + 1 :]


def mutated(content: bytes, chance: random.Random, deep: bool = True) -> bytes:
    """Another file of nearly the same form; of an archive, half of the time what is inside it."""
    if deep and chance.random() < 0.5:
        if content[:2] == b"PK":
            return _inside_zip(content, chance)
        if content[:2] == b"\x1f\x8b":
            return gzip.compress(mutated(gzip.decompress(content), chance), 1)
        with contextlib.suppress(ValueError):
            return _json(json.loads(content), chance)
    i, j = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    j = min(j, i + chance.choice([1, 2, 8, 64, 1024]))
    kind = chance.randrange(7)
    if kind == 0:
        return content[:i] + content[j:]
    if kind == 1:
        return content[:j] + content[i:]
    if kind == 2:
        return content[:i] + chance.randbytes(j - i) + content[j:]
    if kind == 3:
        return damaged(content, chance)
    if kind == 4:
        found = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", content[:100_000]))
        if found:
            a, b = chance.choice(found).span()
            return content[:a] + str(chance.choice(ODD)).encode() + content[b:]
    if kind == 5:
        found = list(re.finditer(rb"[A-Za-z_]+", content[:100_000]))
        if found:
            (a, b), (c, d) = chance.choice(found).span(), chance.choice(found).span()
            return content[:a] + content[c:d] + content[b:]
    lines = content.split(b"\n")
    a, b = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines[: a + chance.randrange(2)] + lines[a:])


def _json(value, chance: random.Random) -> bytes:
    """JSON of which one value, anywhere, is another, or is gone, or has another name."""
    places: list = []

    def walk(inner) -> None:
        keys = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for key, more in keys:
            places.append((inner, key))
            walk(more)

    walk(value)
    if places:
        inner, key = chance.choice(places)
        kind = chance.randrange(4)
        if kind == 0 and isinstance(inner, dict):
            inner[f"{key}x"] = inner.pop(key)
        elif kind == 1:
            inner.pop(key)
        elif kind == 2 and isinstance(inner[key], int | float):
            inner[key] = chance.choice([-inner[key], inner[key] * 1000, inner[key] + 0.5, str(inner[key])])
        else:
            inner[key] = chance.choice(ODD)
    return json.dumps(value).encode()


def _inside_zip(content: bytes, chance: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice(list(parts))
    parts[name] = mutated(parts[name], chance, deep=False)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return out.getvalue()


# -- trying it --------------------------------------------------------------------------------------------------------


class HangError(BaseException):
    """A try took too long."""


def _alarm(*_):
    raise HangError


def judged(reader: Reader, folder: Path, name: str, right: str) -> str:
    """What the kit makes of the file: harmless, refused, anew, other; or what is wrong."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = reader.read(folder)
    except MadeAnewError:
        return "anew"
    except (ValueError, OSError) as error:
        said = str(error)
        if "\n" in said or len(said) > 1000:
            return f"CRASH: more than a line: {said[:200]!r}"
        return "refused" if Path(name).name.split(".")[0] in said else f"CRASH: names no file: {said}"
    except HangError:
        return "CRASH: hangs"
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"CRASH: {type(error).__name__}: {str(error)[:150]!r} in {Path(at.filename).name}:{at.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if found is None:
        return "anew"
    if digest(found) == right:
        return "harmless"
    return "BELIEVED" if reader.hashed else "other"


def _work(reader: Reader, folder: Path, name: str, how, seeds, pipe) -> None:
    """In a child: tries all seeds, and says what came of each."""
    import warnings

    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _alarm)
    path, whole = folder / name, (folder / name).read_bytes()
    right = digest(reader.read(folder))
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, -1))
    for seed in seeds:
        content = how(whole, random.Random(seed))
        path.write_bytes(content)
        pipe.send((seed, "harmless" if content == whole else judged(reader, folder, name, right)))
    pipe.close()


@functools.cache
def good(make: Callable[[Path], object]) -> Path:
    """A folder of good files, made once."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, True)
    if make in (images, amat):
        make(folder)  # these change what the reader expects
    else:
        in_child(make, folder)  # in a child: no child may inherit a training's threads
    return folder


def tried(reader: Reader, how, seeds: list[str]) -> Counter:
    """How many tries ended how. A child that dies in a try is a crash, and another goes on."""
    found: Counter = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(good(reader.make), folder, dirs_exist_ok=True)
        name = reader.file or next(p.name for p in folder.iterdir())
        whole = (folder / name).read_bytes()
        while seeds:
            (folder / name).write_bytes(whole)
            ours, theirs = FORK.Pipe(False)
            child = FORK.Process(target=_work, args=(reader, folder, name, how, seeds, theirs))
            child.start()
            theirs.close()
            at = seeds[0]
            with contextlib.suppress(EOFError):
                while ours.poll(6 * SECONDS):
                    at, said = ours.recv()
                    found[said] += 1
                    if said[:1].isupper() and found[said] == 1:
                        print(f"  {reader.file}: try {at!r}: {said}", flush=True)
                    seeds = seeds[1:]
            child.kill()
            child.join()
            if seeds:
                found["CRASH: the process died"] += 1
                print(f"  {reader.file}: try {seeds[0]!r}: the process died", flush=True)
                seeds = seeds[1:]
    return found


# -- writers: a full disk, and kills ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """Writes version 0 or 1 of something into a folder, and reads which one is there."""

    write: Callable[[Path, int], object]
    read: Callable[[Path], object]


def _samples(name: str) -> Writer:
    return Writer(lambda f, v: ck.write(molecules(v, 60), f / name), lambda f: ck.read(f / name, progress=False))


def _images(name: str) -> Writer:
    def write(folder: Path, version: int) -> None:
        pixels = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(version))
        ck.write(pixels, folder / name)

    return Writer(write, lambda f: (f / name).read_bytes())


def _checkpoint(folder: Path, version: int) -> None:
    write_checkpoint(folder, {"a": torch.full((3000,), float(version))}, {"step": version, "seconds": 1.0})


def _release(folder: Path, version: int) -> None:
    """Weights of version 0 or 1 under one name."""
    run = load_run(folder / "run")
    for p in run.model.parameters():
        p.data.fill_(float(version))
    evaluation = {"validation_loss": 0.5, "protocol": "none"}
    releases.release(run, lambda r: r.provenance() | evaluation, "small", folder)


def _evaluation(folder: Path, version: int) -> None:
    results.save_evaluation(folder / "evaluation.json", {"values": [version] * 2000})


WRITERS = {
    "sample -o .sdf": _samples("a.sdf"),
    "sample -o .xyz": _samples("a.xyz"),
    "sample -o .npz": _samples("a.npz"),
    "sample -o .png": _images("a.png"),
    "a cache": Writer(
        lambda f, v: store(f / "a.safetensors", {"x": torch.full((2000,), v)}, by="me"),
        lambda f: load_stored(f / "a.safetensors"),
    ),
    "a checkpoint": Writer(_checkpoint, lambda f: read_checkpoint(f)),
    "a release": Writer(_release, lambda f: load_from(f, "small").model.state_dict()),
    "an evaluation": Writer(_evaluation, lambda f: json.loads((f / "evaluation.json").read_text())),
}


def in_child(work: Callable, *arguments) -> object:
    """What `work` returns or raises, in a process of its own."""

    def target(pipe) -> None:
        try:
            found = work(*arguments)
            pipe.send(found if isinstance(found, str | tuple) else None)
        except BaseException as error:
            pipe.send(error)

    ours, theirs = FORK.Pipe(False)
    child = FORK.Process(target=target, args=(theirs,))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return RuntimeError("the process died")
    finally:
        child.join()


def _read(writer: Writer, folder: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()):
        return digest(writer.read(folder))


def _versions(writer: Writer, folder: Path) -> list:
    """Hashes of versions 1 and 0; the second stays there."""
    found = []
    for version in (1, 0):
        in_child(writer.write, folder, version)
        found.append(in_child(_read, writer, folder))
    return found


@contextlib.contextmanager
def place(name: str) -> Iterator[Path]:
    """A folder of a writer's own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if name == "a release":
            shutil.copytree(good(small_run), folder / "run")
        yield folder


def _limited(writer: Writer, folder: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    writer.write(folder, 1)


def full_disk(name: str, count: int, seed: int) -> Counter:
    """Writes over a good file where no file may be longer than so many bytes."""
    writer, found, chance = WRITERS[name], Counter(), random.Random(f"{seed} {name}")
    with place(name) as folder:
        new, old = _versions(writer, folder)
        most = max(p.stat().st_size for p in folder.iterdir() if p.is_file())
        for _ in range(count):
            limit = chance.randrange(int(1.1 * most))
            said, now = in_child(_limited, writer, folder, limit), in_child(_read, writer, folder)
            if isinstance(said, OSError) and "\n" not in str(said) and now == old:
                found["refused"] += 1
            elif not isinstance(said, BaseException) and now == new:
                found["harmless"] += 1
            else:
                found[f"LOST: {said!r:.150}, and {now!r:.100}"] += 1
                print(f"  {name}, {limit} bytes: {said!r:.200}, then {now!r:.200}", flush=True)
            in_child(writer.write, folder, 0)
    return found


def _forever(writer: Writer, folder: Path) -> None:
    for k in range(10**6):
        writer.write(folder, (k + 1) % 2)


def killed(name: str, count: int, seed: int) -> Counter:
    """Kills a process that writes all the time."""
    writer, found, chance = WRITERS[name], Counter(), random.Random(f"{seed} {name}")
    with place(name) as folder:
        versions = _versions(writer, folder)
        for _ in range(count):
            child = FORK.Process(target=_forever, args=(writer, folder))
            child.start()
            time.sleep(chance.uniform(0.002, 0.15))
            child.kill()
            child.join()
            now = in_child(_read, writer, folder)
            found["whole" if now in versions else f"LOST: {now!r:.150}"] += 1
            if now not in versions:
                print(f"  {name}: {now!r:.200}", flush=True)
                in_child(writer.write, folder, 0)
        left = [p for p in folder.iterdir() if p.name.startswith(".")]
        in_child(writer.write, folder, 0)
        if len([p for p in folder.iterdir() if p.name.startswith(".")]) >= max(2, len(left)):
            found[f"LOST: {len(left)} temporary files pile up"] += 1
            print(f"  {name}: {len(left)} temporary files pile up", flush=True)
    return found


def training_killed(count: int, seed: int, steps: int = 300) -> Counter:
    """Kills a training, resumes it until it is done, and compares weights and log with those of one left alone."""
    found, chance = Counter(), random.Random(f"{seed} training")
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        in_child(small_run, whole, steps)
        right = in_child(_trained, whole)
        kills = number = 0
        while kills < count:
            folder = Path(scratch) / f"killed-{number}"
            number += 1
            for _ in range(20):
                child = FORK.Process(target=_quiet, args=(folder, steps))
                child.start()
                child.join(chance.uniform(0.1, 1.0) if kills < count else None)
                if child.exitcode is not None:
                    break
                child.kill()
                child.join()
                kills += 1
                found["resumed"] += 1
            else:
                in_child(small_run, folder, steps, 0.02, True)
            if (now := in_child(_trained, folder)) != right:
                found[f"LOST: other weights or another log: {now!r:.150}"] += 1
                print(f"  {folder.name}: {now!r:.300}, not {right!r:.300}", flush=True)
            shutil.rmtree(folder)
    return found


def _quiet(folder: Path, steps: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        small_run(folder, steps, 0.02, True)


def _trained(folder: Path) -> tuple[str, str]:
    """Hashes of a run's tensors and of its log, seconds left out."""
    found = read_checkpoint(folder)
    log = [{k: v for k, v in e.items() if k != "seconds"} for e in read_log(folder)]
    return digest(None if found is None else [found[0], found[1]["step"]]), digest(log)


def shared(name: str, count: int) -> Counter:
    """Reads what three others write at the same time; what only one may write, one."""
    writer = WRITERS[name]
    with place(name) as folder:
        versions = _versions(writer, folder)
        several = 1 if name in ("a checkpoint", "a release") else 3
        writers = [FORK.Process(target=_forever, args=(writer, folder)) for _ in range(several)]
        return _looked(writers, lambda: _read(writer, folder) in versions, count)


def sampled(count: int) -> Counter:
    """Loads a run that is being trained, and samples from it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        in_child(small_run, folder, 5)
        trainer = FORK.Process(target=_train_on, args=(folder,))
        return _looked([trainer], lambda: len(load_run(folder).sample(2, 2)) == 2, count)


def raced(count: int, steps: int = 30) -> Counter:
    """Starts two trainings in one folder: one must be refused, and the other must end as if it had been alone."""
    found: Counter = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        in_child(small_run, Path(scratch) / "whole", steps)
        right = in_child(_trained, Path(scratch) / "whole")
        for k in range(count):
            folder = Path(scratch) / f"raced-{k}"
            ends = [FORK.Pipe(False) for _ in range(2)]
            children = [FORK.Process(target=_claim, args=(folder, steps, theirs)) for _, theirs in ends]
            for child in children:
                child.start()
            said = [ours.recv() for ours, _ in ends]
            for child in children:
                child.join()
            now = in_child(_trained, folder)
            refused = [s for s in said if s.startswith("FileExistsError") and "\n" not in s]
            good = now == right and len(refused) == 1 and "trained" in said
            found["whole" if good else f"LOST: {said!r:.200}"] += 1
            if not good:
                print(f"  two trainings: {said!r:.300}", flush=True)
            shutil.rmtree(folder)
    return found


def _claim(folder: Path, steps: int, pipe) -> None:
    loop.locked_folder = functools.partial(loop.locked_folder, patience=0.0)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            small_run(folder, steps)
        pipe.send("trained")
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")


TOGETHER = {
    **{name: functools.partial(shared, name) for name in WRITERS if not name.endswith("png")},
    "sampling while training": sampled,
    "two trainings in one folder": raced,
}


def _train_on(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        small_run(folder, 10**6, 0.0, True)


def _looked(writers: list, right: Callable[[], bool], count: int) -> Counter:
    found: Counter = Counter()
    for child in writers:
        child.start()
    for _ in range(count):
        try:
            said = "whole" if right() else "LOST: half of a file"
        except Exception as error:
            said = f"LOST: {type(error).__name__}: {str(error)[:150]}"
        found[said] += 1
        if said != "whole" and found[said] == 1:
            print(f"  together: {said}", flush=True)
        time.sleep(0.005)
    for child in writers:
        child.kill()
        child.join()
    return found


# -- all of it --------------------------------------------------------------------------------------------------------


def campaign(sizes: dict[str, int], seed: int = 0, only: str = "") -> Iterator[tuple[str, str, Counter]]:
    """Part, what, and how many tries ended how; `only` what has this in its name."""
    os.environ["CANONKIT_OFFLINE"] = "1"
    torch.set_num_threads(1)
    for name in SLOW:
        importlib.import_module(name)
    for part, how in (("mutations", mutated), ("damage", damaged)):
        for name, reader in READERS.items() if part in sizes else ():
            if only in name:
                yield part, name, tried(reader, how, [f"{seed} {name} {k}" for k in range(sizes[part])])
    for part, work in (("disk", full_disk), ("kills", killed)):
        for name in WRITERS if part in sizes else ():
            if only in name:
                yield part, name, work(name, sizes[part], seed)
    if "training" in sizes and only in "training":
        yield "training", "training", training_killed(sizes["training"], seed)
    for name, work in TOGETHER.items() if "together" in sizes else ():
        if only in name:
            yield "together", name, work(sizes["together"])


def table(found: list[tuple[str, str, Counter]]) -> Table:
    """Tried, survived and lost, and how they survived."""
    kinds = ["harmless", "refused", "anew", "other", "whole", "resumed"]
    rows = []
    for part, name, counts in found:
        lost = sum(n for said, n in counts.items() if said[:1].isupper())
        total = sum(counts.values())
        how = ", ".join(f"{counts[k]:,} {k}" for k in kinds if counts[k])
        rows.append([part, name, f"{total:,}", f"{total - lost:,}", f"{lost:,}", how])
    return Table("Campaign", ["part", "what", "tried", "survived", "lost", "how"], rows, [])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"by default all: {', '.join(FULL)}")
    parser.add_argument("--full", action="store_true", help="as many tries as in the documentation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only readers and writers with this in their names")
    parser.add_argument("--tries", type=int, help="of each kind of file, in place of the usual number")
    parser.add_argument("--keep", type=Path, help="add the counts to this file, and print the table of all in it")
    given = parser.parse_args()
    if unknown := set(given.parts) - FULL.keys():
        parser.error(f"no part is called {min(unknown)}: choose from {', '.join(FULL)}")
    sizes = {k: v for k, v in (FULL if given.full else SMALL).items() if not given.parts or k in given.parts}
    sizes = {k: given.tries or v for k, v in sizes.items()}
    found = []
    for part, name, counts in campaign(sizes, given.seed, given.only):
        found.append((part, name, counts))
        print(f"{part}, {name}: {dict(counts)}", flush=True)
        if given.keep:
            with given.keep.open("a") as file:
                file.write(json.dumps([part, name, counts]) + "\n")
    if given.keep:
        lines = map(json.loads, given.keep.read_text().splitlines())
        found = [(part, name, Counter(counts)) for part, name, counts in lines]
    print(table(found))
    sys.exit(any(said[:1].isupper() for _, _, counts in found for said in counts))


if __name__ == "__main__":
    main()
