"""Certificates begin with a verdict; canonicalizers side by side; canonical poses of a file; runs made by hand."""

import json

import pytest
import torch

import canonkit as ck
from canonkit.canonicalizers import Canonicalizer, canonicalizer
from canonkit.cli import main
from canonkit.groups import gram_schmidt
from canonkit.networks import DiT
from canonkit.processes import Diffusion, MoleculeSpace
from canonkit.training import Prepared, Settings, train


class FirstAtoms(Canonicalizer):
    def pose(self, centred):
        x = centred.positions
        return gram_schmidt(x[:, 0], x[:, 1]), torch.zeros(len(x), dtype=torch.bool)


@pytest.fixture(scope="module")
def ligands():
    return ck.dataset("ligands", progress=False).molecules[:24]


@pytest.fixture(scope="module")
def file(ligands, tmp_path_factory):
    named = ligands.with_(
        titles=tuple(f"drug {k}" for k in range(24)), data=tuple({"pIC50": f"{k}.5"} for k in range(24))
    )
    return ck.write(named, tmp_path_factory.mktemp("compare") / "in.sdf")


def command(monkeypatch, capsys, *words):
    """Exit status and standard output."""
    monkeypatch.setattr("sys.argv", ["canonkit", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().out


def test_verdicts(ligands):
    assert ck.certify(canonicalizer("inertial"), ligands).verdict.startswith("a canonicalizer of rotations: yes")
    spectral = ck.certify(canonicalizer("spectral"), ligands)
    assert spectral.passed
    assert "rotations and permutations: yes" in spectral.verdict
    assert ck.certify(canonicalizer("identity"), ligands).verdict.startswith("no: turned molecules differ by ")
    by_file = ck.certify(FirstAtoms(), ligands)
    assert by_file.max_error < 1e-8
    assert by_file.verdict.startswith("no: reordered molecules differ by ")
    assert str(by_file).splitlines()[0] == by_file.verdict
    assert "  (" in str(by_file).splitlines()[3]


def test_molecules_that_are_all_ambiguous_show_nothing():
    linear = ck.Molecules.from_list([[[0.0, 0, 0], [1, 0, 0], [2.1, 0, 0]]] * 2, [[6, 7, 8]] * 2)
    found = ck.certify(canonicalizer("inertial"), linear)
    assert not found.passed
    assert "all molecules are ambiguous" in found.verdict


def test_the_command_says_by_its_status_whether_it_is_one(file, monkeypatch, capsys):
    code, said = command(monkeypatch, capsys, "certify", "inertial", "--data", file)
    assert code == 0
    assert said.startswith("a canonicalizer of rotations: yes")
    code, said = command(monkeypatch, capsys, "certify", "identity", "--data", file, "--json")
    assert code == 3
    assert json.loads(said)["passed"] is False


def test_side_by_side(ligands):
    found = ck.compare({"inertial": canonicalizer("inertial"), "first atoms": FirstAtoms()}, ligands)
    good, bad = found.rows()
    assert good["passed"]
    assert not bad["passed"]
    assert good["order_error"] < 1e-8 < 0.1 < bad["order_error"]
    assert good["seconds"] > 0
    assert "first atoms" in str(found)
    assert len(found.figure().axes) == 6
    with pytest.raises(ValueError, match="no canonicalizers given"):
        ck.compare({}, ligands)


def test_the_command_compares_and_draws(file, tmp_path, monkeypatch, capsys):
    code, said = command(
        monkeypatch, capsys, "compare", "inertial", "spectral", "--data", file, "--figure", tmp_path / "c.png", "--json"
    )
    assert code == 0
    assert [row["canonicalizer"] for row in json.loads(said)] == ["inertial", "spectral"]
    assert (tmp_path / "c.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["inertial", "spectral"])
def test_a_file_in_canonical_poses_keeps_names_data_and_bonds(file, tmp_path, name, monkeypatch, capsys):
    code, said = command(monkeypatch, capsys, "canonicalize", file, "-o", tmp_path / "out.sdf", "--with", name)
    assert code == 0
    assert "24 molecules in" in said
    x, y = ck.read(file), ck.read(tmp_path / "out.sdf")
    assert y.titles == x.titles == tuple(f"drug {k}" for k in range(24))
    assert y.data[7]["pIC50"] == "7.5"
    assert torch.equal(y.bonds.long().sum((1, 2)), x.bonds.long().sum((1, 2)))
    assert not torch.equal(y.positions, x.positions)
    again = canonicalizer(name)(y)
    clear = ~again.ambiguous
    assert (again.x.positions - y.centred().positions).abs().amax((1, 2))[clear].median() < 1e-3


def test_a_run_made_by_hand_is_listed_and_opened_again(ligands, tmp_path, monkeypatch, capsys):
    mine = ligands.with_(bonds=None, charges=None)

    def made():
        space = MoleculeSpace(mine.elements, atoms=int(mine.sizes.max()))
        network = DiT(space.features, width=16, depth=1, heads=2)
        return ck.OrbitModel(FirstAtoms(), Diffusion(space), network, size_counts=torch.bincount(mine.sizes))

    settings = Settings(batch_size=8, sample_every=0)
    trained = train(Prepared(made(), mine[4:], mine[:4], settings), tmp_path / "hand", steps=2, progress=False)
    assert "hand" in str(ck.runs(tmp_path))
    again = ck.load_run(tmp_path / "hand", made())
    assert again.step == 2
    assert again.sample(2, 5, seed=1).positions.equal(trained.eval().sample(2, 5, seed=1).positions)
    with pytest.raises(ValueError, match=r"hand was trained by hand, without a recipe: build its model"):
        ck.load_run(tmp_path / "hand")
    code, _ = command(monkeypatch, capsys, "sample", tmp_path / "hand", "-o", tmp_path / "x.sdf")
    assert code == 1
