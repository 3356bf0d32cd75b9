"""The command line: thin, over the same functions that notebooks call."""

from __future__ import annotations

import inspect
import json
import shlex
import shutil
import signal
import sys
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from canonkit import __version__
from canonkit.names import choose

MANY = 10**9
app = typer.Typer(
    help="Symmetry-aware generative modelling by canonicalization.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Steps = Annotated[int | None, typer.Option(help="Network evaluations; by default 1001 of diffusion, 100 of flow.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="qm9, qm9-heavy, ccd, ccd-heavy, ligands, rotmnist or a file of molecules; by default what the system "
        "learned."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1)]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout, nothing else there.")]


def main() -> None:
    """Entry point: expected errors become one line on stderr and exit status 1, warnings one line each."""
    warnings.formatwarning = lambda message, *args, **options: f"canonkit: {message}\n"
    try:
        code = app(standalone_mode=False)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"canonkit: {_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
            print("canonkit: the memory does not suffice: give fewer samples, or smaller ones", file=sys.stderr)
            raise SystemExit(1) from None
        said = getattr(error, "format_message", None)
        if said is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            getattr(error, "show")()  # noqa: B009
        else:  # how the command was typed
            print(f"canonkit: {said().rstrip('.')}. See canonkit --help.", file=sys.stderr)
        raise SystemExit(2) from None
    if code == 130:  # typer's, of Ctrl-C
        print("canonkit: interrupted", file=sys.stderr)
    raise SystemExit(code if isinstance(code, int) else 0)


def _line(error: Exception) -> str:
    """An error in one line; those of the system without their numbers."""
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _print(result: dict | list, text: object, as_json: bool) -> None:
    print(json.dumps(result) if as_json else text)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"canonkit {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Symmetry-aware generative modelling by canonicalization."""


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="qm9 or rotmnist")],
    path: Annotated[
        Path | None,
        typer.Option(help="Your own files: gdb9.sdf, PyG's data_v3.pt, or a folder with MNIST or RotMNIST."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="QM9 also as a file for `python -m canonkit.resident`.")] = None,
    bonds: Annotated[bool, typer.Option("--bonds", help="QM9 with bonds and charges, perceived once.")] = False,
    as_json: Json = False,
) -> None:
    """Prepare a data set and describe it."""
    _known_data(name)
    from canonkit.data.qm9 import load_qm9
    from canonkit.data.rotmnist import load_rotmnist

    if name == "rotmnist":
        rotmnist = load_rotmnist(path, progress=not as_json)
        about = {"images": len(rotmnist.digits), "split": rotmnist.counts}
        _print(about | {"source": rotmnist.source, "sha256": rotmnist.sha256}, rotmnist, as_json)
        return

    qm9 = load_qm9(path, progress=not as_json)
    if bonds:
        qm9 = qm9.with_graphs(progress=not as_json)
    if file is not None:
        from canonkit.data.packed import pack

        pack(qm9, file)
    split = {part: len(rows) for part, rows in qm9.split.items()}
    atoms = int(qm9.molecules.mask.sum())
    result = {"molecules": len(qm9.molecules), "atoms": atoms, "split": split, "sha256": qm9.sha256}
    if bonds:
        result["disagree"] = 0.0 if qm9.known is None else float((~qm9.known).double().mean())
    parts = " / ".join(f"{part} {count:,}" for part, count in split.items())
    text = f"QM9: {len(qm9.molecules):,} molecules, {atoms:,} atoms; {parts}; sha256 {qm9.sha256[:12]}"
    if bonds:
        text += f"; bonds of {result['disagree']:.2%} disagree with the data set's SMILES, left out"
    _print(result, text, as_json)


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Of molecules: GDM, GDM-aug, EDM, inertial+GDM, canon(fr)+GDM, canon+GDM, DiT, DiT-Aug, SymDiff-H, "
            "SymDiff, SymDiff* (paper, published), canon+DiT, Flow, Flow-aug, Flow+pose, Flow+order, Flow+prior, "
            "Flow+transport, Flow-DiT, Flow+bonds, CanonFlow, CanonFlow-aug. Of images: UNet, canon(p8)+UNet, "
            "canon(p16)+UNet, canon(p32)+UNet, 'canon(p16, fr)+UNet', copies(16)+UNet, arbitrary(16)+UNet."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    queue: Annotated[Path | None, typer.Option(help="A file that lists runs to train.")] = None,
    scale: Annotated[str, typer.Option(help="laptop, paper or published")] = "laptop",
    minutes: Annotated[float | None, typer.Option(help="Training time, over all parts of a resumed run.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of training steps.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, if there is one.")] = False,
    seed: Seed = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the fastest one here.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    init: Annotated[str | None, typer.Option(help="Start from trained weights: a name or a run's folder.")] = None,
    data: Data = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A training setting, such as lr=3e-4.")] = None,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Train a system, or all runs of a queue.

    You can interrupt it at any time: it writes a checkpoint and exits with status 130. --resume continues a run
    exactly; a queue continues by itself.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until training begins

    import torch

    from canonkit.queue import run_queue, stop_when_stdin_closes
    from canonkit.queue import runs as look
    from canonkit.trainer import train_recipe
    from canonkit.training import Settings, is_finished

    if queue is not None:
        jobs = run_queue(queue, progress=not as_json)
        found = look(jobs[0].folder.parent)
        _print(found.rows, found, as_json)
        return
    if recipe is None or out is None:
        raise ValueError("give a recipe and --out, or a --queue")
    if until_stdin_closes:
        stop_when_stdin_closes()
    _at_least_one(steps=steps, threads=threads)
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes {minutes:g} is not a training time: give more than 0")
    if device is not None:
        _check_device(device)
    if threads:
        torch.set_num_threads(threads)
    if minutes is None and steps is None:
        minutes = 10.0
    changes: dict[str, Any] = {"seed": seed} | dict(_setting(s) for s in set_ or ())
    for name, value in changes.items():
        if isinstance(value, str) and not isinstance(getattr(Settings(), name, ""), str):
            raise ValueError(f"--set {name}={value}: {value!r} is not a number")
    run = train_recipe(
        recipe,
        out,
        scale=scale,
        minutes=minutes,
        steps=steps,
        resume=resume,
        device=device,
        init=init,
        data=data,
        progress=not as_json,
        **changes,
    )
    last = {kind: e for kind in ("train", "valid", "sample") for e in run.log if e["kind"] == kind}
    _print({"step": run.step, "seconds": run.seconds, "last": last}, run, as_json)
    if not is_finished({"step": run.step, "seconds": run.seconds}, steps, minutes):
        again = [word for word in sys.argv[1:] if word not in ("--resume", "--until-stdin-closes")]
        print(
            f"canonkit: interrupted at step {run.step:,}, continue: canonkit {shlex.join(again)} --resume",
            file=sys.stderr,
        )
        raise SystemExit(130)


@app.command()
def notebooks(
    folder: Annotated[Path, typer.Argument(help="Where to put them; made if it does not exist.")],
    as_json: Json = False,
) -> None:
    """Copy the notebooks into a folder; existing files are kept."""
    here = Path(__file__).parent / "notebooks"
    if not here.is_dir():
        raise FileNotFoundError(f"{here} is missing: install canonkit again")
    copied = []
    for path in sorted(here.rglob("*")):
        target = folder / path.relative_to(here)
        if path.suffix in (".ipynb", ".md", ".png") and "runs" not in path.parts[len(here.parts) :]:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(path, target)
                copied.append(str(target))
    text = f"{len(copied)} files copied to {folder}; open them with: jupyter lab {folder}"
    _print({"copied": copied}, text, as_json)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where the runs live.")] = Path("runs"),
    curves: Annotated[Path | None, typer.Option(help="Draw their curves into this .png file.")] = None,
    as_json: Json = False,
) -> None:
    """List the runs in a folder and their progress."""
    from canonkit.queue import runs as look

    found = look(folder)
    if curves is not None:
        found.curves().savefig(curves)
    _print(found.rows, found, as_json)


@app.command()
def sample(
    source: Annotated[str, typer.Argument(help="Name of trained weights, or a run's folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".sdf, .xyz or .npz; for images .png or .npz")],
    count: Annotated[int, typer.Option("-n", "--count")] = 100,
    steps: Steps = None,
    seed: Annotated[int | None, typer.Option(help="For repeatable samples.", min=0, max=2**32 - 1)] = None,
    randomize: Annotated[
        bool, typer.Option("--randomize", help="Turn each molecule, and reorder its atoms, at random.")
    ] = False,
    eta: Annotated[float | None, typer.Option(help="Diffusion: how much noise is added on the way; 0 is DDIM.")] = None,
    heun: Annotated[bool, typer.Option("--heun", help="Flow: second-order steps.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Flow: of elements and bonds; below 1, likely ones are drawn more often.")
    ] = None,
    choice_temperature: Annotated[
        float | None, typer.Option(help="Flow: 0.5 keeps the most likely draws first, inf keeps them in random order.")
    ] = None,
    remask: Annotated[
        float | None, typer.Option(help="Flow: how much of the kinds and bonds is drawn anew on the way; 0 is nothing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate molecules or images.

    SDF files contain the generated bonds; if the model generates none, EDM's rule finds them by distances.
    """
    from canonkit.chemistry.formats import IMAGE_SUFFIXES, SUFFIXES, check_suffix, write

    _at_least_one(count=count, steps=steps)
    run = _run(source)
    kind = run.recipe.form.kind
    check_suffix(output, IMAGE_SUFFIXES if kind == "images" else SUFFIXES)  # before the work
    given = {
        "eta": eta,
        "heun": heun or None,
        "temperature": temperature,
        "choice_temperature": choice_temperature,
        "remask": remask,
    }
    options = {k: v for k, v in given.items() if v is not None}
    known = inspect.signature(run.model.process.sample).parameters
    if unknown := [k for k in options if k not in known]:
        option = unknown[0].replace("_", "-")
        raise ValueError(f"--{option} is not for {type(run.model.process).__name__}: leave it out")
    samples = run.sample(count, steps, seed=seed, randomize=randomize, progress=not as_json, **options)
    path = write(samples, output)
    _print({kind: len(samples), "file": str(path)}, f"{len(samples)} {kind} in {path}", as_json)


@app.command()
def evaluate(
    source: Annotated[
        str, typer.Argument(help="Name of trained weights, a run's folder, an .sdf, .xyz or .npz file, or qm9.")
    ],
    count: Annotated[int, typer.Option("-n", "--count", help="Molecules to sample from a run.")] = 1000,
    steps: Steps = None,
    seed: Seed = 0,
    against: Annotated[str | None, typer.Option(help="Of images: another model, compared image by image.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the sampler, such as choice_temperature=inf.")
    ] = None,
    published: Annotated[
        str | None, typer.Option(help="Whose published checkpoint SOURCE is, edm or symdiff: a folder of the authors.")
    ] = None,
    drugs: Annotated[
        bool, typer.Option("--drugs", help="Of a file: drug-size molecules of any elements, by their own bonds.")
    ] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Measure a model or a file of molecules.

    Molecules: stability, validity, uniqueness and novelty by EDM's protocol; for a model also its validation loss and
    NLL bound. With --drugs, or where a file with bonds has elements that this protocol does not know: a file's
    molecules by the corrected protocol for GEOM-Drugs. Images: the denoising error on
    the test images with its 95 % interval. Results of a run are also kept in its evaluation.json. Novel is what is not
    among the training molecules of --data.
    """
    from canonkit.chemistry.formats import SUFFIXES, read
    from canonkit.chemistry.valencies import VALENCE
    from canonkit.data.named import dataset
    from canonkit.data.qm9 import load_qm9
    from canonkit.metrics import evaluate as score
    from canonkit.metrics import evaluate_drugs, known_smiles
    from canonkit.results import evaluate_any, save_evaluation

    _at_least_one(count=count, steps=steps)
    show = not as_json
    if drugs:  # by a table for all elements
        if Path(source).suffix.lower() not in SUFFIXES:
            raise ValueError(f"--drugs measures a file of molecules, not {source!r}: sample into an .sdf file first")
        found = evaluate_drugs(read(source), progress=show)
        _print(found.as_dict(), found, as_json)
        return
    if not published and (source == "qm9" or Path(source).suffix.lower() in SUFFIXES):
        known = dataset(data or "qm9", progress=show)
        molecules = load_qm9(progress=show).molecules if source == "qm9" else read(source)
        if molecules.bonds is not None and not set(molecules.elements) <= VALENCE.keys():
            found = evaluate_drugs(molecules, progress=show)
            _print(found.as_dict(), found, as_json)
            return
        scores = score(molecules, known_smiles(known.part("train"), progress=show), progress=show)
        _print(scores.as_dict(), scores, as_json)
        return
    run = _run(source, published)
    other, options = _run(against) if against else None, dict(_setting(s) for s in set_ or ())
    learned = dataset(data, progress=show) if data is not None else None
    result = evaluate_any(run, learned, count, steps, against=other, seed=seed, progress=show, **options)
    if Path(source).is_dir() and not published:
        save_evaluation(run.folder / "evaluation.json", result)
    _print(result, "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in result.items()), as_json)


@app.command()
def likelihood(
    names: Annotated[list[str], typer.Argument(help="Trained weights or runs' folders, diffusions of molecules.")],
    count: Annotated[int | None, typer.Option("-n", "--count", help="Test molecules, by default all.")] = None,
    passes: Annotated[int, typer.Option(help="Draws of time, noise and rotation for each molecule.")] = 4,
    seed: Seed = 0,
    data: Data = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the rows into this .json.")] = None,
    as_json: Json = False,
) -> None:
    """Bound the likelihood of the same test molecules, in canonical and in any pose, under several diffusions.

    All are compared with the first one, molecule by molecule.
    """
    from canonkit.data.named import dataset
    from canonkit.results import evaluate_likelihoods, likelihood_table, save_rows

    _at_least_one(count=count, passes=passes)
    found = dataset(data or "qm9", progress=not as_json)
    rows = evaluate_likelihoods([_run(n) for n in names], found, count, passes, seed=seed, progress=not as_json)
    if output:
        save_rows(output, rows)
    _print(rows, likelihood_table(rows), as_json)


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """What can be trained: every system with its data, process, network and canonicalizer."""
    from canonkit.recipes.names import systems

    found = systems()
    _print([dict(zip(found.header, row, strict=True)) for row in found.rows], found, as_json)


@app.command()
def certify(
    name: Annotated[
        str,
        typer.Argument(
            help="Of molecules: identity, inertial, frame (random weights), spectral-pose; with an order of atoms "
            "spectral, inertial-spectral, frame-spectral, inertial-smiles. Of images: gcnn8, gcnn16, gcnn32, copies8, "
            "copies16, copies32. Or the name of trained weights, or a run's folder."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="qm9, ccd, ligands, rotmnist or a file; qm9 or rotmnist by default.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="Molecules or images to try; by default up to 1000.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64; by default float64 for molecules.")] = None,
    denoiser: Annotated[
        bool,
        typer.Option("--denoiser", help="Is the network of trained weights equivariant in law? -n 16 is enough."),
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Test whether a canonicalizer is one, or whether a denoiser is equivariant in law.

    Exit status 3 where it is not. Of molecules the first line is the verdict.

    The test of a denoiser rejects at a level of 0.1 %. With 16 molecules it rejected a transformer without symmetry for
    6 seeds of 6, and SymDiff for none.
    """
    import torch

    from canonkit.canonicalizers import ImageCanonicalizer
    from canonkit.certificates import Certificate
    from canonkit.certificates import certify as check

    if dtype not in (None, "float32", "float64"):
        raise ValueError(f"dtype {dtype!r} is not float32 or float64")
    show = not as_json
    # The elements of a frame's network are the data's. All others come first: a wrong name is said before data is read.
    samples = _samples(data, show) if data and name.startswith("frame") else None
    h = _run(name).model.network if denoiser else _canonicalizer(name, getattr(samples, "elements", None), seed)
    if samples is None:
        samples = _samples(data or ("rotmnist" if isinstance(h, ImageCanonicalizer) else "qm9"), show)
    dtype = dtype or ("float32" if isinstance(samples, torch.Tensor) else "float64")
    result = check(h, _some(samples, count, seed), dtype=getattr(torch, dtype), seed=seed)
    more = {"passed": result.passed, "verdict": result.verdict} if isinstance(result, Certificate) else {}
    _print(more | asdict(result), result, as_json)
    if not more.get("passed", True) or getattr(result, "rejected", False):
        raise typer.Exit(3)


@app.command()
def compare(
    names: Annotated[
        list[str] | None, typer.Argument(help="Canonicalizers as of certify; by default all without weights.")
    ] = None,
    data: Annotated[str, typer.Option(help="qm9, ccd, ligands or a file of molecules.")] = "qm9",
    count: Annotated[int | None, typer.Option("-n", "--count", help="Molecules to try; by default up to 1000.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the table into this .png or .pdf file.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare canonicalizers on the same molecules: errors, ambiguous poses, jumps, spread of poses, time."""
    from canonkit.comparison import compare as side_by_side

    molecules = _some(_samples(data, not as_json), count, seed)
    if not hasattr(molecules, "elements"):
        raise ValueError(f"{data} holds images: give molecules")
    names = names or ["identity", "inertial", "spectral-pose", "spectral", "inertial-spectral"]
    systems = {name: _canonicalizer(name, molecules.elements, seed) for name in names}
    found = side_by_side(systems, molecules, seed=seed)
    if figure is not None:
        found.figure().savefig(figure)
    _print(found.rows(), found, as_json)


@app.command()
def canonicalize(
    source: Annotated[Path, typer.Argument(help="An .sdf, .xyz or .npz file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".sdf, .xyz or .npz")],
    with_: Annotated[
        str, typer.Option("--with", help="A canonicalizer as of certify, trained weights or a run's folder.")
    ] = "inertial",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write molecules in their canonical poses, with their names, data and bonds.

    Those with an ambiguous pose are counted: their pose depends on the order of their atoms, or on rounding.
    """
    from canonkit.chemistry.formats import SUFFIXES, check_suffix, read, write

    check_suffix(output, SUFFIXES)  # before the work
    molecules = read(source, progress=not as_json)
    c = _canonicalizer(with_, molecules.elements, seed)(molecules)
    path = write(c.x, output)
    unclear = c.ambiguous.nonzero()[:, 0].tolist()
    text = f"{len(molecules)} molecules in {path}"
    if unclear:
        few = ", ".join(f"number {k + 1}" + (f" ({t})" if (t := _title(molecules, k)) else "") for k in unclear[:5])
        text += f"; ambiguous: {len(unclear)}, {few}{', ...' if len(unclear) > 5 else ''}"
    _print({"molecules": len(molecules), "file": str(path), "ambiguous": unclear}, text, as_json)


def _title(molecules, k: int) -> str:
    return molecules.titles[k] if molecules.titles else ""


def _canonicalizer(name: str, elements: tuple[str, ...] | None, seed: int):
    """A canonicalizer by its name, or that of trained weights or of a run's folder; random weights come of `seed`."""
    import torch

    from canonkit.canonicalizers import canonicalizer
    from canonkit.releases import cards

    torch.manual_seed(seed)
    if Path(name).is_dir() or name in cards():
        return _run(name).model.canonicalizer
    return canonicalizer(name, **({"elements": elements} if elements and name.startswith("frame") else {}))


def _samples(word: str, progress: bool):
    """All molecules of a file or data set, or its test images."""
    from canonkit.chemistry.formats import SUFFIXES, read
    from canonkit.data.named import dataset

    if Path(word).suffix.lower() in SUFFIXES:
        return read(word, progress=progress)
    found = dataset(word, progress=progress)
    return found.part("test") if found.form.kind == "images" else getattr(found, "molecules")  # noqa: B009


def _some(samples, count: int | None, seed: int):
    """That many of them at random, by default up to 1000."""
    import torch

    count = min(1000, len(samples)) if count is None else count
    if not 1 <= count <= len(samples):
        raise ValueError(f"-n {count} is not between 1 and {len(samples):,}")
    return samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:count]]


@app.command()
def bench(
    data: Annotated[str, typer.Argument(help="qm9, systems, sampling, scaling or images")] = "qm9",
    repeat: Annotated[int, typer.Option(help="Repetitions, of which medians are taken.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure speed on this machine.

    qm9: speed and memory of the networks at paper scale, and of the published formulation. systems: the cost of every
    system of molecules at laptop scale. sampling: seconds per molecule, and per stable molecule, of the shipped models
    and of EDM. scaling: time and memory from 9 to 181 atoms. images: canonicalizers of images, G-CNN and rotated
    copies.
    """
    from canonkit import bench as benches

    _at_least_one(repeat=repeat)
    known = {
        "qm9": (benches.bench_qm9, benches.describe),
        "systems": (benches.bench_systems, benches.describe_systems),
        "sampling": (benches.bench_sampling, benches.describe_sampling),
        "scaling": (benches.bench_scaling, benches.describe_scaling),
        "images": (benches.bench_images, benches.describe_images),
    }
    if data not in known:
        raise ValueError(f"no bench is called {data!r}: {choose(data, known)}")
    measure, show = known[data]
    rows = measure(repeat, progress=not as_json)
    _print(rows, show(rows), as_json)


@app.command()
def results(
    title: Annotated[str, typer.Argument(help="A table, such as 'Table 1'.")] = "Table 1",
    rebuild: Annotated[str | None, typer.Option(help="A row to train and measure anew, or all, or missing.")] = None,
    folder: Annotated[Path, typer.Option(help="Where runs and new rows lie.")] = Path("runs/results"),
    as_json: Json = False,
) -> None:
    """Show a table of the kit's own experiments, or make its rows anew.

    A row's runs may be stopped and started again: what is done is kept. missing: all seeds that are not stored.
    """
    from canonkit import experiments

    of = experiments.experiment(title)
    # All rows with the first seed, then with the next, so that an unfinished table is a table.
    rows = list(of.rows) if rebuild in ("all", "missing") else [rebuild] if rebuild else []
    there = experiments.keys(of, folder) if rebuild == "missing" else set()
    for seed in of.seeds:
        for row in rows:
            if (row, seed) not in there:
                experiments.rebuild(of, row, folder, seeds=[seed], progress=not as_json)
    _print(experiments.stored(of, folder), experiments.results_table(of, folder), as_json)


@app.command()
def reproduce(
    title: Annotated[str, typer.Argument(help="A table, such as 'Table 1'.")],
    row: Annotated[str, typer.Option(help="A row of it, such as canon+GDM.")],
    minutes: Annotated[float | None, typer.Option(help="When to stop at the latest.")] = None,
    seed: Annotated[int | None, typer.Option(help="By default one that the row has not seen.")] = None,
    folder: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs/results"),
    as_json: Json = False,
) -> None:
    """Train one more model of a stored row, measure it, and say whether it agrees.

    Exit status 3 if it does not agree, 4 if the minutes were too few to tell.
    """
    from canonkit import experiments

    found = experiments.reproduce(
        experiments.experiment(title), row, folder, minutes=minutes, seed=seed, progress=not as_json
    )
    _print({"agrees": found.agrees, "measured": found.measured}, found, as_json)
    if not found.agrees:
        raise typer.Exit(4 if found.agrees is None else 3)


@app.command()
def release(
    folder: Annotated[Path, typer.Argument(help="A run's folder.")],
    name: Annotated[str | None, typer.Option(help="By default the recipe's.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="Where to keep them: by default $CANONKIT_WEIGHTS, or your data folder.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Molecules to sample for the card.")] = 1000,
    steps: Steps = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run and keep its weights under a name, with a card.

    The weights are the averaged ones, in half precision.
    """
    from canonkit import releases
    from canonkit.recipes.run import load_run
    from canonkit.results import evaluate_any

    _at_least_one(count=count, steps=steps)
    show = not as_json

    def measure(run):
        control = run.recipe.form.kind == "images" and run.recipe.name != "UNet" and "UNet" in releases.cards()
        against = releases.load("UNet") if control else None
        return evaluate_any(run, None, count, steps, against=against, progress=show)

    path = releases.release(load_run(folder), measure, name, to)
    _print({"weights": str(path)}, f"{path} and its card", as_json)


def _run(source: str, published: str | None = None):
    """A run by the folder it lives in or the name of shipped weights; or a published checkpoint."""
    from canonkit.recipes.run import load_run
    from canonkit.releases import cards, load

    if published:
        return load(source, published)
    if Path(source).is_dir():
        return load_run(source)
    if source not in cards():
        hint = choose(source, cards())
        raise ValueError(f"{source} is neither a run's folder nor the name of trained weights: {hint}")
    return load(source)


def _at_least_one(**values: int | None) -> None:
    """Raises ValueError for an option below 1, or beyond counting."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} is too few: give 1 or more")
        if value is not None and value > MANY:
            raise ValueError(f"--{name} {value} is too many: give {MANY:,} or fewer")


def _check_device(name: str) -> None:
    """Raises ValueError for a device that this machine does not have."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"there is no device {name!r} here: give cpu, or leave --device out") from error


def _known_data(name: str) -> None:
    if name not in ("qm9", "rotmnist"):
        raise ValueError(f"no data set is called {name!r}: {choose(name, ('qm9', 'rotmnist'))}")


def _setting(text: str) -> tuple[str, object]:
    """A training setting 'name=value' with the value's type."""
    name, _, value = text.partition("=")
    for kind in (json.loads, float):  # inf is a number
        with suppress(ValueError):
            return name, kind(value)
    return name, value
