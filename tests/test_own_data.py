"""Data of one's own: a word is enough, conformers stay together, and what was trained on it opens again."""

import json

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

import canonkit as ck
from canonkit.chemistry.formats import from_rdkit
from canonkit.data.own import graph_keys
from canonkit.groups import haar_rotations, random_permutations
from canonkit.metrics import evaluate_drugs, known_smiles
from canonkit.releases import release
from canonkit.results import OF_DRUGS, evaluate_any
from canonkit.training.folder import write_card

DRUGS = (
    "CS(=O)(=O)Nc1ccccc1", "CCOc1ccc(Cl)cc1", "CC(=O)Nc1ccc(O)cc1", "CN1CCC(Br)CC1", "O=C(O)c1cccs1", "CP(=O)(O)OC",
    "CCN(CC)CC", "Oc1ccccc1F", "CC(C)CO", "NCCc1ccccc1", "CSCC(N)C(=O)O", "c1ccc2[nH]ccc2c1",
)  # fmt: skip


@pytest.fixture(scope="module")
def mols():
    """Two conformers of each of twelve drug-like molecules."""
    made = []
    for smiles in DRUGS:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        numbers = list(AllChem.EmbedMultipleConfs(mol, 2, randomSeed=1))
        made += [Chem.Mol(mol, confId=k) for k in numbers]
    return made


@pytest.fixture(scope="module")
def file(mols, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "mine.sdf"
    ck.write(from_rdkit(mols), path)
    return path


def test_a_word_is_a_data_set(mols, file, qm9):
    for word in (mols, from_rdkit(mols), str(file), file):
        data = ck.dataset(word, progress=False)
        assert len(data.molecules) == 24
        assert {"S", "Cl", "Br", "P"} <= set(data.form.elements)
    assert ck.dataset(data) is data
    assert ck.dataset("qm9", progress=False).sha256 == qm9.sha256


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("qm8", "no data set is called 'qm8': did you mean 'qm9'"),
        ("mine.pdb", "'mine.pdb'"),
        ("nowhere.sdf", "no file nowhere.sdf"),
        (3, "a int is no data set"),
        (["CCO"], "a list of str is no data set"),
    ],
)
def test_what_is_no_data_set_is_named(word, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ck.dataset(word)


def test_conformers_stay_together_and_every_molecule_is_in_one_part(mols):
    data = ck.dataset(mols)
    parts = [set(data.split[k].tolist()) for k in ("train", "valid", "test")]
    assert sorted(i for part in parts for i in part) == list(range(24))
    assert all(parts)
    for k in range(0, 24, 2):
        assert any({k, k + 1} <= part for part in parts)


def test_the_key_of_a_molecule_knows_neither_pose_nor_order_nor_hydrogens(mols):
    x = from_rdkit(mols)
    keys = graph_keys(x)
    assert len(set(keys.tolist())) == len(DRUGS)
    generator = torch.Generator().manual_seed(0)
    turned = x.act(haar_rotations(len(x), generator=generator)).permute(
        random_permutations(x.mask, generator=generator)
    )
    assert torch.equal(graph_keys(turned), keys)
    assert torch.equal(graph_keys(ck.dataset(mols).without_hydrogens().molecules), keys)


def test_isomers_of_qm9_have_keys_of_their_own(qm9):
    """Most do: those that differ in the order of bonds alone, and so in hydrogens, share one."""
    keys = graph_keys(qm9.molecules[60_000:62_000])
    assert 1800 < len(keys.unique()) < 2000


def test_the_ligands_come_with_rdkit():
    data = ck.dataset("ligands", progress=False)
    assert len(data.molecules) > 300
    assert float(data.molecules.sizes.double().mean()) > 30


def test_a_run_on_a_file_is_trained_by_one_line_and_opens_again(file, tmp_path):
    run = ck.train(
        "CanonFlow", tmp_path / "mine", data=str(file), steps=1, progress=False, batch_size=4, sample_every=0
    )
    again = ck.load_run(tmp_path / "mine")
    assert again.recipe.form.elements == ck.dataset(file).form.elements
    assert again.sample(2, 2, seed=0).positions.equal(run.sample(2, 2, seed=0).positions)


def test_five_lines_from_a_small_file_to_new_molecules(file, tmp_path):
    """Fewer molecules than a batch: a batch is all of them."""
    mine = ck.read(file)
    assert ck.certify(ck.canonicalizer("spectral"), mine).passed
    run = ck.train("CanonFlow", tmp_path / "mine", data=file, steps=1, progress=False)
    assert run.recipe.settings.batch_size == 20
    ck.train("CanonFlow", tmp_path / "mine", data=file, steps=2, resume=True, progress=False)
    new = run.sample(3, 5, seed=0)
    assert ck.write(new, tmp_path / "new.sdf").exists()
    ck.draw(new)
    with pytest.raises(ValueError, match="batch_size 64 is not between 1 and the 20 molecules"):
        ck.train("CanonFlow", tmp_path / "other", data=file, steps=1, progress=False, batch_size=64)


@pytest.fixture(scope="module")
def learned(file, tmp_path_factory):
    """A model of heavy atoms that was trained on the molecules of the file."""
    out = tmp_path_factory.mktemp("learned") / "run"
    return ck.train("CanonFlow-heavy", out, data=file, steps=1, progress=False, batch_size=8, sample_every=0)


def test_weights_that_know_more_elements_and_longer_molecules_are_a_start_for_yours(mols, learned, tmp_path):
    """The model keeps the weights' table and prior, and takes its sizes from your molecules."""
    few = [mol for mol in mols if mol.GetNumHeavyAtoms() <= 10 and not mol.HasSubstructMatch(Chem.MolFromSmarts("P"))]
    data = ck.dataset(few)
    options = {"steps": 1, "progress": False, "lr": 0.0, "muon_lr": 0.0, "sample_every": 0}
    run = ck.train("CanonFlow-heavy", tmp_path / "mine", data=data, init=str(learned.folder), **options)
    assert run.recipe.form == learned.recipe.form
    old, new = learned.model.state_dict(), run.model.state_dict()
    assert all(new[k].equal(old[k]) for k in old if k != "size_counts")
    sizes = data.without_hydrogens().part("train").sizes
    assert new["size_counts"].equal(torch.bincount(sizes, minlength=len(old["size_counts"])).float())
    assert set(run.model.sample_sizes(100).tolist()) <= set(sizes.tolist())
    assert run.seen == learned.seen + 16
    assert run.provenance()["hardware"] == run.card["hardware"] == run.card["init"]["hardware"]
    card = json.loads((tmp_path / "mine" / "run.json").read_text())
    card["init"]["hardware"] = "a GPU"  # as if the weights came from another machine
    write_card(tmp_path / "mine" / "run.json", card)
    assert ck.load_run(tmp_path / "mine").provenance()["hardware"] == f"a GPU, then {card['hardware']}"
    again = {"data": data, "init": str(learned.folder), "resume": True} | options | {"steps": 2}
    assert ck.train("CanonFlow-heavy", tmp_path / "mine", **again).step == 2


def test_shipped_weights_of_drugs_are_a_start_for_a_file(file, tmp_path):
    """The five lines of notebook 09: sizes are those of the file, elements those of the weights."""
    mine = ck.read(file)
    assert ck.certify(ck.canonicalizer("spectral"), mine).passed
    options = {"init": "CanonFlow(drugs)", "steps": 2, "sample_every": 0, "progress": False}
    run = ck.train("CanonFlow-heavy", tmp_path / "mine", data=mine, **options)
    ck.write(new := run.sample(8, 10, seed=0), tmp_path / "new.sdf")
    ck.draw(new)
    assert run.recipe.form == ck.load("CanonFlow(drugs)").recipe.form
    sizes = {mol.GetNumHeavyAtoms() for mol in map(Chem.MolFromSmiles, DRUGS)}
    assert set((new.numbers > 1).sum(1).tolist()) <= sizes
    assert set((ck.read(tmp_path / "new.sdf").numbers > 1).sum(1).tolist()) <= sizes


@pytest.mark.slow
def test_shipped_weights_of_drugs_make_what_their_card_states():
    """Within four sampling errors of the share that is stable and valid, and of the mean size."""
    run = ck.load("CanonFlow(drugs)")
    made = run.recipe.form.complete(run.sample(64, 50, seed=1, hydrogens=False))
    found = evaluate_drugs(made.molecules, refused=made.refused, mmff=0, posebusters=0, xtb=0)
    stated = run.card["evaluation"]["by_corrected_valencies"]["sound"]
    assert found.sound == pytest.approx(stated, abs=4 * max(stated * (1 - stated), 1 / 64) ** 0.5 / 8)
    law = ck.dataset("ccd-heavy", progress=False).part("train").sizes.double()
    sizes = run.model.sample_sizes(10_000).double()
    assert float(sizes.mean()) == pytest.approx(float(law.mean()), abs=4 * float(law.std()) / 100)


def test_weights_that_do_not_know_your_molecules_are_refused(mols, learned, tmp_path):
    iodide, long = (Chem.AddHs(Chem.MolFromSmiles(s)) for s in ("CCI", "C" * 40))
    for mol in (iodide, long):
        AllChem.EmbedMolecule(mol, randomSeed=1)
    options = {"steps": 1, "progress": False, "init": str(learned.folder)}
    with pytest.raises(ValueError, match=r"element I is not in the table \('C', .*leave such molecules out"):
        ck.train("CanonFlow-heavy", tmp_path / "a", data=[*mols, *[iodide] * 9], **options)
    with pytest.raises(ValueError, match=r"a molecule of 40 atoms is longer than any that the weights know, 11"):
        ck.train("CanonFlow-heavy", tmp_path / "b", data=[*mols, long], **options)
    with pytest.raises(ValueError, match="the weights learned molecules without hydrogens, and the data are molecules"):
        ck.train("CanonFlow", tmp_path / "c", data=mols, **options)
    assert list(tmp_path.iterdir()) == []


def test_weights_for_other_elements_are_measured_by_corrected_valencies(file, tmp_path, monkeypatch):
    """Also where the data set has no hydrogens to begin with, as the heavy atoms of the CCD."""
    monkeypatch.setenv("CANONKIT_WEIGHTS", str(tmp_path / "weights"))
    options = {"steps": 1, "progress": False, "batch_size": 4, "sample_every": 0}
    run = ck.train("CanonFlow-heavy", tmp_path / "mine", data=str(file), **options)
    data = ck.dataset(file)
    found, heavy = (evaluate_any(run, d, 8, 2) for d in (data, data.without_hydrogens()))
    assert found["by_corrected_valencies"].keys() == set(OF_DRUGS)
    assert "molecule_stable" not in found
    assert heavy["by_generated_bonds"] == found["by_generated_bonds"]
    release(run, lambda _: found, "mine(drugs)", tmp_path / "weights")
    assert "mine(drugs)" in str(ck.pretrained())
    better = found | {
        "validation_kinds": 0.1,
        "by_corrected_valencies": found["by_corrected_valencies"] | {"sound": 1.0},
    }
    release(run, lambda _: better | {"validation_more": 0.1}, "mine(drugs)", tmp_path / "weights")
    with pytest.raises(ValueError, match="are better: molecule stable 1.00000 against"):
        release(run, lambda _: found, "mine(drugs)", tmp_path / "weights")
    assert ck.load("mine(drugs)").recipe.form == run.recipe.form


def test_the_molecules_of_heavy_atoms_are_known_as_those_with_hydrogens(file):
    """What novelty is measured against: hydrogens that the rule puts back give the same SMILES."""
    data = ck.dataset(file)
    heavy = data.without_hydrogens()
    made = heavy.form.complete(heavy.part("train")).molecules
    assert known_smiles(made, generated=True) == known_smiles(data.part("train"), generated=True)
