"""All results in tables: what was published stands by itself, and so does what was measured, with its origin.

`python -m canonkit.overview PAGE ...` writes the tables of Markdown pages anew: what is between `<!-- table: NAME -->`
and `<!-- end of table -->`. NAME is a table of `TABLES`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from canonkit.experiments import experiment, results_table
from canonkit.names import choose
from canonkit.releases import cards
from canonkit.results import (
    PUBLISHED,
    PUBLISHED_ROTMNIST,
    ablation_table,
    drugs_table,
    likelihood_table,
    measured_ablation,
    measured_laptop,
    measured_likelihoods,
    origin,
)
from canonkit.tables import Table

# As the columns of PUBLISHED (Hoogeboom et al. 2022).
PUBLISHED_CONTROL = ("–", "71.6", "97.6", "90.4", "–")
# Model, evaluations, molecules stable (%), connected and valid (%), as their authors print them of GEOM-Drugs.
PUBLISHED_DRUGS = [
    ["EQGAT-diff", "500", "93.5", "83.0"],
    ["SemlaFlow", "20", "96.2", "87.5"],
    ["SemlaFlow", "100", "97.9", "92.0"],
    ["Megalodon-flow", "100", "99.0", "94.8"],
]


def published_molecules() -> Table:
    """Table 1 as it was printed, and the control in random poses, which was printed elsewhere."""
    header = ["system", "NLL (nats)", "mol %", "atom %", "valid %", "unique %"]
    notes = ["Sareen et al. 2024, Table 1: QM9 with all hydrogens, 1,000 evaluations, four days on one RTX 8000."]
    notes.append("GDM-aug: Hoogeboom et al. 2022, also on QM9 with all hydrogens; poses turned at random in training.")
    rows = [[name, *row] for name, row in PUBLISHED.items()]
    return Table("Published: Table 1", header, [*rows, ["GDM-aug", *PUBLISHED_CONTROL]], notes)


def published_images() -> Table:
    """Table 2 as it was printed."""
    notes = ["Sareen et al. 2024, Table 2: RotMNIST, 1,000 epochs, 9 hours on one A100."]
    rows = [[name, error] for name, error in PUBLISHED_ROTMNIST.items()]
    return Table("Published: Table 2", ["system", "mean squared denoising error"], rows, notes)


def published_drugs() -> Table:
    """What was printed of models of GEOM-Drugs."""
    header = ["model", "evaluations", "stable %", "connected and valid %"]
    notes = [
        "GEOM-Drugs, by the older table of valencies, which counts aromatic bonds as single ones. Not to be compared "
        "with measured tables here: other data, another table of valencies."
    ]
    return Table("Published: drug-size molecules", header, PUBLISHED_DRUGS, notes)


def with_hydrogens(evaluations: Iterable[dict[str, Any]] | None = None) -> Table:
    """What was measured of models of QM9 with all hydrogens, one seed each, shipped weights at last."""
    if evaluations is None:
        found = [card["evaluation"] for card in cards().values() if card["data"]["name"] == "QM9"]
        evaluations = [*measured_laptop(), *(e for e in found if e["seen"] > 1e6)]
    header = ["system", "molecules seen", "mol %", "atom %", "valid %", "unique %", "validation loss", "bound (nats)"]
    rows, hints, evaluations = [], [], list(evaluations)
    for e in evaluations:
        shares = [f"{100 * e[k]:.1f}" for k in ("molecule_stable", "atom_stable", "valid", "unique")]
        bound = f"{e['validation_nll']:.1f} ± {e['validation_nll_error']:.1f}" if "validation_nll" in e else "–"
        rows.append([e["recipe"], f"{e['seen']:,}", *shares, f"{e['validation_loss']:.4f}", bound])
        hints.append(f"{origin([e])}; {e['molecules']:,} samples at {e['steps']} evaluations")
    protocols = sorted({(e["molecules"], e["steps"], e["protocol"]) for e in evaluations})
    notes = [f"{count:,} samples at {steps} evaluations, {protocol}." for count, steps, protocol in protocols]
    notes += ["One seed each. Bounds of canonical poses and of poses as they come are not comparable."]
    return Table("Measured: all hydrogens", header, rows, notes, hints)


TABLES: dict[str, Callable[[], Table]] = {
    "published Table 1": published_molecules,
    "published Table 2": published_images,
    "published drugs": published_drugs,
    "Table 1": lambda: results_table(experiment("Table 1")),
    "Table 2": lambda: results_table(experiment("Table 2")),
    "When does canonical form pay": lambda: results_table(experiment("When does canonical form pay")),
    "all hydrogens": with_hydrogens,
    "ablation": lambda: ablation_table(measured_ablation()),
    "drugs": drugs_table,
    "likelihoods": lambda: likelihood_table(measured_likelihoods()),
}
BLOCK = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end of table -->)", re.S)


def refreshed(text: str) -> str:
    """A page with its tables as they are stored now.

    Raises:
        ValueError: it asks for a table that there is not.
    """

    def block(found: re.Match) -> str:
        name = found[2]
        if name not in TABLES:
            raise ValueError(f"no table is called {name!r}: {choose(name, TABLES)}")
        return f"{found[1]}\n{TABLES[name]().markdown()}\n\n{found[3]}"

    return BLOCK.sub(block, text)


def main(pages: Iterable[str]) -> None:
    """Writes the tables of pages anew."""
    for page in map(Path, pages):
        old = page.read_text(encoding="utf-8")
        if (new := refreshed(old)) != old:
            page.write_text(new, encoding="utf-8")
            print(f"{page}: tables written anew")


if __name__ == "__main__":
    main(sys.argv[1:])
