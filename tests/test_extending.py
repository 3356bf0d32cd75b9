"""A data set, a process and a canonicalizer of one's own: one file each, as the page on extending shows them."""

import re
from pathlib import Path

import pytest
import torch

import canonkit as ck

PAGE = Path(__file__).parents[1] / "notebooks" / "pages" / "extending.md"
FILES = dict(
    zip(
        ("data set", "process", "canonicalizer"),
        re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S),
        strict=True,
    )
)


def run(name, folder, monkeypatch):
    assert len(FILES[name].splitlines()) < 60
    monkeypatch.chdir(folder)
    found = {}
    exec(compile(FILES[name], f"extending.md, {name}", "exec"), found)
    return found


def test_a_data_set_of_ones_own_is_trained_on_measured_and_built_again_without_it(tmp_path, monkeypatch):
    found = run("data set", tmp_path, monkeypatch)
    (entry,) = [e for e in found["run"].log if e["kind"] == "sample"]
    assert entry["nearest"] > 0
    assert found["molecules"].elements == ("S",)
    assert found["molecules"].sizes.max() <= 8


def test_a_process_of_ones_own_trains_and_samples(tmp_path, monkeypatch):
    found = run("process", tmp_path, monkeypatch)
    assert len(found["trained"].sample(4, steps=10)) == 4
    with pytest.raises(ValueError, match="Interpolant has no likelihood"):
        found["trained"].nll(found["molecules"][:4])


def test_a_canonicalizer_of_ones_own_is_certified(tmp_path, monkeypatch):
    verdict = run("canonicalizer", tmp_path, monkeypatch)["verdict"]
    assert verdict.max_error < 1e-6
    assert verdict.ambiguous_share < 0.9


@pytest.fixture(scope="module")
def halides():
    """Two hundred chains S-C-C-Cl with hydrogens left off, as molecules with bonds."""
    generator = torch.Generator().manual_seed(0)
    chain = torch.tensor([[0.0, 0, 0], [1.8, 0, 0], [2.4, 1.4, 0], [4.1, 1.5, 0]])
    positions = chain + 0.05 * torch.randn(200, 4, 3, generator=generator)
    bonds = torch.zeros(200, 4, 4, dtype=torch.int8)
    for i in range(3):
        bonds[:, i, i + 1] = bonds[:, i + 1, i] = 1
    types = torch.tensor([1, 0, 0, 2]).expand(200, 4)
    mask = torch.ones(200, 4, dtype=torch.bool)
    charges = torch.zeros(200, 4, dtype=torch.int8)
    return ck.OwnMolecules(ck.Molecules(positions, types, mask, ("C", "S", "Cl"), bonds=bonds, charges=charges))


@pytest.mark.parametrize("name", ["GDM", "canon+GDM", "CanonFlow"])
def test_molecules_with_sulfur_and_chlorine_are_trained_on_past_the_first_measurement(halides, tmp_path, name):
    options = {"batch_size": 16, "samples": 2, "sample_steps": 2, "sample_every": 2}
    made = ck.train(name, tmp_path, data=halides, steps=4, progress=False, **options)
    measured = [e for e in made.log if e["kind"] == "sample"]
    assert [e["step"] for e in measured] == ([2, 4] if name == "CanonFlow" else [])  # EDM's rule knows no chlorine
    assert all("valid_by_generated_bonds" in e and "molecule_stable" not in e for e in measured)
    assert made.sample(2, 2, seed=0).elements == ("C", "S", "Cl")
    if name == "CanonFlow":
        with pytest.raises(ValueError, match="FlowMatching has no likelihood"):
            made.model.nll(halides.molecules[:2])


def test_images_are_not_measured_as_molecules(tmp_path):
    data = ck.load_rotmnist(small=True, progress=False)
    options = {"batch_size": 4, "samples": 1, "sample_steps": 2, "sample_every": 1, "validate_every": 0}
    made = ck.train("UNet", tmp_path, data=data, steps=2, progress=False, **options)
    assert {e["kind"] for e in made.log} == {"train"}
    with pytest.raises(ValueError, match="UNet learns images, and own molecules holds molecules"):
        ck.train("UNet", tmp_path / "b", data=ck.OwnMolecules(ck.load_qm9(progress=False).molecules[:20]), steps=1)
