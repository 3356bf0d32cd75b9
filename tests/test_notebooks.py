"""The notebooks run from top to bottom in JupyterLab, in a browser, and ask for nothing from the network."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browsing import LOCAL
from jupyter_client.kernelspec import KernelSpecManager
from PIL import Image
from playwright.sync_api import expect

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SMALL = {"CANONKIT_MINUTES": "0.05", "CANONKIT_COUNT": "16", "OMP_NUM_THREADS": "1"}
VERSIONS = re.compile(r"^canonkit \S+, torch \S+, Python \S+, seed \d+$", re.M)
OWN_PATH = re.compile(r"(?<![\w/.])/(root|work|home|tmp|Users)\b")
NOWHERE = "http://127.0.0.1:9"  # a proxy that does not answer
PATIENCE = 600  # seconds a notebook may take

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.name for p in NOTEBOOKS])


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def pictures(notebook):
    """How many are seen when it is opened: those under a collapsed heading are not."""
    found, collapsed = 0, 0
    for cell in notebook.cells:
        depth = len(cell.source) - len(cell.source.lstrip("#")) if cell.cell_type == "markdown" else 0
        if depth and depth <= collapsed:
            collapsed = 0
        if depth and not collapsed and cell.metadata.get("jp-MarkdownHeadingCollapsed"):
            collapsed = depth
        found += 0 if collapsed else sum("image/png" in o.get("data", {}) for o in cell.get("outputs", []))
    return found


def complaints(notebook):
    """Errors and whatever was printed to standard error."""
    errors = [f"{o.ename}: {o.evalue}" for o in outputs(notebook) if o.output_type == "error"]
    return errors + [o.text for o in outputs(notebook) if o.get("name") == "stderr"]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def words(notebook):
    """All text that is saved beside the cells: outputs but for pictures, and the notebook's metadata."""
    data = [{k: v for k, v in o.get("data", {}).items() if not k.startswith("image/")} for o in outputs(notebook)]
    saved = [{**output, "data": d} for output, d in zip(outputs(notebook), data, strict=True)]
    return json.dumps([saved, notebook.metadata]).replace(r"\n", " ")


@pytest.fixture
def jupyter(tmp_path, monkeypatch, three_dmol):
    """Jupyter without the user's settings; everything it writes for itself goes to the test's folder."""
    state = tmp_path / "jupyter"
    state.mkdir()
    for variable in ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "JUPYTERLAB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for folder in ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME", "JUPYTERLAB_SETTINGS", "JUPYTERLAB_WORKSPACES"):
        monkeypatch.setenv(f"{folder}_DIR", str(state / folder.lower()))
    monkeypatch.setenv("IPYTHONDIR", str(state / "ipython"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("CANONKIT_3DMOL", str(three_dmol))
    for variable, value in SMALL.items():
        monkeypatch.setenv(variable, value)
    kernel = Path(KernelSpecManager().get_kernel_spec("python3").resource_dir)
    assert kernel.is_relative_to(sys.prefix), f"{kernel} is not of {sys.prefix}"
    return state


@pytest.fixture
def room(tmp_path):
    """A working folder for the notebooks."""
    room = tmp_path / "notebooks"
    room.mkdir()
    return room


@each_notebook
def test_notebook_starts_with_budget_seed_and_versions(path):
    notebook = nbformat.read(path, as_version=4)
    first = code_cells(notebook)[0]
    assert 'os.environ.get("CANONKIT_' in first.source
    assert "torch.manual_seed(SEED)" in first.source
    assert first.source.splitlines()[-1].startswith("print(")
    for part in ("ck.__version__", "torch.__version__", "platform.python_version()", "{SEED}"):
        assert part in first.source.splitlines()[-1]
    assert VERSIONS.search(printed(first))


@each_notebook
def test_committed_outputs_hold_no_errors_and_no_paths_of_the_author(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.source for cell in code_cells(notebook) if cell.execution_count is None] == []
    assert complaints(notebook) == []
    assert OWN_PATH.findall(words(notebook)) == []


@pytest.fixture
def lab(jupyter, room):
    """JupyterLab serving `room` on a free port: its address."""
    settings = {
        "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},  # no cell waits to be seen
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for name, content in settings.items():
        file = jupyter / "jupyterlab_settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))
    options = "--no-browser --allow-root --ip=127.0.0.1 --port=0 --LabApp.extension_manager=readonly".split()
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={room}"]
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    environment = os.environ | proxies | dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(LOCAL))
    log = jupyter / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=room,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield answering(server, jupyter / "jupyter_runtime", log)
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answering(server, runtime, log, patience=180):
    """The server's address, once it answers there."""
    end = time.monotonic() + patience
    while server.poll() is None and time.monotonic() < end:
        for file in runtime.glob("jpserver-*.json"):
            try:
                url = json.loads(file.read_text())["url"]
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}api/status", timeout=30)
                return url
            except (ValueError, urllib.error.URLError):
                pass
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


FAULT = '[data-mime-type="application/vnd.jupyter.stderr"]'  # what JupyterLab draws on red: tracebacks and warnings
# The toolbar's own sign says idle before there is a kernel; the status bar does not.
READY = """cells => document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt").length === cells &&
  document.querySelector("#jp-main-statusbar").innerText.includes("| Idle")"""
FINISHED = """fault => {
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt")].map(p => p.textContent.trim());
  const halted = document.querySelector(`.jp-Dialog, ${fault}`);
  return document.querySelector("#jp-main-statusbar").innerText.includes("| Idle") &&
    (halted ? !prompts.includes("[*]:") : prompts.every(p => /^\\[\\d+\\]:$/.test(p)));
}"""
DRAWN = "images => images.filter(i => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 0).length"


def run_all_cells(page):
    """Clears the open notebook, runs it from the menu and waits until the kernel is done."""
    for menu, command in (("Edit", "editmenu:clear-all"), ("Run", "runmenu:run-all")):
        page.click(f".lm-MenuBar-itemLabel:text-is('{menu}')")
        page.click(f".lm-Menu-item[data-command='{command}']")
    page.wait_for_function(FINISHED, arg=FAULT, polling=200, timeout=1000 * PATIENCE)
    page.wait_for_timeout(2000)  # for outputs that draw themselves


def seen(element):
    """What an element looks like, (H, W, 3)."""
    element.scroll_into_view_if_needed()
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


def look_at_canvases(page):
    """Every 3D view has drawn something."""
    for canvas in page.locator(".jp-OutputArea canvas").all():
        assert seen(canvas).std() > 3


def turn_in_the_inspector(page):
    """Turns the molecule of every pose inspector: its pane changes, those of its canonical poses do not."""
    for cell in page.locator(".jp-CodeCell:has(.canonkit-panes):has(.widget-slider)").all():
        panes = cell.locator(".canonkit-pane").all()
        before = [seen(pane) for pane in panes]
        handle = cell.locator(".noUi-handle").nth(3)  # after molecule, order and jitter
        for _ in range(40):
            handle.press("ArrowRight")
        page.wait_for_timeout(2000)
        changed = [np.abs(seen(pane) - old).mean() for pane, old in zip(panes, before, strict=True)]
        assert changed[0] > 2
        assert max(changed[1:]) < 0.5


def move_sliders(page):
    """Moves the first slider of every cell that has one over a picture; the picture must change."""
    for cell in page.locator(".jp-CodeCell:has(.widget-slider):not(:has(.canonkit-panes))").all():
        picture = cell.locator(".jp-RenderedImage img").first
        before = picture.get_attribute("src")
        for _ in range(5):
            cell.locator(".noUi-handle").first.press("ArrowRight")
        expect(picture).not_to_have_attribute("src", before, timeout=30_000)


def take_screenshots(page, name, folder):
    """The open notebook from top to bottom, one picture per screen."""
    folder.mkdir(parents=True, exist_ok=True)
    panel = page.locator(".jp-NotebookPanel-notebook .jp-WindowedPanel-outer")
    height, step = panel.evaluate("p => [p.scrollHeight, p.clientHeight]")
    for k in range(-(-height // step)):
        panel.evaluate("(p, top) => p.scrollTo(0, top)", k * step)
        page.wait_for_timeout(300)
        page.screenshot(path=folder / f"{name}-{k:02}.png")


@pytest.mark.browser
@each_notebook
def test_notebook_shows_its_pictures_and_runs_in_jupyterlab_without_network(path, browser, lab, room, tmp_path):
    pages = Path(os.environ.get("CANONKIT_SCREENSHOTS", tmp_path / "screenshots"))
    for file in NOTEBOOKS:
        shutil.copy(file, room)
    committed, page = nbformat.read(path, as_version=4), browser.page
    cells = page.locator(".jp-CodeCell .jp-OutputArea")

    try:
        page.goto(f"{lab}lab/tree/{path.name}")
        page.wait_for_function(READY, arg=len(code_cells(committed)))
        page.wait_for_timeout(1000)
        saved = cells.locator("img").evaluate_all(DRAWN)
    finally:
        take_screenshots(page, f"{path.stem}-reopened", pages)
    in_pages = sum("<img" in o.get("data", {}).get("text/html", "") for o in outputs(committed))
    assert saved >= pictures(committed) + in_pages > 0

    try:
        run_all_cells(page)
        move_sliders(page)
        look_at_canvases(page)
        turn_in_the_inspector(page)
    finally:
        take_screenshots(page, path.stem, pages)
    assert page.locator(".jp-Dialog").all_inner_texts() == []
    assert cells.locator(FAULT).all_inner_texts() == []
    for text in ("Error displaying widget", "Loading widget"):
        assert cells.get_by_text(text).count() == 0
    assert cells.locator("img").evaluate_all(DRAWN) >= max(1, pictures(committed))
    assert browser.outside == []
    assert browser.errors == [], browser.console
    assert list(room.glob("runs/*/run.json")) or not any("ck.train(" in cell.source for cell in code_cells(committed))
