"""canonkit: symmetry-aware generative modelling by canonicalization.

import canonkit as ck
qm9 = ck.load_qm9()                                   # 130,831 molecules
c = ck.canonicalizer("inertial")(qm9.molecules[:9])   # c.x in canonical pose, c.g, c.ambiguous
run = ck.train("canon+GDM", "runs/first", minutes=10)
ck.evaluate(run.sample(100, steps=100))
"""

__version__ = "0.1.0"

import ast
import importlib
import inspect
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canonkit import figures
    from canonkit.canonicalizers import canonicalizer
    from canonkit.canonicalizers.pyg import Canonicalize
    from canonkit.certificates import certify
    from canonkit.chemistry.formats import read, write
    from canonkit.comparison import compare
    from canonkit.data.named import dataset
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
    from canonkit.processes.trajectory import fold
    from canonkit.queue import runs
    from canonkit.recipes.names import recipe, systems
    from canonkit.recipes.run import load_run, new_run_folder
    from canonkit.releases import load, pretrained
    from canonkit.results import pose_table, table1, table2
    from canonkit.trainer import train_recipe as train
    from canonkit.widgets.explorer import explore
    from canonkit.widgets.gallery import gallery
    from canonkit.widgets.inspector import inspect_pose
    from canonkit.widgets.player import play
    from canonkit.widgets.view import show

__all__ = [
    "Canonicalize", "Molecules", "OrbitModel", "OwnMolecules", "bond_orders", "canonicalizer", "certify", "compare",
    "dataset", "draw", "evaluate", "explore", "figures", "fold", "gallery", "inspect_pose", "load", "load_qm9",
    "load_rotmnist", "load_run", "new_run_folder", "play", "pose_statistics", "pose_table", "pretrained", "properties",
    "read", "recipe", "runs", "show", "stability", "systems", "table1", "table2", "train", "write",
]  # fmt: skip


def _where() -> dict[str, tuple[str, str]]:
    """Each public name's module, and its name there: what type checkers read above is loaded where it is first used."""
    block = next(node for node in ast.parse(inspect.getsource(sys.modules[__name__])).body if isinstance(node, ast.If))
    lines = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: (str(node.module), alias.name) for node in lines for alias in node.names}


_WHERE = _where()  # so importing canonkit costs little


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'canonkit' has no attribute {name!r}")
    module, inner = _WHERE[name]
    if module == "canonkit":
        return importlib.import_module(f"canonkit.{inner}")
    if module.startswith("canonkit.widgets"):
        from canonkit.extras import WIDGETS, require

        require(*WIDGETS)
    return getattr(importlib.import_module(module), inner)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
