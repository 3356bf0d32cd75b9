"""`make docs`: the reference of all modules, made from their docstrings; a warning is an error."""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import canonkit as ck

warnings.simplefilter("error", UserWarning)
warnings.filterwarnings("ignore", "The module specification")  # a package names its modules, or does not
warnings.filterwarnings("ignore", "Cannot determine where canonkit.described.Init")  # a dictionary made without a class
for name in ck.__all__:
    setattr(ck, name, getattr(ck, name))  # names that are loaded at first use
ck.__all__.append("figures")
modules = [m.name for m in pkgutil.walk_packages(ck.__path__, "canonkit.") if not m.name.endswith("__main__")]
pdoc.render.configure(math=True, docformat="google", show_source=False)
pdoc.pdoc("canonkit", *modules, output_directory=Path(sys.argv[1]))
print(f"{len(modules) + 1} modules in {sys.argv[1]}/index.html")
