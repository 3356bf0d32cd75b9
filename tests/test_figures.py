import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import COUNTS
from PIL import Image

import canonkit as ck
from canonkit import figures
from canonkit.canonicalizers import Canonical, Inertial, canonicalizer
from canonkit.data.qm9 import FORM
from canonkit.figures.group import in_ball, on_cone
from canonkit.figures.plane import grid
from canonkit.groups import angle_and_axis, haar_orthogonal, haar_rotations, turn_about
from canonkit.metrics import stability
from canonkit.processes import Diffusion, MoleculeSpace
from canonkit.recipes.names import SYSTEMS, recipe
from canonkit.releases import cards
from canonkit.results import (
    PUBLISHED,
    STEPS,
    ablation_table,
    by_recipe,
    evaluate_ablation,
    evaluate_steps,
    measured_ablation,
    measured_costs,
    measured_laptop,
    measured_steps,
    table1,
)
from canonkit.trainer import train_recipe
from canonkit.training import Prepared, Settings, train
from canonkit.widgets.monitor import Monitor


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_()[0])).convert("RGB")).astype(int)


def coloured(image, colour, within=40):
    return (np.abs(image - np.array(colour)).sum(-1) < within).mean()


def test_molecules_are_drawn_in_their_elements_colours(qm9):
    methane, ammonia, water = (qm9.molecules[k : k + 1].trim() for k in range(3))
    for molecule, colour in ((methane, (77, 77, 77)), (ammonia, (59, 111, 212)), (water, (217, 65, 47))):
        image = pixels(figures.draw(molecule))
        assert coloured(image, colour) > 0.002
        assert coloured(image, (230, 230, 230), 15) > 0.002  # hydrogen


def test_unstable_atoms_are_ringed_in_red_only_when_asked(qm9):
    broken = qm9.molecules[:1].trim()
    broken = broken.with_(positions=1.3 * broken.positions)
    red = [coloured(pixels(figures.draw(broken, mark_unstable=m)), (208, 0, 0)) for m in (False, True)]
    assert red[0] == 0 < red[1]


@pytest.mark.slow
def test_every_figure_draws_without_pyplot(qm9, sample):
    log = [
        {"kind": kind, "step": k, "seen": 64 * k, "loss": 1.0 / k, "atom_stable": 0.1 * k}
        for k in (1, 2, 3)
        for kind in ("train", "valid", "sample")
    ]
    drawn = [
        figures.draw(sample[:7], columns=3, captions=["a"] * 7, title="seven"),
        figures.pose_density({"raw": sample, "inertial": Inertial()(sample).x}),
        figures.noising(Diffusion(MoleculeSpace()), sample[:1]),
        figures.training_curves({"run": log}),
        figures.stability_steps({"run": {k: stability(sample[: 10 * k]) for k in (1, 2)}}),
    ]
    for figure in drawn:
        assert pixels(figure).std() > 5
    code = "import sys; from canonkit import figures; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.fixture
def screen(monkeypatch):
    """What is displayed: for each output its contents, the first one and the updates."""
    shown = []

    class Handle:
        def __init__(self, content):
            shown.append([content])
            self.contents = shown[-1]

        def update(self, content):
            self.contents.append(content)

    monkeypatch.setattr("IPython.display.display", lambda content, display_id: Handle(content))
    return shown


def test_monitor_redraws_in_place_and_takes_its_button_away(screen):
    monitor = Monitor(every=0)
    entries = []
    for k in (1, 2, 3):
        entries.append({"kind": "train", "step": k, "seen": k, "loss": 1.0})
        monitor(entries)
    monitor.finish()
    button, curves = screen
    assert "interrupt-kernel" in button[0].data
    assert button[1].data == " "
    assert len(curves) == 3


def test_monitor_is_shown_the_same_noises_at_every_measure(screen, sample, tmp_path):
    seen = []

    class Watching(Monitor):
        def see(self, step, samples):
            seen.append((step, samples))
            super().see(step, samples)

    x = sample[:64].trim()
    settings = Settings(batch_size=8, validate_every=0, sample_every=2, samples=3, sample_steps=2)
    prepared = Prepared(recipe("inertial+GDM").build(COUNTS), x, x[:8], settings, measure=FORM.measure)
    train(prepared, tmp_path, steps=4, progress=False, device="cpu", monitor=Watching(every=0))
    assert [step for step, _ in seen] == [2, 4]
    assert seen[0][1].mask.equal(seen[1][1].mask)
    assert not seen[0][1].positions.equal(seen[1][1].positions)
    assert [len(contents) for contents in screen][-1] == 2
    far = seen[0][1].with_(positions=1e4 * seen[0][1].positions + torch.tensor([torch.nan, 0.0, 0.0]))
    monitor = Monitor()
    monitor.see(1, far)
    assert pixels(screen[-1][0]).std() > 5  # samples of a model that has learned nothing are seen all the same


def test_curves_of_many_models_differ_in_more_than_colour(sample):
    results = {f"model {k}": {5: stability(sample[k : k + 20]), 10: stability(sample[:20])} for k in range(8)}
    lines = figures.stability_steps(results).axes[0].lines
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 8
    assert len({line.get_marker() for line in lines}) == 8


def test_few_planar_molecules_are_marks_and_no_histogram(sample):
    flat = sample[:5].with_(positions=sample[:5].positions * torch.tensor([1.0, 1.0, 0.0]))
    many = sample[:30].with_(positions=sample[:30].positions * torch.tensor([1.0, 1.0, 0.0]))
    panel = figures.pose_profile({"few": flat, "many": many}).axes[0]
    assert [line.get_xdata().size for line in panel.lines] == [5]
    assert len(panel.patches) == 1


def test_curves_have_a_panel_for_what_is_logged_and_no_other():
    train_only = [{"kind": "train", "step": k, "seen": k, "loss": 1 / k} for k in (1, 2)]
    measured = [{"kind": "sample", "step": 2, "seen": 2, "valid_by_generated_bonds": 0.5, "unique": 1.0}]
    assert [ax.get_title() for ax in figures.training_curves({"a": train_only}).axes] == ["training loss"]
    both = figures.training_curves({"a": train_only + measured})
    assert [ax.get_title() for ax in both.axes] == ["training loss", "valid molecules, unique among them (dashed)"]


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
    names = "GDM GDM-aug EDM inertial+GDM canon(fr)+GDM canon+GDM DiT DiT-Aug SymDiff-H SymDiff canon+DiT".split()
    assert {e["recipe"] for e in rows} == set(names)
    for key in ("scale", "seed", "seen", "molecules", "steps", "data", "protocol"):
        assert len({e[key] for e in rows}) == 1
    for e in rows:
        assert 0 <= e["molecule_stable"] <= e["atom_stable"] <= 1
        assert 0 < e["validation_loss"] < 0.1


def test_table_1_adds_the_costs_of_systems_where_they_are_given():
    evaluations, costs = measured_laptop(), measured_costs()
    assert {c["system"] for c in costs} >= {e["recipe"] for e in evaluations}
    table = table1(evaluations, costs)
    row = {r[0]: r for r in table.rows}["GDM"]
    cost = next(c for c in costs if c["system"] == "GDM")
    steps = next(e["steps"] for e in evaluations if e["recipe"] == "GDM")
    assert row[-2:] == [f"{1e3 * cost['step_s']:.0f}", f"{cost['evaluation_s'] * (steps + 1):.2f}"]
    assert all(len(r) == len(table.header) for r in table.rows)
    assert cost["hardware"] in table.notes[-1]


def test_vector_fields_draw_the_fields_they_are_given():
    figure = figures.vector_fields({"one": lambda z: z, "two": lambda z: -2 * z}, points=5)
    one, two = (ax.collections[0] for ax in figure.axes)
    assert (two.U == -2 * one.U).all()
    assert (one.U**2 + one.V**2).max() <= 2.0**2 + 1e-6
    assert one.scale == two.scale


def test_rotation_law_shows_where_rotations_send_the_axes():
    g = haar_orthogonal(4000, generator=torch.Generator().manual_seed(0))
    same = torch.eye(3).expand(100, 3, 3)
    figure = figures.rotation_law({"Haar": g, "one": same})
    top = figure.axes[0]
    assert (top.collections[1].get_offsets()[:, 1] == g[:, 2, 2].double().numpy()).all()
    titles = [ax.get_title() for ax in figure.axes]
    assert any(title.startswith("one") and "= 1.00" in title for title in titles)
    # The histogram of the angles is within five standard errors of Haar's density.
    bars = figure.axes[2].patches
    edges = np.deg2rad([bar.get_x() for bar in bars] + [180.0])
    expected = np.diff(edges - np.sin(edges)) / np.pi
    found = np.array([bar.get_height() * 7.5 for bar in bars])
    assert (np.abs(found - expected) < 5 * np.sqrt(expected / 900) + 1e-3).all()


@pytest.fixture(scope="module")
def digits(rotmnist_small):
    return rotmnist_small.part("test")[:60], rotmnist_small.labels("test")[:60]


def test_image_rows_show_the_images_by_name(digits):
    x, _ = digits
    figure = figures.image_rows({"one": x, "two": x[:3]}, columns=5)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 8
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["one", "two"]
    assert (shown[1].images[0].get_array() == x[1, 0].numpy()).all()


def test_class_means_are_means_and_say_how_much_is_left(digits):
    x, labels = digits
    figure = figures.class_means({"as they come": x}, labels)
    assert len(figure.axes) == 11
    assert np.abs(figure.axes[3].images[0].get_array() - x[labels == 3].mean((0, 1)).numpy()).max() < 1e-6
    within = torch.stack([x[labels == k].var(0) * (labels == k).float().mean() for k in range(10)]).sum(0).mean()
    assert figure.axes[-1].get_title() == f"{float(within):.4f}"


def test_angle_histogram_counts_every_angle_once(digits):
    _, labels = digits
    degrees = torch.linspace(-180, 539, len(labels))
    (ax,) = figures.angle_histogram({"any": degrees}, labels).axes
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1)
    (ax,) = figures.angle_histogram({"none": torch.full((len(labels),), 359.0)}, labels).axes
    assert sum(bar.get_height() for bar in ax.patches if bar.get_x() < 0) == pytest.approx(1)


def test_activations_mark_the_chosen_rotation(digits):
    h = canonicalizer("copies16").eval()
    x = digits[0][0]
    figure = figures.activations(h, x)
    bars = figure.axes[2].patches
    red = [k for k, bar in enumerate(bars) if bar.get_facecolor()[0] > 0.8 and bar.get_facecolor()[1] < 0.1]
    assert red == h(x[None]).g.tolist()
    assert max(range(16), key=lambda k: bars[k].get_height()) == red[0]
    assert len(bars) == 16


def test_clouds_draw_every_point_and_shade_the_regions_named():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    region = grid(2.6, 21)[..., 0] > 0
    figure = figures.clouds({"one": x, "two": [x[:3], x[3:6]]}, columns=2, regions={"two": region})
    one, two = figure.axes
    assert np.abs(one.collections[0].get_offsets() - x.numpy()).max() < 1e-6
    assert len(one.collections) == 1
    assert len(two.collections) == 4  # shade, outline, two sets
    closed = figures.clouds({"triangle": x[:3]}, joined=True).axes[0].lines[0]
    assert closed.get_xydata() == pytest.approx(torch.cat([x[:3], x[:1]]).numpy())


def test_scores_point_uphill_along_grad_log_p():
    p = torch.exp(-2 * grid(2.6, 81).square().sum(-1))  # grad log p = -4 x
    figure = figures.densities({"p": p, "bare": p}, scores=["p"])
    (arrows,) = (c for c in figure.axes[0].collections if hasattr(c, "U"))
    place, arrow = np.stack([arrows.X, arrows.Y], -1), np.stack([arrows.U, arrows.V], -1)
    length = np.linalg.norm(place, axis=-1, keepdims=True)
    inner = ((length > 0.1) & (length < 0.8))[:, 0]
    assert inner.sum() > 4
    assert arrow[inner] == pytest.approx((-np.tanh(4 * length / 6) * place / length)[inner], abs=0.02)
    assert figure.axes[1].collections[:] == []


def test_shape_maps_share_one_scale_and_error_curves_hold_their_numbers():
    figure = figures.shape_maps({"a": torch.rand(4, 8), "b": 3 + torch.zeros(4, 8)}, label="c moves by")
    assert [ax.images[0].get_clim() for ax in figure.axes[:2]] == [(0, 3), (0, 3)]
    (ax,) = figures.error_curves({"way": {10: 0.3, 100: 0.1}}, xlabel="n", ylabel="error", level=0.2).axes
    assert ax.lines[0].get_xydata().tolist() == [[10, 0.3], [100, 0.1]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["10", "100"]


def test_velocity_curves_hold_their_numbers():
    figure = figures.velocity_curves({"a": torch.tensor([2.0, 1.0]), "b": torch.tensor([1.0, 0.5])}, (0.0, 0.5))
    (ax,) = figure.axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[2, 1], [1, 0.5]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_numbers_on_atoms_are_their_places(sample):
    figure = figures.draw(sample[:2].trim(), numbers=True)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == [str(k + 1) for n in sample[:2].sizes.tolist() for k in range(n)]


def test_a_flow_is_evaluated_at_several_numbers_of_steps(tmp_path, qm9):
    run = train_recipe("Flow+order", tmp_path, steps=2, data=qm9, progress=False, batch_size=8, sample_every=0)
    found = evaluate_steps(run, (2, 5), 5)
    assert found["at"].keys() == {"2", "5"}
    assert found["at"]["2"].keys() == {"atom_stable", "molecule_stable"}
    assert found["seen"] == 16


def test_an_ablation_becomes_a_table_and_a_figure_with_the_spread_over_seeds(tmp_path, qm9):
    settings = {"batch_size": 8, "validate_every": 2, "sample_every": 2, "log_every": 2, "samples": 4}
    options = {"steps": 4, "data": qm9, "progress": False, "sample_steps": 2} | settings
    found = [
        evaluate_ablation(train_recipe("CanonFlow-heavy", tmp_path / str(seed), seed=seed, **options))
        for seed in (0, 1)
    ]
    assert found[0]["at"].keys() == {"16", "32"}
    for seed, shares in enumerate(((0.2, 0.4), (0.4, 0.8))):
        for budget, share in zip(("16", "32"), shares, strict=True):
            found[seed]["at"][budget]["molecule_stable"] = share
    (row,) = ablation_table(found).rows
    assert row[:4] == ["CanonFlow-heavy", "2", "30.0 ± 14.1", "60.0 ± 28.3"]
    ax = figures.stable_by_budget(by_recipe(found)).axes[0]
    assert [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"] == [30, 60]


def test_shipped_ablation_and_steps_are_of_known_recipes_and_equal_budgets():
    rows = measured_ablation()
    assert {e["recipe"] for e in rows} <= SYSTEMS.keys()
    assert all(sorted(e["seed"] for e in runs) == [0, 1, 2] for runs in by_recipe(rows).values())
    for key in ("seen", "scale", "protocol"):
        assert len({e[key] for e in rows}) == 1
    steps = measured_steps()
    assert {e["recipe"] for e in steps} <= cards().keys()
    assert all(e["at"].keys() == {str(n) for n in STEPS} for e in steps)


def test_composition_counts_atoms_and_molecules_with_an_element():
    water = ck.Molecules.from_list([np.eye(3)] * 3, [[8, 1, 1]] * 3)
    chlorine = ck.Molecules.from_list([np.eye(3), np.eye(3)[:2]], [[17, 6, 17], [17, 17]])
    size, kind = figures.composition({"water": water, "other": chlorine}).axes
    assert [tick.get_text() for tick in kind.get_xticklabels()] == ["H", "C", "N", "O", "F", "Cl"]
    assert [bar.get_height() for bar in kind.patches] == [100, 0, 0, 100, 0, 0, 0, 50, 0, 0, 0, 100]
    assert [text.get_text() for text in size.get_legend().get_texts()] == ["water (3)", "other (2)"]
    with pytest.raises(ValueError, match="a set has no molecules"):
        figures.composition({"none": water[:0]})


def test_jumps_are_drawn_where_the_pose_turns_and_the_order_changes(sample):
    """One molecule, turned by 0, 10, 10 and 100 degrees; its last two atoms change places at the end."""
    turns = turn_about(torch.tensor([0.0, 0.0, 1.0]).double(), torch.deg2rad(torch.tensor([0.0, 10, 10, 100]).double()))
    order = torch.arange(int(sample[0].sizes[0])).repeat(4, 1)
    order[3, -2:] = order[3, -2:].flip(0)
    odd = torch.tensor([False, True, False, False])
    c = Canonical(sample[[0] * 4].trim(), turns, odd, order)
    turn, places = figures.pose_jumps([0.0, 1.0, 2.0, 3.0], {"mine": c}, "t").axes
    assert turn.lines[0].get_xdata().tolist() == [0.5, 1.5, 2.5]
    assert turn.lines[0].get_ydata().tolist() == pytest.approx([10, 0.01, 90], abs=1e-4)
    assert turn.lines[1].get_xdata().tolist() == [0.5, 1.5]
    assert places.lines[0].get_ydata().tolist() == [0, 0, 2]


def test_shares_are_drawn_with_their_deviations():
    a, b = {"stable": 0.5, "valid": 1.0, "deviation": {"stable": 0.1}}, {"stable": 0.25, "valid": 0.75}
    figure = figures.shares({"a": a, "b": b}, ("stable", "valid"))
    (ax,) = figure.axes
    assert [bar.get_height() for bar in ax.patches] == [50, 100, 25, 75]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


# -- the group --------------------------------------------------------------------------------------------------------


def test_haar_measure_fills_the_ball_evenly():
    x = in_ball(haar_rotations(20_000, generator=torch.Generator().manual_seed(0)))
    r = x.norm(dim=-1)
    for inner in (0.3, 0.6, 0.9):
        assert float((r < inner).double().mean()) == pytest.approx(inner**3, abs=0.01)
    assert x.mean(0).abs().max() < 0.02


def test_angle_and_axis_make_the_rotation_again_half_turns_and_identity_too():
    g = haar_rotations(200, generator=torch.Generator().manual_seed(0)).double()
    half = torch.tensor([[-1.0, -1, 1], [1, -1, -1], [-1, 1, -1], [1, 1, 1]]).double().diag_embed()
    g = torch.cat([g, half])
    angle, axis = angle_and_axis(g)
    assert (turn_about(axis, angle) - g).abs().max() < 1e-7
    assert (axis.norm(dim=-1) - 1).abs().max() < 1e-9
    assert angle[-4:].tolist() == pytest.approx([math.pi] * 3 + [0], abs=1e-7)


def test_canonical_poses_are_one_point_of_the_ball_and_a_jump_is_drawn(sample):
    h = ck.canonicalizer("inertial")
    c = h(sample[:50])
    again = in_ball(h(c.x.act(c.g)).g) - in_ball(c.g)
    assert again.norm(dim=-1).median() < 1e-2
    assert in_ball(h(c.x).g).norm(dim=-1).median() < 0.1
    quarter = turn_about(torch.eye(3)[[2, 2, 2]], torch.tensor([0.0, 0.3, 2.0]))
    lines = ck.figures.rotations(quarter, path=True).axes[0].lines
    assert [line.get_linestyle() for line in lines[3:5]] == ["-", ":"]
    with pytest.raises(ValueError, match="need an order"):
        ck.figures.rotations(torch.arange(5))


def test_the_wheel_shows_the_shares():
    figure = ck.figures.rotations({"a": torch.tensor([0, 0, 2, 1])}, order=4)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 0.25, 0.25, 0]


def test_the_cone_is_the_quotient_and_keeps_lengths():
    r, phi = np.array([1.0, 2.0]), np.array([0.3, 1.1])
    for order in (2, 3, 5):
        one, other = (np.stack(on_cone(r, phi + k * 2 * np.pi / order, order)) for k in (0, 2))
        assert np.abs(one - other).max() < 1e-12  # an orbit is one point
        fine = np.linspace(0, 1, 20001)
        way = np.stack(on_cone(1 + fine, 0.3 + 0.8 * fine, order), -1)
        plane = np.stack([(1 + fine) * np.cos(0.3 + 0.8 * fine), (1 + fine) * np.sin(0.3 + 0.8 * fine)], -1)
        lengths = [np.linalg.norm(np.diff(curve, axis=0), axis=-1).sum() for curve in (way, plane)]
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)


@pytest.mark.parametrize("order", [2, 3, 7])
def test_folded_points_lie_in_the_slice_one_per_orbit(order):
    points = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    middle = ck.figures.quotient(points, order, start=0.5).axes[1]
    ends = [np.array([line.get_xdata()[-1], line.get_ydata()[-1]]) for line in middle.lines if line.get_marker() == "o"]
    assert len(ends) == 4 * order
    for one in np.array(ends).reshape(4, order, 2):
        assert np.abs(one - one[0]).max() < 1e-6
        assert -1e-6 <= (np.arctan2(one[0, 1], one[0, 0]) - 0.5) % (2 * np.pi) < 2 * np.pi / order
    with pytest.raises(ValueError, match="order 1"):
        ck.figures.quotient(points, 1)


def test_an_orbit_folds_onto_one_pose(sample):
    h = ck.canonicalizer("inertial")
    x = sample[[7] * 3].trim().centred().act(haar_rotations(3, generator=torch.Generator().manual_seed(0)))
    path = ck.fold(h, x, frames=5)
    assert (path.frames[0].positions - x.positions).abs().max() < 1e-5
    assert (path.samples.positions - h(x).x.positions).abs().max() < 1e-4
    assert (path.samples.positions - path.samples.positions[:1]).abs().max() < 1e-3
    assert all((f.distances() - x.distances()).abs().max() < 1e-4 for f in path.frames)
    drawn = ck.draw(ck.Molecules.cat([path.frames[0], path.samples]), overlay=3)
    assert drawn.get_size_inches()[0] == pytest.approx(2 * 1.7)  # two drawings of three molecules
