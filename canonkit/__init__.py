"""canonkit: symmetry-aware generative modelling by canonicalization.

import canonkit as ck
qm9 = ck.load_qm9()                                   # 130,831 molecules
c = ck.canonicalizer("inertial")(qm9.molecules[:9])   # c.x in canonical pose, c.g, c.ambiguous
run = ck.train("canon+GDM", "runs/first", minutes=10)
ck.evaluate(run.sample(100, steps=100))
"""

__version__ = "0.1.0"

import importlib

_WHERE = {
    "Molecules": "canonkit.molecules",
    "read": "canonkit.formats",
    "write": "canonkit.formats",
    "canonicalizer": "canonkit.canonicalizers",
    "certify": "canonkit.canonicalizers",
    "Canonicalize": "canonkit.canonicalizers.pyg",
    "OrbitModel": "canonkit.model",
    "load_qm9": "canonkit.data.qm9",
    "load_rotmnist": "canonkit.data.rotmnist",
    "recipe": "canonkit.recipes",
    "load_run": "canonkit.recipes",
    "runs": "canonkit.queue",
    "load": "canonkit.releases",
    "pretrained": "canonkit.releases",
    "new_run_folder": "canonkit.recipes",
    "stability": "canonkit.metrics",
    "bond_orders": "canonkit.metrics",
    "evaluate": "canonkit.metrics",
    "pose_statistics": "canonkit.metrics",
    "draw": "canonkit.figures",
    "show": "canonkit.widgets.view",
    "inspect_pose": "canonkit.widgets.inspector",
    "explore": "canonkit.widgets.explorer",
    "properties": "canonkit.metrics",
    "table1": "canonkit.results",
    "table2": "canonkit.results",
    "pose_table": "canonkit.results",
}
__all__ = sorted([*_WHERE, "train"])


def __getattr__(name: str):
    """Loads a public name where it is first used, so that importing canonkit costs little."""
    if name == "train":
        from canonkit.recipes import train_recipe

        return train_recipe
    if name == "figures":
        return importlib.import_module("canonkit.figures")
    if name in _WHERE:
        if _WHERE[name].startswith("canonkit.widgets"):
            from canonkit.extras import WIDGETS, require

            require(*WIDGETS)
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'canonkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
