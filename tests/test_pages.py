"""Pages that play in a browser without a notebook and without network."""

import pytest
import torch
from test_notebooks import seen

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
