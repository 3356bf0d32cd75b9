"""Valencies, validity and strain of drug-size molecules, on the posed ligands that come with RDKit."""

import os
import sys

import numpy as np
import pytest
import torch
from rdkit import Chem, RDConfig

import canonkit as ck
from canonkit.chemistry.formats import from_rdkit, to_rdkit
from canonkit.metrics import distribution_distances, evaluate_drugs, valency_stability
from canonkit.metrics.energies import mmff_strain, posebusters_checks, xtb_strain
from canonkit.metrics.valency import valency_table
from canonkit.results import OF_DRUGS, drugs_table, measured_drugs

CMET = os.path.join(RDConfig.RDContribDir, "FreeWilson/data/cmet_ligands.sdf")
CDK2 = os.path.join(RDConfig.RDContribDir, "Fastcluster/testdata/cdk2.sdf")
EGFR = os.path.join(RDConfig.RDContribDir, "PBF/testData/egfr.sdf")


@pytest.fixture(scope="module")
def cmet():
    return ck.read(CMET, progress=False)


def aromatic(molecules):
    """The same with aromatic bonds marked."""
    mols = to_rdkit(molecules)
    for mol in mols:
        Chem.SanitizeMol(mol)
    return from_rdkit(mols, elements=molecules.elements)


@pytest.mark.parametrize("path", [CMET, CDK2, EGFR])
@pytest.mark.parametrize("form", [lambda x: x, aromatic], ids=["kekule", "aromatic"])
def test_atoms_of_real_drugs_have_allowed_valencies(path, form):
    stable = valency_stability(form(ck.read(path, progress=False)))
    assert stable.molecule_stable > 0.97
    assert stable.atom_stable > 0.999


def test_valencies_of_benzene_toluene_and_ammonium():
    table = valency_table()
    assert (2, 1) in table["C", 0]  # in benzene
    assert (2, 2) in table["C", 0]  # with a double bond out of the ring
    assert (0, 3) not in table["C", 0]
    assert (0, 3) in valency_table("legacy")["C", 0]
    assert table["N", 1] >= {(0, 4)}
    with pytest.raises(ValueError, match="no table of valencies is called 'new'"):
        valency_table("new")


def test_a_lost_hydrogen_is_unstable_but_not_by_the_legacy_rule(cmet):
    one = aromatic(cmet[0])
    hydrogen = int((one.numbers[0] == 1).nonzero()[0, 0])
    order = torch.tensor([[k for k in range(one.mask.shape[1]) if k != hydrogen] + [hydrogen]])
    less = one.permute(order)
    mask = less.mask.clone()
    mask[0, -1] = False
    less = less.with_(mask=mask).trim()
    carbon = int(one.bonds[0, hydrogen].nonzero()[0, 0])
    assert one.numbers[0, carbon] == 6
    assert valency_stability(one).molecules.all()
    assert not valency_stability(less).molecules.any()
    assert valency_stability(less, "legacy").molecules.all()


def test_real_molecules_pass_and_broken_ones_do_not(cmet):
    good = evaluate_drugs(cmet, cmet, mmff=5, posebusters=0, xtb=0)
    assert (good.stable, good.valid, good.connected, good.sound, good.stretched, good.novel) == (1, 1, 1, 1, 0, 0)
    assert set(good.distances.values()) == {0.0}
    assert good.measured["mmff_strain"] == 5
    assert 0 < good.mmff_strain < 100
    bonds = cmet.bonds.clone()
    bonds[:, 0] = bonds[:, :, 0] = 0  # the first atom falls off
    bad = evaluate_drugs(cmet.with_(bonds=bonds), posebusters=0, xtb=0)
    assert (bad.stable, bad.valid, bad.connected, bad.sound) == (0, 0, 0, 0)
    assert "not measured: no sound molecule" in str(bad)
    assert "not measured: no data given" in str(bad)
    far = evaluate_drugs(cmet.with_(positions=1.5 * cmet.positions), posebusters=0, xtb=0)
    assert (far.stable, far.stretched) == (1, 1)


def test_hydrogens_by_rule_that_were_refused_count_as_invalid(cmet):
    refused = torch.arange(len(cmet)) < 6
    found = evaluate_drugs(cmet, refused=refused, mmff=0, posebusters=0, xtb=0)
    assert found.stable == found.valid == found.sound == 0.75
    assert found.problems["no hydrogens"] == 6
    assert found.deviation["valid"] > 0.3


def test_what_cannot_be_judged_is_refused_or_said(cmet, monkeypatch):
    with pytest.raises(ValueError, match="no hydrogen atoms"):
        evaluate_drugs(_heavy(cmet))
    with pytest.raises(ValueError, match="no bonds and charges"):
        evaluate_drugs(cmet.with_(bonds=None))
    for name in ("posebusters", "tblite"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("canonkit.extras.find_spec", lambda name: None)
    found = evaluate_drugs(cmet[:2], mmff=0)
    assert found.posebusters is None
    assert found.xtb_strain is None
    assert "not measured: tblite is not installed: pip install tblite" in str(found)
    assert "not measured: posebusters is not installed: pip install posebusters" in str(found)
    assert "MMFF strain, median: not measured: not asked for" in str(found)


def _heavy(molecules):
    from canonkit.chemistry.hydrogens import without_hydrogens

    return without_hydrogens(molecules)


def test_strain_grows_with_distortion_and_is_zero_at_rest(cmet):
    from rdkit.Chem import rdForceFieldHelpers

    (mol,) = to_rdkit(cmet[0])
    Chem.SanitizeMol(mol)
    before = mol.GetConformer().GetPositions()
    rest = Chem.Mol(mol)
    rdForceFieldHelpers.MMFFOptimizeMolecule(rest, maxIters=5000)
    bent = Chem.Mol(mol)
    bent.GetConformer().SetPositions(before + 0.1 * np.random.default_rng(0).normal(size=before.shape))
    relaxed, given, shaken = mmff_strain([rest, mol, bent])
    assert abs(relaxed) < 0.05
    assert given < shaken - 10
    assert (mol.GetConformer().GetPositions() == before).all()  # not moved


def test_torsions_are_compared_without_their_sign(cmet):
    mirrored = cmet.with_(positions=cmet.positions * torch.tensor([1.0, 1.0, -1.0]))
    assert distribution_distances(mirrored, cmet)["torsions"] < 1e-3
    turned = distribution_distances(_turned_ends(), _turned_ends(60.0))
    assert turned["torsions"] > 1
    assert max(turned["lengths"], turned["angles"]) < 1e-3


def _turned_ends(degrees=180.0):
    """Butane's carbons with that torsion angle."""
    from rdkit.Chem import AllChem, rdMolTransforms

    mol = Chem.MolFromSmiles("CCCC")
    AllChem.EmbedMolecule(mol, randomSeed=0)
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(), 0, 1, 2, 3, degrees)
    return from_rdkit([mol])


def test_xtb_relaxes_water_to_its_minimum():
    pytest.importorskip("tblite")
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles("O"))
    AllChem.EmbedMolecule(mol, randomSeed=0)
    conformer = mol.GetConformer()
    stretched = Chem.Mol(mol)
    stretched.GetConformer().SetPositions(1.2 * conformer.GetPositions())
    near, far = xtb_strain([mol, stretched])
    assert 0 <= near < 2 < 10 < far


def test_posebusters_passes_ethanol_and_sees_a_stretched_bond():
    pytest.importorskip("posebusters")
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(mol, randomSeed=0)
    AllChem.MMFFOptimizeMolecule(mol)
    stretched = Chem.Mol(mol)
    stretched.GetConformer().SetPositions(1.5 * mol.GetConformer().GetPositions())
    checks = posebusters_checks([mol, stretched])
    assert all(passed[0] for passed in checks.values())
    assert not checks["bond_lengths"][1]


def test_the_command_evaluates_a_file_of_any_elements():
    from typer.testing import CliRunner

    from canonkit.cli import app

    found = CliRunner().invoke(app, ["evaluate", "mine", "--drugs"])
    assert "sample into an .sdf file first" in str(found.exception)


def test_the_table_of_drug_models_has_molecules_beside_them(cmet):
    found = evaluate_drugs(cmet, mmff=3, posebusters=0, xtb=0)
    kept = {k: getattr(found, k) for k in OF_DRUGS}
    about = {"molecules": 1000, "steps": 50, "seen": 832_000, "hardware": "a machine", "hydrogens": "by rule"}
    table = drugs_table({"mine": about | {"by_corrected_valencies": kept}}, {"c-Met ligands": found})
    assert [row[:2] for row in table.rows] == [["mine", "1,000"], ["c-Met ligands", "24"]]
    assert table.rows[1][2] == "100.0 ± 0.0"
    assert table.rows[0][2:] == table.rows[1][2:]
    assert table.rows[0][7].endswith("(of 3)")
    text = str(table)
    assert "1,000 samples at 50 network evaluations, hydrogens by rule; 832,000 molecules seen" in text
    assert text.count(found.protocol) == 1


def test_the_control_of_drug_size_molecules_saw_as_many_as_what_it_is_compared_with():
    whole, first, control = measured_drugs().values()
    assert whole["recipe"] == first["recipe"] != control["recipe"]
    assert abs(first["seen"] / control["seen"] - 1) < 0.01
    assert whole["seen"] > first["seen"]
    assert len({(e["data"], e["steps"], e["molecules"]) for e in (whole, first, control)}) == 1
