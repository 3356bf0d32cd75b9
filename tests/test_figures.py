import io
import subprocess
import sys

import numpy as np
from PIL import Image

from canonkit import figures
from canonkit.canonicalizers import Inertial
from canonkit.metrics import stability
from canonkit.processes import Diffusion, MoleculeSpace
from canonkit.results import PUBLISHED, measured_laptop, table1
from canonkit.widgets.monitor import Monitor


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_()[0])).convert("RGB")).astype(int)


def coloured(image, colour, within=40):
    return (np.abs(image - np.array(colour)).sum(-1) < within).mean()


def test_molecules_are_drawn_in_their_elements_colours(qm9):
    methane, ammonia, water = (qm9.molecules[k : k + 1].trim() for k in range(3))
    for molecule, colour in ((methane, (77, 77, 77)), (ammonia, (59, 111, 212)), (water, (217, 65, 47))):
        image = pixels(figures.molecule_grid(molecule))
        assert coloured(image, colour) > 0.002
        assert coloured(image, (230, 230, 230), 15) > 0.002  # hydrogen


def test_unstable_atoms_are_ringed_in_red_only_when_asked(qm9):
    broken = qm9.molecules[:1].trim()
    broken = broken.with_(positions=1.3 * broken.positions)
    red = [coloured(pixels(figures.molecule_grid(broken, mark_unstable=m)), (208, 0, 0)) for m in (False, True)]
    assert red[0] == 0 < red[1]


def test_every_figure_draws_without_pyplot(qm9, sample):
    log = [
        {"kind": kind, "step": k, "molecules": 64 * k, "loss": 1.0 / k, "atom_stable": 0.1 * k}
        for k in (1, 2, 3)
        for kind in ("train", "valid", "sample")
    ]
    drawn = [
        figures.molecule_grid(sample[:7], columns=3, captions=["a"] * 7, title="seven"),
        figures.pose_density({"raw": sample, "inertial": Inertial()(sample).x}),
        figures.noising(Diffusion(MoleculeSpace()), sample[:1]),
        figures.training_curves({"run": log}),
        figures.stability_steps({"run": {k: stability(sample[: 10 * k]) for k in (1, 2)}}),
    ]
    for figure in drawn:
        assert pixels(figure).std() > 5
    code = "import sys; from canonkit import figures; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_monitor_redraws_in_place(monkeypatch):
    shown, updated = [], []

    class Handle:
        def update(self, figure):
            updated.append(figure)

    monkeypatch.setattr("IPython.display.display", lambda figure, display_id: shown.append(figure) or Handle())
    monitor = Monitor(every=0)
    entries = []
    for k in (1, 2, 3):
        entries.append({"kind": "train", "step": k, "molecules": k, "loss": 1.0})
        monitor(entries)
    assert (len(shown), len(updated)) == (1, 2)


def test_table_1_keeps_published_and_measured_figures_apart():
    table = table1(measured_laptop())
    rows = {row[0]: row for row in table.rows}
    assert rows["canon+GDM"][1:6] == ["-117.4±1.2", "84.6±0.4", "98.4±0.2", "94.4±0.3", "99.7±0.2"]
    assert "–" not in rows["EDM"]
    assert table1().rows[1][6:] == ["–"] * 6
    assert rows["GDM-aug"][1:6] == ["–"] * 5
    assert set(rows) == {*PUBLISHED, *(e["recipe"] for e in measured_laptop())}
    assert all(len(row) == len(table.header) for row in table.rows)
    assert any("molecules seen" in note for note in table.notes)
    assert "<table>" in table._repr_html_()


def test_measured_rows_share_one_protocol():
    rows = measured_laptop()
    assert {e["recipe"] for e in rows} == {"GDM", "GDM-aug", "EDM", "inertial+GDM", "canon(fr)+GDM", "canon+GDM"}
    for key in ("scale", "seed", "molecules_seen", "molecules", "steps", "data", "protocol"):
        assert len({e[key] for e in rows}) == 1
    for e in rows:
        assert 0 <= e["molecule_stable"] <= e["atom_stable"] <= 1
        assert 0 < e["validation_loss"] < 0.1
