"""canonkit: symmetry-aware generative modelling by canonicalization.

import canonkit as ck
qm9 = ck.load_qm9()                                   # 130,831 molecules
c = ck.canonicalizer("inertial")(qm9.molecules[:9])   # c.x in canonical pose, c.g, c.ambiguous
run = ck.train("canon+GDM", "runs/first", minutes=10)
ck.evaluate(run.sample(100, steps=100))
"""

__version__ = "0.1.0"

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canonkit import figures
    from canonkit.canonicalizers import canonicalizer
    from canonkit.canonicalizers.pyg import Canonicalize
    from canonkit.certificates import certify
    from canonkit.chemistry.formats import read, write
    from canonkit.data.own import OwnMolecules
    from canonkit.data.qm9 import load_qm9
    from canonkit.data.rotmnist import load_rotmnist
    from canonkit.figures import draw
    from canonkit.metrics import (
        bond_orders,
        evaluate,
        pose_statistics,
        properties,
        stability,
    )
    from canonkit.model import OrbitModel
    from canonkit.molecules import Molecules
    from canonkit.queue import runs
    from canonkit.recipes.names import recipe, systems
    from canonkit.recipes.run import load_run, new_run_folder
    from canonkit.releases import load, pretrained
    from canonkit.results import pose_table, table1, table2
    from canonkit.trainer import train_recipe as train
    from canonkit.widgets.explorer import explore
    from canonkit.widgets.inspector import inspect_pose
    from canonkit.widgets.view import show

# Where each public name lives: loaded where it is first used, so that importing canonkit costs little.
_WHERE = {
    "Molecules": ("canonkit.molecules", "Molecules"),
    "read": ("canonkit.chemistry.formats", "read"),
    "write": ("canonkit.chemistry.formats", "write"),
    "canonicalizer": ("canonkit.canonicalizers", "canonicalizer"),
    "certify": ("canonkit.certificates", "certify"),
    "Canonicalize": ("canonkit.canonicalizers.pyg", "Canonicalize"),
    "OrbitModel": ("canonkit.model", "OrbitModel"),
    "OwnMolecules": ("canonkit.data.own", "OwnMolecules"),
    "load_qm9": ("canonkit.data.qm9", "load_qm9"),
    "load_rotmnist": ("canonkit.data.rotmnist", "load_rotmnist"),
    "recipe": ("canonkit.recipes.names", "recipe"),
    "load_run": ("canonkit.recipes.run", "load_run"),
    "runs": ("canonkit.queue", "runs"),
    "load": ("canonkit.releases", "load"),
    "pretrained": ("canonkit.releases", "pretrained"),
    "new_run_folder": ("canonkit.recipes.run", "new_run_folder"),
    "stability": ("canonkit.metrics", "stability"),
    "bond_orders": ("canonkit.metrics", "bond_orders"),
    "evaluate": ("canonkit.metrics", "evaluate"),
    "pose_statistics": ("canonkit.metrics", "pose_statistics"),
    "draw": ("canonkit.figures", "draw"),
    "show": ("canonkit.widgets.view", "show"),
    "inspect_pose": ("canonkit.widgets.inspector", "inspect_pose"),
    "explore": ("canonkit.widgets.explorer", "explore"),
    "properties": ("canonkit.metrics", "properties"),
    "table1": ("canonkit.results", "table1"),
    "table2": ("canonkit.results", "table2"),
    "pose_table": ("canonkit.results", "pose_table"),
    "systems": ("canonkit.recipes.names", "systems"),
    "train": ("canonkit.trainer", "train_recipe"),
}
__all__ = [
    "Canonicalize",
    "Molecules",
    "OrbitModel",
    "OwnMolecules",
    "bond_orders",
    "canonicalizer",
    "certify",
    "draw",
    "evaluate",
    "explore",
    "figures",
    "inspect_pose",
    "load",
    "load_qm9",
    "load_rotmnist",
    "load_run",
    "new_run_folder",
    "pose_statistics",
    "pose_table",
    "pretrained",
    "properties",
    "read",
    "recipe",
    "runs",
    "show",
    "stability",
    "systems",
    "table1",
    "table2",
    "train",
    "write",
]


def __getattr__(name: str):
    if name == "figures":
        return importlib.import_module("canonkit.figures")
    if name not in _WHERE:
        raise AttributeError(f"module 'canonkit' has no attribute {name!r}")
    module, inner = _WHERE[name]
    if module.startswith("canonkit.widgets"):
        from canonkit.extras import WIDGETS, require

        require(*WIDGETS)
    return getattr(importlib.import_module(module), inner)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
