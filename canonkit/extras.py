"""Packages that not everybody needs: where one is missing, one line says how to install it."""

from importlib.util import find_spec

WIDGETS = ("ipywidgets", "anywidget", "py3Dmol")
IMAGES = ("escnn", "lie_learn", "joblib")
COMMANDS = {
    "accelerate": "pip install accelerate",
    "ase": "pip install ase",
    "biotite": "pip install biotite==1.6.0",
    "msgpack": "pip install msgpack",
    "posebusters": "pip install posebusters",
    "tblite": "pip install tblite",
    "torch_geometric": "pip install torch-geometric",
    **dict.fromkeys(WIDGETS, f"pip install {' '.join(WIDGETS)}"),
    # escnn declares a Fortran package that is not needed here, so it is installed without what it declares.
    **dict.fromkeys(IMAGES, "pip install lie_learn joblib && pip install --no-deps escnn"),
}


def require(*modules: str) -> None:
    """Raises ModuleNotFoundError, in one line with the command to type, if a module is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"{module} is not installed: {COMMANDS[module]}", name=module)
