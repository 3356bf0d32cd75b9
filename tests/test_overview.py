"""All results in tables, each row with its origin, and in pages that are written from them."""

from pathlib import Path

import pytest

from canonkit import overview
from canonkit.experiments import experiment, results_table, stored
from canonkit.overview import TABLES, refreshed
from canonkit.results import PUBLISHED, origin
from canonkit.tables import Table

PAGES = sorted((Path(__file__).parents[1] / "notebooks/pages").glob("*.md"))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_of_every_measured_row_where_it_is_from(name):
    table = TABLES[name]()
    assert table.rows
    assert all(len(row) == len(table.header) for row in table.rows)
    if name.startswith("published"):
        assert not table.hints
        return
    for row, hint in zip(table.rows, table.hints, strict=True):
        assert ("not measured" in row) == (hint == "not measured")
        assert hint == "not measured" or all(word in hint for word in (" scale, ", "seed", " steps, ", "data "))


def test_origin_names_every_seed_and_day():
    run = {"recipe": "GDM", "scale": "laptop", "step": 4000, "seen": 256000, "data": 64 * "a", "hardware": "CPU"}
    said = origin([run | {"seed": 1, "date": "2026-11-28"}, run | {"seed": 0, "date": "2026-11-27"}])
    assert said == (
        "GDM, laptop scale, seeds 0, 1, 4,000 steps, 256,000 seen, data aaaaaaaaaaaa, CPU, 2026-11-27, 2026-11-28"
    )
    assert origin([]) == "not measured"


def test_a_row_of_the_page_tells_its_origin_under_the_mouse():
    html = Table("t", ["a"], [["1"], ["2"]], [], ['<"x">', "y"])._repr_html_()
    assert '<tr title="&lt;&quot;x&quot;&gt;"><td' in html
    assert html.count("title=") == 2


def test_published_figures_are_as_printed():
    rows = {row[0]: tuple(row[1:]) for row in overview.published_molecules().rows}
    assert rows.pop("GDM-aug")[1:4] == ("71.6", "97.6", "90.4")
    assert rows == PUBLISHED


def test_a_block_of_a_page_is_replaced_by_the_table_and_the_rest_stays():
    page = "before\n<!-- table: published Table 2 -->\nold\n<!-- end of table -->\nafter"
    new = refreshed(page)
    assert new.startswith("before\n")
    assert new.endswith("\nafter")
    assert "| UNet | .0312 |" in new
    assert "old" not in new
    assert refreshed(new) == new
    with pytest.raises(ValueError, match="no table is called 'Tabel 1'"):
        refreshed(page.replace("published Table 2", "Tabel 1"))


def test_a_command_writes_pages_anew(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: published Table 1 -->\n<!-- end of table -->")
    overview.main([str(page)])
    assert "| EDM | -110.7±1.7 |" in page.read_text()
    assert "written anew" in capsys.readouterr().out
    overview.main([str(page)])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_tables_of_pages_are_those_that_are_stored(page):
    """`make pages` writes them anew."""
    assert refreshed(page.read_text()) == page.read_text()


def test_what_is_not_stored_is_said_to_be_not_measured():
    for title in ("Table 1", "Table 2", "When does canonical form pay"):
        of = experiment(title)
        there = {r.get("row", r["recipe"]) for r in stored(of)}
        assert {row[0] for row in results_table(of).rows if "not measured" in row} == of.rows.keys() - there
