"""The 3D views as far as Python goes: what they send to the browser. That it draws there, test_notebooks sees."""

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import canonkit as ck
from canonkit.canonicalizers import Identity, Inertial
from canonkit.groups import rotate
from canonkit.processes import Trajectory
from canonkit.widgets import threedmol
from canonkit.widgets.turning import Turning


@pytest.fixture(autouse=True)
def jupyter_data(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("CANONKIT_3DMOL", raising=False)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    file = tmp_path / "3Dmol-min.js"
    file.write_text("// a copy")
    monkeypatch.setenv("CANONKIT_3DMOL", str(file))


# -- where 3Dmol.js comes from ----------------------------------------------------------------------------------------


def test_a_named_copy_is_put_where_jupyter_finds_it(copy, tmp_path):
    path = threedmol.local_copy()
    assert path == tmp_path / "jupyter" / "labextensions" / "canonkit" / "3Dmol-min.js"
    assert path.read_text() == "// a copy"


@pytest.mark.parametrize("kept", [False, True])
def test_a_page_that_a_network_sends_instead_is_not_kept(monkeypatch, kept):
    portal = b"<html>please log in</html>"
    monkeypatch.delenv("CANONKIT_OFFLINE", raising=False)
    monkeypatch.setattr(threedmol.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(portal))
    monkeypatch.setattr(threedmol.shutil, "which", lambda name: None)
    threedmol._fetched.cache_clear()
    target = Path(os.environ["JUPYTER_DATA_DIR"]) / "labextensions" / "canonkit" / "3Dmol-min.js"
    if kept:  # by an earlier version
        target.parent.mkdir(parents=True)
        target.write_bytes(portal)
    assert threedmol.local_copy() is None
    threedmol._fetched.cache_clear()


def test_a_damaged_copy_is_fetched_anew(copy):
    path = threedmol.local_copy()
    path.write_text("// a cop")
    assert threedmol.local_copy().read_text() == "// a copy"


def test_a_title_does_not_end_the_script_of_a_view(sample, copy):
    evil = sample[:1].with_(titles=("</script><img src=x onerror=alert(1)>",))
    assert "alert(1)" not in ck.show(evil)._repr_mimebundle_()["text/html"]


def test_a_copy_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CANONKIT_3DMOL", "nowhere.js")
    with pytest.raises(FileNotFoundError, match=r"nowhere.js, which is not a file: give a copy of 3Dmol-min.js"):
        threedmol.local_copy()


def test_without_copy_and_network_the_view_is_the_picture_and_says_how_to_get_more(sample):
    assert threedmol.local_copy() is None
    page = ck.show(sample[:2])._repr_mimebundle_()["text/html"]
    assert "<script" not in page
    assert "CANONKIT_3DMOL" in page
    png = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])
    assert png.startswith(b"\x89PNG")


# -- show -------------------------------------------------------------------------------------------------------------


def test_a_view_has_picture_and_every_molecule_with_its_bonds(sample, copy):
    view = ck.show(sample[:3], captions=["one", "two", "<three>"], columns=2, axes=True)
    page = view._repr_mimebundle_()["text/html"]
    assert page.index("<img") < page.index("<script")
    assert page.count("V2000") == 3
    assert r"\\u003cthree>" in page  # text for a canvas, no entities
    assert view.picture.startswith(b"\x89PNG")
    assert page.count("</script>") == 1  # what is quoted inside does not end the script
    assert "3Dmol-min.js" in page
    assert len(page) < 200_000 + len(view.picture) * 4 / 3  # 3Dmol.js itself is not in it


def test_captions_must_be_one_per_molecule(sample, copy):
    with pytest.raises(ValueError, match="2 captions for 3 molecules"):
        ck.show(sample[:3], captions=["a", "b"])
    with pytest.raises(ValueError, match="no molecules"):
        ck.show(sample[:0])


# -- the inspector ----------------------------------------------------------------------------------------------------


def pane(inspector, k):
    return np.array(inspector.panes.panes[k]["molecule"]["x"]).reshape(-1, 3) / 100


@pytest.fixture
def inspector(sample):
    return ck.inspect_pose(Inertial(), sample[10:14])


def test_turning_changes_the_left_pane_and_not_the_right(inspector):
    before = pane(inspector, 0), pane(inspector, 1)
    inspector.turns[0].value, inspector.turns[2].value = 40, -75
    assert np.abs(pane(inspector, 0) - before[0]).max() > 0.5
    assert np.abs(pane(inspector, 1) - before[1]).max() < 0.02
    assert inspector.panes.panes[0]["axes"] != inspector.panes.panes[1]["axes"]


def test_the_turned_molecule_is_the_molecule(inspector):
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (pane(inspector, 0),)]
    inspector.turns[1].value = 90
    assert np.abs(np.linalg.norm((x := pane(inspector, 0))[:, None] - x[None], axis=-1) - distances[0]).max() < 0.03


def test_mirror_order_and_jitter_reach_the_numbers(inspector):
    still = float(inspector.update()["c(x)"]["moved (Å)"])
    inspector.order.value = 3
    assert float(inspector.update()["c(x)"]["moved (Å)"]) == pytest.approx(still, abs=1e-3)
    assert "order in x" in inspector.numbers.value
    assert inspector.update()["c(x)"]["order in c(x)"] == "as in x"
    inspector.mirror.value = True
    assert float(inspector.update()["c(x)"]["moved (Å)"]) > 0.05
    assert inspector.update()["c(x)"]["det h(x)"] == "+1.000"
    inspector.mirror.value, inspector.jitter.value = False, 0.1
    assert 0.01 < float(inspector.update()["c(x)"]["moved (Å)"]) < 5


def test_jitter_breaks_no_bond_and_reordering_carries_the_bonds_along(inspector):
    def bonds(k):
        pane = inspector.panes.panes[k]["molecule"]
        rows = np.array(pane["bonds"]).reshape(-1, 3)
        return sorted((*sorted(pane["types"][i] for i in row[:2]), row[2]) for row in rows.tolist())

    before = bonds(0)
    assert len(before) > 5
    inspector.jitter.value, inspector.order.value = 0.3, 4
    assert bonds(0) == bonds(1) == before


def test_the_dot_in_the_ball_of_rotations_moves_with_the_sliders(inspector):
    before = inspector.ball.value
    assert before.count("canonkit-dot") == 1
    inspector.turns[1].value = 50
    assert inspector.ball.value != before


def test_the_still_picture_gives_way_to_the_live_view(inspector, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    inspector._ipython_display_()
    assert shown[0] is inspector.box
    assert '<div class="canonkit-still"><img src="data:image/png' in shown[1].data


def test_several_canonicalizers_stand_side_by_side(sample):
    inspector = ck.inspect_pose({"inertial": Inertial(), "none": Identity()}, sample[:2])
    inspector.turns[0].value = 60
    found = inspector.update()
    assert float(found["inertial"]["moved (Å)"]) < 1e-3 < 0.1 < float(found["none"]["moved (Å)"])
    assert [p["title"] for p in inspector.panes.panes] == ["x", "c(x), inertial", "c(x), none"]
    assert found["none"]["nearest jump (Å)"] == "none up to 0.5"


def test_a_canonicalizer_that_orders_atoms_keeps_their_order_whatever_the_sliders_do(sample):
    inspector = ck.inspect_pose(ck.canonicalizer("spectral"), sample[10:12])
    before, right = inspector.update()["c(x)"], pane(inspector, 1)
    inspector.order.value, inspector.turns[0].value = 5, 70
    after = inspector.update()["c(x)"]
    assert float(after["moved (Å)"]) < 1e-3
    assert after["order in c(x)"] == before["order in c(x)"] != "as in x"
    assert np.abs(pane(inspector, 1) - right).max() < 0.02


def test_another_molecule_starts_the_cameras_anew(inspector):
    zoom = inspector.panes.zoom
    inspector.which.value = 2
    assert inspector.panes.zoom == zoom + 1
    assert len(pane(inspector, 0)) == int(inspector.molecules.sizes[2])


def test_where_the_browser_cannot_draw_python_does(inspector):
    assert inspector.panes.picture == ""
    inspector.panes.flat = True
    first = inspector.panes.picture
    assert base64.b64decode(first).startswith(b"\x89PNG")
    inspector.turns[0].value = 30
    assert inspector.panes.picture != first


# -- the explorer -----------------------------------------------------------------------------------------------------


def test_the_explorer_shows_the_chosen_molecule_and_its_numbers(sample):
    explorer = ck.explore(sample[:50])
    assert set(explorer.map.properties) == {"atoms", "heavy atoms", "thickness (Å)", "elongation", "stable atoms"}
    json.dumps(explorer.map.properties)
    explorer.map.chosen = 7
    assert explorer.map.panes[0]["title"] == "molecule 7"
    assert "molecule 7: atoms" in explorer.numbers.value
    explorer.menus[0].value = "elongation"
    assert explorer.map.x == "elongation"
    assert len(explorer.map.names) == 50
    numbered = ck.explore(sample[:3], {"a": torch.zeros(3), "index": torch.tensor([12345, 7, 8])})
    assert "index 12345" in numbered.numbers.value


def test_properties_of_ones_own_may_be_unknown_for_some(sample):
    explorer = ck.explore(sample[:3], {"a": torch.tensor([1.0, torch.nan, 2.0]), "b": [1, 2, 3]})
    assert explorer.map.properties["a"] == [1.0, None, 2.0]
    with pytest.raises(ValueError, match="a map needs two"):
        ck.explore(sample[:3], {"a": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"b has shape \(2,\), expected \(3,\)"):
        ck.explore(sample[:3], {"a": [1, 2, 3], "b": [1, 2]})


# -- trajectories -----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(sample):
    """Four molecules that come together in seven steps: no model made them."""
    x = sample[[3, 40, 41, 42]].trim().centred()
    noise = torch.randn(x.positions.shape, generator=torch.Generator().manual_seed(0)) * x.mask[..., None]
    return Trajectory(tuple(x.with_(positions=x.positions + (1 - k / 7) * noise) for k in range(8)))


def drawn_data(page):
    return json.loads(re.search(r"makePlayer\(document.getElementById\(\"[\w-]+\"\), (.*)\);", page)[1])


def test_a_player_has_stills_and_every_frame_with_the_bonds_of_its_own(path, copy):
    player = ck.play(path, stills=3)
    page = player._repr_mimebundle_()["text/html"]
    assert page.index("<img") < page.index("<script")
    assert page.count("</script>") == 1
    data = drawn_data(page)
    assert (len(data["frames"]), len(data["frames"][0]), data["titles"]) == (8, 4, ["1", "2", "3", "4"])
    for k, molecules in ((0, path.frames[0]), (7, path.samples)):
        bonds = [len(pane["bonds"]) // 3 for pane in data["frames"][k]]
        assert bonds == (ck.bond_orders(molecules) > 0).sum((1, 2)).div(2).long().tolist()
    ends = np.array(data["frames"][7][0]["x"]).reshape(-1, 3) / 100
    assert np.abs(ends - path.samples.positions[0, : len(ends)].numpy()).max() < 0.006
    assert {len(t.get_text().split()) for t in player.figure().axes[0].texts if "/" in t.get_text()} == {4}


def test_models_side_by_side_may_know_other_elements_and_bonds(path, copy):
    heavy = Trajectory(
        tuple(
            ck.Molecules.from_list([[[0, 0, 0], [1.2, 0, 0]]], [[6, 8]], elements=("C", "O"), charges=[[0, 0]], bonds=b)
            for b in ([np.zeros((0, 3))], [np.array([[0, 1, 2]])])
        )
    )
    player = ck.play({"heavy": heavy, "all": path[:2]}, stills=2)
    data = drawn_data(player._page())
    assert data["titles"] == ["heavy", "all 1", "all 2"]
    assert [data["elements"][k] for k in data["frames"][7][0]["types"]] == ["C", "O"]
    assert data["frames"][0][0]["bonds"] == []
    assert data["frames"][7][0]["bonds"] == [0, 1, 2]  # the shorter trajectory rests


def test_a_player_is_thinned_saved_and_refuses_what_it_cannot_play(path, copy, tmp_path):
    from PIL import Image, ImageSequence

    assert len(ck.play(path, frames=3)) == 3
    with Image.open(ck.play(path[:2], frames=4).save(tmp_path / "a.gif")) as film:
        assert len(list(ImageSequence.Iterator(film))) == 4
    page = ck.play(path[0]).save(tmp_path / "a.html").read_text()
    assert "// a copy" in page
    for wrong, words in (
        (lambda: ck.play(path).save("a.avi"), r"cannot write '.avi'"),
        (lambda: ck.play(path[:0]), "0 molecules to play"),
        (lambda: ck.play(path, frames=1), "frames 1"),
        (lambda: ck.play(Trajectory((torch.zeros(1, 1, 4, 4),))), "image_rows"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


def test_molecules_over_each_other_share_a_pane(path, copy):
    data = drawn_data(ck.play({"a": path[:3], "b": path[1:]}, overlay=True)._page())
    assert data["titles"] == ["a", "b"]
    alone = drawn_data(ck.play(path)._page())["frames"][7]
    pane = data["frames"][7][0]
    assert pane["types"] == alone[0]["types"] + alone[1]["types"] + alone[2]["types"]
    third = [v - (k % 3 != 2) * len(alone[0]["types"] + alone[1]["types"]) for k, v in enumerate(pane["bonds"])]
    assert third[-len(alone[2]["bonds"]) :] == alone[2]["bonds"]
    with pytest.raises(ValueError, match="equally many"):
        ck.play({"a": path[:3], "b": path[:2]}, overlay=True)


def test_without_3dmol_the_player_is_its_stills(path):
    page = ck.play(path[0])._page()
    assert "<script" not in page
    assert "CANONKIT_3DMOL" in page


# -- the gallery ------------------------------------------------------------------------------------------------------


def test_the_gallery_has_a_row_per_molecule_and_says_what_is_not_unique(sample, copy, tmp_path):
    line = ck.Molecules.from_list([[[-1.6, 0, 0], [-0.5, 0, 0], [0.7, 0, 0]]], [[1, 6, 7]])  # HCN: any turn about x
    x = ck.Molecules.cat([line, sample[[5]].with_(charges=None).trim()])
    table = ck.gallery(x, {"inertial": Inertial(), "none": Identity()})
    assert table.titles[0] == "molecule 0"
    assert table.titles[1].startswith("inertial: ambiguous")
    assert table.titles[2] == "none"
    assert table.columns == 3
    assert len(table.figure().axes[0].texts) >= 6
    page = table.save(tmp_path / "poses.html").read_text()
    assert len(drawn_data(page)["frames"][0]) == 6
    assert "// a copy" in page
    with pytest.raises(ValueError, match="make 4000 panes"):
        ck.gallery(sample, {"none": Identity()})


# -- the slider of images ---------------------------------------------------------------------------------------------


def test_turning_an_image_keeps_its_canonical_image(rotmnist_small):
    x = rotmnist_small.part("test")[:3]
    turning = Turning(ck.canonicalizer("copies16").eval(), x)
    shown = []
    for degrees in (0, 90, 270):
        turning.angle.value = degrees
        axes = turning.picture().axes
        shown.append([np.asarray(ax.images[0].get_array()) for ax in axes[:2]])
        assert np.array_equal(shown[-1][0], rotate(x[:1], float(degrees))[0, 0].numpy())
    assert all(np.array_equal(other[1], shown[0][1]) for other in shown)
    assert not np.array_equal(shown[0][0], shown[1][0])
