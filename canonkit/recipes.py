"""Every system under its published name, at two scales, and the functions that people call by those names.

`paper`: the published sizes and settings. `laptop`: the same mathematics, small enough to learn something worth looking
at in ten minutes on two cores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

import canonkit
from canonkit.canonicalizers import canonicalizer
from canonkit.data.batches import lengths
from canonkit.data.bonds import with_bonds
from canonkit.data.canonical import cached_canonical
from canonkit.data.hydrogens import HEAVY, MOST_HEAVY, WithHydrogens, add_hydrogens, heavy_qm9
from canonkit.data.qm9 import LONGEST, QM9, load_qm9
from canonkit.data.rotmnist import SIDE, RotMNIST, load_rotmnist
from canonkit.metrics.chemistry import chemistry
from canonkit.metrics.stability import stability
from canonkit.model import OrbitModel
from canonkit.molecules import ELEMENTS, Molecules
from canonkit.names import choose
from canonkit.networks import EGNN, GNN, Canon, DiT, Haar, Recursive, Symmetrised, Turn, UNet
from canonkit.processes import (
    AlignedPrior,
    Diffusion,
    FlowMatching,
    Gaussian,
    ImageSpace,
    MaskedMoleculeSpace,
    MoleculeSpace,
    Process,
    cosine_schedule,
)
from canonkit.tables import Table
from canonkit.training import Settings, load_averaged, read_card, read_counters, read_log, train

DATA = {"QM9": load_qm9, "RotMNIST": load_rotmnist}


def pair_dit(features: int, **settings) -> Canon:
    """Canon without distances: a DiT that knows bonds."""
    return Canon(features, distances=False, **settings)


NETWORKS = {"GNN": GNN, "EGNN": EGNN, "DiT": DiT, "DiT*": DiT, "Canon": Canon, "PairDiT": pair_dit, "UNet": UNet}
SCALES = ("laptop", "paper")
FITTED = 20_000  # molecules that a flow's prior is fitted to

# What a scale means: the sizes of each network and canonicalizer, and how each data set is trained on.
GRAPH = {"paper": {"width": 256, "layers": 9}, "laptop": {"width": 128, "layers": 6}}
CANON = {
    "paper": {"width": 256, "depth": 12, "heads": 8},
    "laptop": {"width": 128, "depth": 6, "heads": 8},
}
SIZE = {
    "GNN": GRAPH,
    "EGNN": GRAPH,
    "DiT": {"paper": {"width": 384, "depth": 12, "heads": 6}, "laptop": {"width": 128, "depth": 6, "heads": 4}},
    "DiT*": {"paper": {"width": 768, "depth": 12, "heads": 12}},
    "Canon": CANON,
    "PairDiT": CANON,
    "haar": {"paper": {}, "laptop": {}},
    "recursive": {"paper": {"width": 128, "depth": 8, "heads": 4}, "laptop": {"width": 64, "depth": 3, "heads": 4}},
    "recursive*": {"paper": {"width": 216, "depth": 10, "heads": 8}},
    "UNet": {
        "paper": {"width": 64, "multipliers": (1, 2, 4), "blocks": 2},
        "laptop": {"width": 24, "multipliers": (1, 2, 2), "blocks": 1},
    },
    "frame": {"paper": {"width": 64, "layers": 9}, "laptop": {"width": 32, "layers": 3}},
    # With the published dropout a digit's pose in training is a matter of chance.
    "gcnn": {"paper": {"channels": 16, "dropout": 0.5}, "laptop": {"channels": 8, "dropout": 0.0}},
}
SETTINGS = {
    ("QM9", "paper"): Settings(),
    ("QM9", "laptop"): Settings(lr=1.5e-3, canonicalizer_lr=1.5e-4, ema=0.999, warmup=200),
    ("RotMNIST", "paper"): Settings(batch_size=128, lr=2e-4, canonicalizer_lr=2e-4, warmup=500, sample_every=0),
    ("RotMNIST", "laptop"): Settings(lr=1e-3, canonicalizer_lr=1e-3, ema=0.999, warmup=200, sample_every=0),
}
# What a network, a flow whatever its network, or heavy atoms want instead of its scale's settings.
PREFERRED = {
    ("flow", "laptop"): {"lr": 1e-3, "muon_lr": 2e-3, "distance_weight": 1.0, "correction": 0.2},
    ("heavy", "laptop"): {"batch_size": 256},
    ("flow", "paper"): {"lr": 5e-4, "muon_lr": 1e-3, "batch_size": 256, "distance_weight": 1.0, "correction": 0.2},
    ("EGNN", "laptop"): {"lr": 4e-4},  # with GDM's rate the EGNN's loss left its range within 250 steps
    ("DiT", "paper"): {"batch_size": 256, "lr": 2e-4, "canonicalizer_lr": 2e-6, "clip": 2.0},
    ("DiT*", "paper"): {"batch_size": 256, "lr": 1e-4, "clip": 2.0},
}


@dataclass(frozen=True)
class System:
    """A row of a table: data, network, canonicalizer with its settings beside the scale's, augmentation, kernel."""

    data: str
    network: str
    canonicalizer: str = "identity"
    settings: dict = field(default_factory=dict)
    augment: bool = False
    kernel: str | None = None
    flow: dict | None = None  # of flow matching: prior, coupling, bonds, self-conditioning; without it diffusion
    hydrogens: str | None = None  # BY_RULE: the model is one of heavy atoms


BY_RULE = "by rule"
PLAIN = {"prior": "gaussian", "coupling": False}
ALIGNED = {"prior": "aligned", "coupling": True}
GRAPHS = {"graphs": True, "self_conditioning": True}
SYSTEMS = {
    "GDM": System("QM9", "GNN"),
    "GDM-aug": System("QM9", "GNN", augment=True),
    "EDM": System("QM9", "EGNN"),
    "inertial+GDM": System("QM9", "GNN", "inertial"),
    "canon(fr)+GDM": System("QM9", "GNN", "frame", {"frozen": True}),
    "canon+GDM": System("QM9", "GNN", "frame"),
    "DiT": System("QM9", "DiT"),
    "DiT-Aug": System("QM9", "DiT", augment=True),
    "SymDiff-H": System("QM9", "DiT", kernel="haar"),
    "SymDiff": System("QM9", "DiT", kernel="recursive"),
    "SymDiff*": System("QM9", "DiT*", kernel="recursive*"),
    "canon+DiT": System("QM9", "DiT", "frame"),
    "Flow": System("QM9", "Canon", flow=PLAIN),
    "Flow-aug": System("QM9", "Canon", augment=True, flow=PLAIN),
    "Flow+pose": System("QM9", "Canon", "spectral-pose", flow=PLAIN),
    "Flow+order": System("QM9", "Canon", "spectral", flow=PLAIN),
    "Flow+prior": System("QM9", "Canon", "spectral", flow=PLAIN | {"prior": "aligned"}),
    "Flow+transport": System("QM9", "Canon", "spectral", flow=ALIGNED),
    "Flow-DiT": System("QM9", "DiT", "spectral", flow=ALIGNED),
    "Flow+bonds": System("QM9", "Canon", "spectral", flow=ALIGNED | {"graphs": True}),
    "CanonFlow": System("QM9", "Canon", "spectral", flow=ALIGNED | GRAPHS),
    "CanonFlow-aug": System("QM9", "Canon", augment=True, flow=PLAIN | GRAPHS),
}
# Every flow on heavy atoms too; hydrogens by rule need bonds.
SYSTEMS |= {
    f"{name}-heavy": replace(system, flow=system.flow | {"graphs": True}, hydrogens=BY_RULE)
    for name, system in SYSTEMS.items()
    if system.network == "Canon" and name != "Flow+bonds"
}
# The same network without distances, in canonical form and in any.
SYSTEMS |= {
    name.replace("Flow", "Flow-PairDiT"): replace(SYSTEMS[name], network="PairDiT")
    for name in ("CanonFlow-heavy", "CanonFlow-aug-heavy")
}
SYSTEMS |= {
    "UNet": System("RotMNIST", "UNet"),
    "canon(p8)+UNet": System("RotMNIST", "UNet", "gcnn8"),
    "canon(p16)+UNet": System("RotMNIST", "UNet", "gcnn16"),
    "canon(p32)+UNet": System("RotMNIST", "UNet", "gcnn32"),
    "canon(p16, fr)+UNet": System("RotMNIST", "UNet", "gcnn16", {"frozen": True}),
    "copies(16)+UNet": System("RotMNIST", "UNet", "copies16"),
    "arbitrary(16)+UNet": System("RotMNIST", "UNet", "arbitrary16"),
}


@dataclass(frozen=True)
class Recipe:
    """A system at a scale: all that is needed to build and train it."""

    name: str
    scale: str
    canonicalizer: str
    canonicalizer_settings: dict = field(default_factory=dict)
    network: str = "GNN"
    network_settings: dict = field(default_factory=dict)
    settings: Settings = Settings()
    data: str = "QM9"
    kernel: str | None = None
    kernel_settings: dict | None = None
    flow: dict | None = None
    hydrogens: str | None = None

    @classmethod
    def from_card(cls, card: dict) -> Recipe:
        """The recipe that `card` made."""
        return cls(**card["recipe"] | {"settings": Settings(**card["settings"])})

    def prepare(self, data: QM9 | RotMNIST, *, progress: bool = False) -> QM9 | RotMNIST:
        """`data` with what the recipe needs: of molecular graphs bonds and charges, of heavy atoms these alone."""
        if self.flow is None or not self.flow.get("graphs"):
            return data
        if data.molecules.bonds is None:
            data = with_bonds(data, progress=progress)
        return heavy_qm9(data, progress=progress) if self.heavy and "H" in data.molecules.elements else data

    @property
    def heavy(self) -> bool:
        """Whether hydrogens are left out and added by rule."""
        return self.hydrogens == BY_RULE

    @property
    def longest(self) -> int:
        """Atoms of the longest molecule; of images 0."""
        return 0 if self.data != "QM9" else MOST_HEAVY if self.heavy else LONGEST

    def complete(self, samples: Molecules) -> WithHydrogens:
        """What a model of this recipe sampled, with hydrogens where they are added by rule."""
        if self.heavy:
            return add_hydrogens(samples)
        return WithHydrogens(samples, torch.zeros(len(samples), dtype=torch.bool, device=samples.device))

    def measure(self, samples: Molecules) -> dict[str, float]:
        """The shares of stable molecules and atoms, by EDM's rule, among what a model of this recipe sampled.

        Of molecular graphs also what is valid by the generated bonds and, of the valid, unique.
        """
        made = self.complete(samples)
        found = stability(made.molecules, made.refused)
        shares = {"molecule_stable": found.molecule_stable, "atom_stable": found.atom_stable}
        if samples.bonds is not None:
            graphs = chemistry(made.molecules, generated=True, refused=made.refused)
            shares |= {"valid_by_generated_bonds": graphs.valid, "unique": graphs.unique}
        return shares

    def card(self, sha256: str, count: int, size_counts: torch.Tensor) -> dict:
        """What run.json must say so that a run can be resumed, built again and believed."""
        return {
            "recipe": asdict(self) | {"settings": None},
            "settings": asdict(self.settings),
            "data": {"name": self.data, "sha256": sha256, "train": count},
            "canonkit": canonkit.__version__,
            "size_counts": size_counts.tolist(),
        }

    def build(self, size_counts: torch.Tensor) -> OrbitModel:
        """The untrained model. Rows with the same seed have the same initial phi, whatever their canonicalizer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            if self.data == "QM9":
                process = Diffusion(MoleculeSpace(ELEMENTS, LONGEST)) if self.flow is None else self._flow(**self.flow)
                space = process.space
                network = NETWORKS[self.network](space.features, **self.network_settings, **space.network_options)
                if self.kernel is not None:
                    network = Symmetrised(network, _kernel(self.kernel, space.features, self.kernel_settings))
            else:
                process = Diffusion(ImageSpace((1, SIDE, SIDE)), cosine_schedule())
                network = NETWORKS[self.network](1, **self.network_settings)
            h = canonicalizer(self.canonicalizer, **self.canonicalizer_settings)
        return OrbitModel(h, process, network, size_counts)

    def _flow(self, prior: str, coupling: bool, graphs: bool = False, self_conditioning: bool = False) -> FlowMatching:
        space = MaskedMoleculeSpace(HEAVY if self.heavy else ELEMENTS, self.longest, graphs, self_conditioning)
        made = AlignedPrior(self.longest) if prior == "aligned" else Gaussian()
        s = self.settings
        options = {"correction": s.correction or 0.0, "unrolled": bool(s.unrolled)}
        return FlowMatching(space, made, coupling, s.distance_weight or 0.0, **options)


def systems() -> Table:
    """Every system that can be trained: what it learns, with which network and canonicalizer."""
    rows = []
    for name, system in SYSTEMS.items():
        process = "diffusion" if system.flow is None else "flow"
        poses = "turned at random" if system.augment else "-" if system.canonicalizer == "identity" else ""
        what = system.data + (" without hydrogens" if system.hydrogens else "")
        network = system.network + (f", {system.kernel}" if system.kernel else "")
        rows.append([name, what, process, network, poses or system.canonicalizer])
    return Table("Systems", ["name", "data", "process", "network", "canonicalizer"], rows, [])


def recipe(name: str, scale: str = "laptop", **changes) -> Recipe:
    """The recipe of that name; `changes` replace its training settings.

    Raises:
        ValueError: for an unknown name, scale or setting.
    """
    if name not in SYSTEMS:
        raise ValueError(f"no recipe is called {name!r}: {choose(name, SYSTEMS)}")
    if scale not in SCALES:
        raise ValueError(f"no scale is called {scale!r}: {choose(scale, SCALES)}")
    system = SYSTEMS[name]
    if scale not in SIZE[system.network]:
        raise ValueError(f"{name} has no {scale} scale: choose {' or '.join(SIZE[system.network])}")
    h_sizes = SIZE.get(system.canonicalizer.rstrip("0123456789"), {}).get(scale, {})
    preferred = PREFERRED.get(("flow" if system.flow else system.network, scale), {})
    changes = preferred | (PREFERRED.get(("heavy", scale), {}) if system.hydrogens else {}) | changes
    try:
        settings = replace(SETTINGS[system.data, scale], augment=system.augment, **changes)
    except TypeError:
        known = asdict(Settings())
        unknown = min(set(changes) - set(known))
        raise ValueError(f"no training setting is called {unknown!r}: {choose(unknown, known)}") from None
    sizes = SIZE[system.network][scale]
    return Recipe(
        name,
        scale,
        system.canonicalizer,
        h_sizes | system.settings,
        system.network,
        sizes,
        settings,
        system.data,
        system.kernel,
        SIZE[system.kernel][scale] if system.kernel else None,
        system.flow,
        system.hydrogens,
    )


def _kernel(name: str, features: int, settings: dict) -> Haar | Recursive:
    return Haar() if name == "haar" else Recursive(Turn(features, **settings))


@dataclass(frozen=True, eq=False)
class Run:
    """A trained model and how it came about.

    Args:
        folder: where it lives.
        recipe: what it is.
        model: with the averaged weights, in eval mode.
        log: entries of log.jsonl.
        card: run.json.
        step, seconds: how long it was trained.
    """

    folder: Path
    recipe: Recipe
    model: OrbitModel
    log: list[dict]
    card: dict
    step: int
    seconds: float

    def __repr__(self) -> str:
        return (
            f"Run({self.recipe.name}, {self.recipe.scale}: {self.step:,} steps, {self.seen:,} samples seen, "
            f"{self.training_seconds / 60:.1f} minutes on {self.card.get('hardware', '?')})"
        )

    @property
    def seen(self) -> int:
        """Training samples seen, those of the weights that the run started from included."""
        return self.step * self.recipe.settings.batch_size + self.card.get("init", {}).get("seen", 0)

    @property
    def training_seconds(self) -> float:
        """Seconds of training, those of the weights that the run started from included."""
        return self.seconds + self.card.get("init", {}).get("seconds", 0)

    def provenance(self) -> dict:
        """What a table must say beside a number got from this run."""
        return {
            "recipe": self.recipe.name,
            "scale": self.recipe.scale,
            "seed": self.recipe.settings.seed,
            "step": self.step,
            "seen": self.seen,
            "seconds": round(self.training_seconds, 1),
            "data": self.card["data"]["sha256"],
            "hardware": self.card["hardware"],
        }

    def sample(self, count: int = 1, steps: int | None = None, *, hydrogens: bool = True, **options):
        """`OrbitModel.sample`; of a model of heavy atoms with hydrogens added by rule, unless that is not wanted.

        A molecule that RDKit refuses to give hydrogens stays among the samples as it is, with a warning.
        """
        samples = self.model.sample(count, steps, **options)
        if not (self.recipe.heavy and hydrogens):
            return samples
        made = add_hydrogens(samples)
        if made.refused.any():
            refused, of = int(made.refused.sum()), len(samples)
            warnings.warn(f"{refused} of {of} molecules have impossible bonds: no hydrogens were added", stacklevel=2)
        return made.molecules


def train_recipe(
    name: str,
    out: str | Path,
    *,
    scale: str = "laptop",
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    data: QM9 | RotMNIST | None = None,
    device: str | None = None,
    init: str | None = None,
    monitor: Callable[[list[dict]], None] | None = None,
    progress: bool = True,
    checkpoint_seconds: float = 60.0,
    **changes,
) -> Run:
    """Trains a recipe on its data into the folder `out`; see `canonkit.training.train` for budget and errors.

    `changes` replace training settings: `train_recipe("canon+GDM", "runs/a", minutes=10, lr=1e-3, seed=1)`.
    `init` names trained weights, or a run's folder, to start from.
    """
    chosen = recipe(name, scale, **changes)
    data = chosen.prepare(data or DATA[chosen.data](progress=progress), progress=progress)
    part = data.part("train")
    counts = torch.bincount(lengths(part), minlength=chosen.longest + 1 if chosen.longest else 0)
    describe = chosen.card(data.sha256, len(part), counts)
    model = chosen.build(counts)
    canonical = chosen.flow is not None and not chosen.settings.augment and chosen.canonicalizer != "identity"
    if canonical:  # flows' canonicalizers learn nothing
        part = cached_canonical(model, chosen.canonicalizer, part)
    if init is not None:
        describe["init"] = _start_from(init, model)
    elif not (resume and read_counters(out)["step"]):  # a checkpoint holds it
        fit_prior(model, part, canonical)
    train(
        model,
        part,
        data.part("valid"),
        chosen.settings,
        out,
        minutes=minutes,
        steps=steps,
        resume=resume,
        canonical=canonical,
        describe=describe,
        measure=chosen.measure if chosen.data == "QM9" else None,
        device=device,
        monitor=monitor,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )
    return load_run(out)


def fit_prior(model: OrbitModel, data: Molecules, canonical: bool = False) -> None:
    """Fits what the process knows of the data beforehand, such as a prior; `canonical`: the data stand in that form."""
    if type(model.process).fit is not Process.fit:
        some = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:FITTED]
        x = data[some.to(data.device)]
        model.process.fit(x if canonical else model.canonical(x))


def _start_from(source: str, model: OrbitModel) -> dict:
    """Loads trained weights into `model`; returns what run.json should say of them."""
    from canonkit.releases import load

    start = load_run(source) if Path(source).is_dir() else load(source)
    try:
        model.load_state_dict(start.model.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"--init {source}: {start.recipe.name} at {start.recipe.scale} scale is another model: start from the same "
            "recipe and scale"
        ) from error
    return {"from": source, "step": start.step, "seen": start.seen, "seconds": round(start.training_seconds, 1)}


def new_run_folder(start: str | Path) -> Path:
    """`start`, or `start-2`, `start-3`, ...: the first that holds no run yet, so that a notebook can be run again."""
    start, k = Path(start), 2
    folder = start
    while (folder / "run.json").exists():
        folder, k = start.with_name(f"{start.name}-{k}"), k + 1
    return folder


def load_run(folder: str | Path) -> Run:
    """A run from its folder, on the CPU, with averaged weights.

    Raises:
        FileNotFoundError: no run, or no readable checkpoint there.
    """
    folder = Path(folder)
    try:
        card = read_card(folder / "run.json")
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no run (no run.json): train one with `canonkit train`") from None
    chosen = Recipe.from_card(card)
    model = chosen.build(torch.tensor(card["size_counts"]))
    counters = load_averaged(model, folder)
    model.eval().requires_grad_(False)
    return Run(folder, chosen, model, read_log(folder), card, counters["step"], counters["seconds"])
