"""Every system under its published name, at three scales.

`paper`: the published sizes and settings. `published`: those of the code released with the paper, also where that is
not what the paper says, or not right; the page on published systems has each difference. `laptop`: the same
mathematics, small enough to learn something worth looking at in ten minutes on two cores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from canonkit.names import choose
from canonkit.recipes.recipe import FORMS, Recipe
from canonkit.tables import Table
from canonkit.training import Settings

SCALES = ("laptop", "paper", "published")
# The network in the released code, where it is another one.
RELEASED = {"UNet": "ShuffleUNet", "DiT": "GaussianDiT", "DiT*": "GaussianDiT*"}
# What else the released code does otherwise: settings of the canonicalizer, of training, and of the recipe.
AS_RELEASED: dict[str, tuple[dict, dict, dict]] = {
    # Its option to freeze the canonicalizer freezes nothing, and leaves it the network's rate.
    "canon(fr)+GDM": ({"frozen": False}, {"canonicalizer_lr": 1e-4}, {}),
    "DiT-Aug": ({}, {}, {"reflections": True}),
}
# Published steps of training, by network: 3,000 and 4,350 epochs of 100,000 molecules, 1,000 of 10,000 images.
STEPS = {"GNN": 3000 * 1563, "EGNN": 3000 * 1563, "DiT": 4350 * 391, "DiT*": 4350 * 391, "UNet": 79_000}

# What a scale means: the sizes of each network and canonicalizer, and how each kind of data is trained on.
GRAPH = {"paper": {"width": 256, "layers": 9}, "laptop": {"width": 128, "layers": 6}}
FRAME = {"width": 64, "layers": 9}
CANON = {
    "paper": {"width": 256, "depth": 12, "heads": 8},
    "laptop": {"width": 128, "depth": 6, "heads": 8},
}
SIZE = {
    "GNN": GRAPH | {"published": GRAPH["paper"] | {"padded": 29}},
    "EGNN": GRAPH | {"published": GRAPH["paper"]},
    "DiT": {"paper": {"width": 384, "depth": 12, "heads": 6}, "laptop": {"width": 128, "depth": 6, "heads": 4}},
    "DiT*": {"paper": {"width": 768, "depth": 12, "heads": 12}},
    "GaussianDiT": {"published": {"width": 384, "depth": 12, "heads": 6, "gaussians": 184}},
    "GaussianDiT*": {"published": {"width": 768, "depth": 12, "heads": 12, "gaussians": 382}},
    "Canon": CANON,
    "PairDiT": CANON,
    "GraphEGNN": GRAPH,
    "haar": {"paper": {}, "published": {}, "laptop": {}},
    "recursive": {
        "paper": {"width": 128, "depth": 8, "heads": 4},
        "published": {"width": 128, "depth": 8, "heads": 4, "hidden": 64},
        "laptop": {"width": 64, "depth": 3, "heads": 4},
    },
    "recursive*": {
        "paper": {"width": 216, "depth": 10, "heads": 8},
        "published": {"width": 216, "depth": 10, "heads": 8, "hidden": 80},
    },
    "UNet": {
        "paper": {"width": 64, "multipliers": (1, 2, 4), "blocks": 2},
        "laptop": {"width": 24, "multipliers": (1, 2, 2), "blocks": 1},
    },
    "ShuffleUNet": {"published": {"width": 64, "multipliers": (2, 4), "times": 1000}},
    "frame": {"paper": FRAME, "published": FRAME, "laptop": {"width": 32, "layers": 3}},
    # With the published dropout a digit's pose in training is a matter of chance.
    "gcnn": {
        "paper": {"channels": 16, "dropout": 0.5},
        "published": {"channels": 16, "dropout": 0.5},
        "laptop": {"channels": 8, "dropout": 0.0},
    },
}
SETTINGS = {
    ("molecules", "paper"): Settings(precision="float32"),
    ("molecules", "published"): Settings(precision="float32"),
    ("molecules", "laptop"): Settings(lr=1.5e-3, canonicalizer_lr=1.5e-4, ema=0.999, warmup=200),
    ("images", "paper"): Settings(
        batch_size=128, lr=2e-4, canonicalizer_lr=2e-4, warmup=500, precision="float32", sample_every=0
    ),
    # 1,000 epochs; the weights are averaged every ten steps there with .9936
    ("images", "published"): Settings(
        batch_size=128,
        lr=1e-3,
        canonicalizer_lr=1e-3,
        weight_decay=0.01,
        ema=0.9936**0.1,
        one_cycle=79_000,
        clip=1e9,
        precision="float32",
        sample_every=0,
    ),
    ("images", "laptop"): Settings(lr=1e-3, canonicalizer_lr=1e-3, ema=0.999, warmup=200, sample_every=0),
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
PREFERRED |= {(name, "published"): PREFERRED[name, "paper"] for name in ("DiT", "DiT*")}


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
# On heavy atoms too: flows learn their bonds, from which the hydrogens follow; a diffusion's are found by distances.
SYSTEMS |= {
    f"{name}-heavy": replace(system, data="QM9-heavy", flow=system.flow and system.flow | {"graphs": True})
    for name, system in SYSTEMS.items()
    if name not in ("Flow+bonds", "Flow-DiT", "SymDiff*")
}
# The same network without distances: in canonical form and in any, and in poses and orders as stored. For an
# equivariant network all of them are the same (tests/test_flow.py).
SYSTEMS |= {
    name.replace("Flow", "Flow-PairDiT"): replace(SYSTEMS[name], network="PairDiT")
    for name in ("CanonFlow-heavy", "CanonFlow-aug-heavy", "Flow-heavy", "Flow-aug-heavy", "Flow+order-heavy")
}
SYSTEMS["Flow-EGNN-heavy"] = replace(SYSTEMS["Flow-heavy"], network="GraphEGNN")
SYSTEMS |= {
    "UNet": System("RotMNIST", "UNet"),
    "canon(p8)+UNet": System("RotMNIST", "UNet", "gcnn8"),
    "canon(p16)+UNet": System("RotMNIST", "UNet", "gcnn16"),
    "canon(p32)+UNet": System("RotMNIST", "UNet", "gcnn32"),
    "canon(p16, fr)+UNet": System("RotMNIST", "UNet", "gcnn16", {"frozen": True}),
    "copies(16)+UNet": System("RotMNIST", "UNet", "copies16"),
    "arbitrary(16)+UNet": System("RotMNIST", "UNet", "arbitrary16"),
}


def systems() -> Table:
    """Every system that can be trained: what it learns, with which network and canonicalizer."""
    rows = []
    for name, system in SYSTEMS.items():
        process = "diffusion" if system.flow is None else "flow"
        poses = "turned at random" if system.augment else "-" if system.canonicalizer == "identity" else ""
        what = system.data.replace("-heavy", " without hydrogens")
        network = system.network + (f", {system.kernel}" if system.kernel else "")
        rows.append([name, what, process, network, poses or system.canonicalizer])
    return Table("Systems", ["name", "data", "process", "network", "canonicalizer"], rows, [])


def recipe(name: str, scale: str = "laptop", **changes: Any) -> Recipe:
    """The recipe of that name; `changes` replace its training settings.

    Raises:
        ValueError: for an unknown name, scale or setting.
    """
    if name not in SYSTEMS:
        raise ValueError(f"no recipe is called {name!r}: {choose(name, SYSTEMS)}")
    if scale not in SCALES:
        raise ValueError(f"no scale is called {scale!r}: {choose(scale, SCALES)}")
    system, form = SYSTEMS[name], FORMS[SYSTEMS[name].data]
    networks = dict.fromkeys(SCALES, system.network) | {"published": RELEASED.get(system.network, system.network)}
    if form.heavy or system.flow:
        del networks["published"]  # nobody released one
    known = [k for k, network in networks.items() if k in SIZE[network]]
    if scale not in known:
        raise ValueError(f"{name} has no {scale} scale: choose {' or '.join(known)}")
    network = networks[scale]
    released = AS_RELEASED.get(name, ({}, {}, {})) if scale == "published" else ({}, {}, {})
    h_sizes = SIZE.get(system.canonicalizer.rstrip("0123456789"), {}).get(scale, {})
    preferred = PREFERRED.get(("flow" if system.flow else system.network, scale), {})
    changes = preferred | released[1] | (PREFERRED.get(("heavy", scale), {}) if form.heavy else {}) | changes
    try:
        settings = replace(SETTINGS[form.kind, scale], augment=system.augment, **changes)
    except TypeError:
        known = asdict(Settings())
        unknown = min(set(changes) - set(known))
        raise ValueError(f"no training setting is called {unknown!r}: {choose(unknown, known)}") from None
    return Recipe(
        name,
        scale,
        system.canonicalizer,
        h_sizes | system.settings | released[0],
        network,
        SIZE[network][scale],
        settings,
        system.data,
        system.kernel,
        SIZE[system.kernel][scale] if system.kernel else None,
        system.flow,
        unit_images=scale == "published" and form.kind == "images",
        steps=None if scale == "laptop" or system.flow or form.heavy else STEPS[system.network],
        **released[2],
    )
