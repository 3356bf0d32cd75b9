"""What is said in plain words of the results is in the tables that it points to."""

import json
import re
from pathlib import Path

import pytest

from canonkit.bench import describe_systems
from canonkit.overview import TABLES
from canonkit.releases import cards
from canonkit.results import measured_costs, measured_steps, table2

PAGES = Path(__file__).parents[1] / "notebooks/pages"
CLAIMS = (PAGES / "claims.md").read_text()
LINKS = dict(re.findall(r"^\[(\w+)\]: (\S+)$", CLAIMS, re.M))
DECIMAL = re.compile(r"(?<![\d.])\d*\.\d+(?! million)")


def decimals(table):
    return {number for row in table.rows for cell in row for number in DECIMAL.findall(cell)}


def known(link):
    """The decimal numbers of a table."""
    if link == "few":
        return {f"{100 * v['molecule_stable']:.1f}" for e in measured_steps() for v in e["at"].values()}
    names = {"published": "published Table 1", "pdigits": "published Table 2", "hydrogens": "all hydrogens"}
    names |= {
        "steps": "ablation",
        "heavy": "Table 1",
        "released": "Table 2",
        "pays": "When does canonical form pay",
        "likelihood": "likelihoods",
        "drugs": "drugs",
    }
    if link in names:
        return decimals(TABLES[names[link]]())
    return decimals({"digits": table2, "costs": lambda: describe_systems(measured_costs())}[link]())


def sentences():
    """Those after the idea, without what stands in italics or bold as a heading or as a claim."""
    text = CLAIMS[CLAIMS.index("## What it buys") : CLAIMS.index("[published]:")]
    text = re.sub(r"^#.*$|^ *\d+\. ", "", text, flags=re.M)
    text = re.sub(r"\*\*[^*]+\.\*\*|(?<!\*)\*[^*]+\.\*(?!\*)", "", text).replace("*", "")
    return [s for s in re.split(r"(?<=[.?!])\s+(?=[A-Z])", " ".join(text.split())) if s]


def test_every_sentence_points_to_a_table_or_figure():
    found = sentences()
    assert len(found) > 30
    assert [s for s in found if not re.search(r"\]\[\w+\]", s)] == []
    used = set(re.findall(r"\]\[(\w+)\]", CLAIMS))
    assert used == LINKS.keys()


@pytest.mark.parametrize("link", LINKS)
def test_what_it_points_to_exists(link):
    target, _, place = LINKS[link].partition("#")
    notebook = json.loads((PAGES / target).resolve().read_text())
    lines = [x for c in notebook["cells"] if c["cell_type"] == "markdown" for x in "".join(c["source"]).split("\n")]
    assert place in {line.lstrip("#").strip().replace(" ", "-") for line in lines if line.startswith("#")}


def test_every_number_is_in_a_table_that_its_sentence_points_to():
    checked = 0
    for sentence in sentences():
        if numbers := set(DECIMAL.findall(re.sub(r"\]\[\w+\]", "", sentence))):
            there = set().union(*(known(link) for link in re.findall(r"\]\[(\w+)\]", sentence)))
            assert numbers <= there, sentence
            checked += len(numbers)
    assert checked > 40


def test_every_claim_has_a_verdict():
    claims = re.findall(r"^(\d+)\. \*(.+?)(?=^\d+\. \*|^###|^\[published\])", CLAIMS, re.M | re.S)
    assert [int(n) for n, _ in claims] == list(range(1, 13))
    verdicts = ("**Holds here**", "**Does not hold here**", "**Cannot be told**", "**cannot be told**")
    assert [n for n, text in claims if not any(v in text for v in verdicts)] == []


def test_the_table_of_weights_says_what_their_cards_say():
    text = (PAGES / "numbers.md").read_text()
    part = text[text.index("## Trained weights") :]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in part[: part.index("\n\nHydrogens")].split("\n")]
    compared = 0
    for name, seen, minutes, samples, evaluations, atoms, molecules, bonds in (row for row in rows if len(row) == 8):
        if name.split(",")[0] in cards():
            e = cards()[name.split(",")[0]]["evaluation"]
            assert (samples, evaluations) == (f"{e['molecules']:,}", str(e["steps"]))
            assert (seen, minutes) == (f"{e['seen'] / 1e6:.1f} million", f"{e['seconds'] / 60:.0f}")
            assert (atoms, molecules) == (f"{100 * e['atom_stable']:.1f} %", f"{100 * e['molecule_stable']:.1f} %")
            graphs = e.get("by_generated_bonds")
            assert bonds == (f"{100 * graphs['valid']:.1f} %" if graphs else "no bonds")
            compared += 1
    assert compared == 13
