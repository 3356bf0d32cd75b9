"""Pages that play in a browser without a notebook and without network."""

import os

import nbformat
import pytest
import torch
from test_notebooks import READY, jupyter, lab, room, run_all_cells, seen  # noqa: F401

import canonkit as ck
from canonkit.processes import Trajectory

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def copy(three_dmol, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("CANONKIT_3DMOL", str(three_dmol))


def test_slider_and_play_change_the_canvas_offline(sample, browser, tmp_path):
    x = sample[[3, 40, 41, 42]].trim().centred()
    noise = torch.randn(x.positions.shape, generator=torch.Generator().manual_seed(0)) * x.mask[..., None]
    path = Trajectory(tuple(x.with_(positions=x.positions + (1 - k / 29) * noise) for k in range(30)))
    page = browser.page
    page.goto(ck.play(path).save(tmp_path / "play.html").as_uri())
    player = page.locator(".canonkit-player")
    stage = player.locator(".canonkit-stage")
    assert player.get_attribute("data-frame") == "0"
    first = seen(stage)
    assert first.std() > 3
    player.locator("[type=range]").fill("29")
    page.wait_for_function("document.querySelector('.canonkit-player').dataset.frame === '29'")
    assert abs(seen(stage) - first).mean() > 1
    player.locator("button").click()  # in a loop it begins anew
    page.wait_for_function("document.querySelector('.canonkit-player').dataset.frame < 29")
    player.locator("[type=checkbox]").uncheck()
    player.locator("[type=range]").fill("10")  # pauses
    player.locator("button").click()  # stops at the end
    page.wait_for_function("document.querySelector('.canonkit-player').dataset.frame === '29'")
    page.wait_for_function("document.querySelector('.canonkit-player button').textContent === '▶'")
    assert int(player.get_attribute("data-drawn")) > 5
    before = page.evaluate("scrollY"), seen(stage)
    page.set_viewport_size({"width": 1400, "height": 150})
    page.mouse.move(300, 60)
    page.mouse.wheel(0, 50)  # scrolls the page and leaves the molecules alone
    page.wait_for_function("scrollY > 0")
    assert before[0] == 0
    assert browser.outside == []
    assert browser.errors == []


NOTEBOOK = """import canonkit as ck
x = ck.load_qm9(progress=False).part("test")[[27, 5]]
ck.inspect_pose({"inertial": ck.canonicalizer("inertial"), "frame": ck.canonicalizer("frame")}, x)
"""
DRAG = """async handle => {
  const panes = document.querySelector(".canonkit-panes"), times = [];
  for (let k = 0; k < 15; k++) {
    const before = panes.dataset.drawn, start = performance.now();
    handle.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
    while (panes.dataset.drawn === before && performance.now() - start < 5e3) await new Promise(requestAnimationFrame);
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b);
}"""


def test_the_inspector_follows_its_sliders_and_hides_its_still_picture(browser, lab, room):  # noqa: F811
    cells = [nbformat.v4.new_code_cell(NOTEBOOK)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # else JupyterLab asks for one
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), room / "a.ipynb")
    page = browser.page
    page.set_default_timeout(60_000)
    page.goto(f"{lab}lab/tree/a.ipynb")
    page.wait_for_function(READY, arg=1)
    run_all_cells(page)
    page.wait_for_function("document.querySelector('.canonkit-panes').dataset.drawn > 0")
    assert page.locator(".canonkit-still").evaluate("e => e.getBoundingClientRect().width") == 0
    times = page.locator(".noUi-handle").nth(3).evaluate(DRAG)
    print(f"median {times[7]:.0f} ms, slowest {times[-1]:.0f} ms")
    assert times[-1] < 5_000  # every move reaches the screen
    page.set_viewport_size({"width": 900, "height": 1000})
    page.wait_for_timeout(500)
    for part in [*page.locator(".canonkit-pane").all(), *page.locator(".widget-slider").all()]:
        box = part.bounding_box()
        assert box["width"] > 200 - 1
        assert box["x"] + box["width"] < 900
    for handle in page.locator(".noUi-handle").all():
        assert handle.bounding_box()["width"] > 5
    if folder := os.environ.get("CANONKIT_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/inspector-900.png")
    assert browser.errors == []
