"""GEOM-Drugs' files, made here with the same schema: what is kept, stopped and resumed, damaged, and dangerous."""

import json
import os
import pickle
import weakref

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem

import canonkit as ck
from canonkit.data import geom
from canonkit.data.geom import convert_geom, load_geom
from canonkit.data.pickles import read_entries, read_pickle

SMILES = (
    "CS(=O)(=O)Nc1ccccc1", "CCOc1ccc(Cl)cc1", "CC(=O)Nc1ccc(O)cc1", "CN1CCC(Br)CC1", "O=C(O)c1cccs1", "CP(=O)(O)OC",
    "CCN(CC)CC", "Oc1ccccc1F", "CC(C)CO", "NCCc1ccccc1", "CSCC(N)C(=O)O", "c1ccc2[nH]ccc2c1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CANONKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def conformers():
    """SMILES -> three conformers and their energies, not in order."""
    made = {}
    for s in SMILES:
        mol = Chem.AddHs(Chem.MolFromSmiles(s))
        numbers = list(AllChem.EmbedMultipleConfs(mol, 3, randomSeed=1))
        made[s] = [(Chem.Mol(mol, confId=k), e) for k, e in zip(numbers, (-2.0, -3.0, -1.0), strict=True)]
    return made


def xyz(mol):
    numbers = [[float(a.GetAtomicNum())] for a in mol.GetAtoms()]
    return np.hstack([numbers, mol.GetConformer().GetPositions()]).tolist()


def crude(conformers):
    return {
        s: {
            "totalconfs": 3,
            "conformers": [{"geom_id": k, "xyz": xyz(m), "totalenergy": e} for k, (m, e) in enumerate(c)],
        }
        for s, c in conformers.items()
    }


def write_msgpack(path, conformers, change=lambda smiles, value: value):
    items = [(s, change(s, v)) for s, v in crude(conformers).items()]
    with open(path, "wb") as file:
        file.write(msgpack.packb(dict(items[:5])) + msgpack.packb(dict(items[5:])))
    return path


def expected(conformers, k):
    """Positions of the conformers of lowest energy of molecule k, by rising energy."""
    return [m.GetConformer().GetPositions() for m, _ in sorted(conformers[SMILES[k]], key=lambda c: c[1])]


def test_msgpack_keeps_the_lowest_conformers_by_energy(tmp_path, conformers):
    path = write_msgpack(tmp_path / "drugs_crude.msgpack", conformers)
    data = load_geom(path, lowest=2, progress=False)
    assert len(data.molecules) == 2 * len(SMILES)
    for k in (0, 7):
        for j in (0, 1):
            one = data.molecules[2 * k + j : 2 * k + j + 1].trim()
            assert np.allclose(one.positions[0], expected(conformers, k)[j], atol=1e-5)
    assert data.keys.tolist() == [k for k in range(12) for _ in (0, 1)]
    parts = [set(data.keys[rows].tolist()) for rows in data.split.values()]
    assert sum(map(len, parts)) == 12
    assert ck.dataset(f"geom-drugs:{path}", progress=False).form.longest == int(data.molecules.sizes.max())


def test_a_conversion_that_was_stopped_goes_on(tmp_path, conformers, monkeypatch):
    path = write_msgpack(tmp_path / "drugs_crude.msgpack", conformers)
    whole = load_geom(path, progress=False)
    monkeypatch.setattr(geom, "SHARD", 100)
    real, calls = geom._flush, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(geom, "_flush", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_geom(path, tmp_path / "shards", progress=False)
    state = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert 0 < state["molecules"] < 12
    assert not state.get("done")
    monkeypatch.setattr(geom, "_flush", real)
    read = []
    source = geom._crude
    monkeypatch.setattr(geom, "_crude", lambda *a: read.append(1) or source(*a))
    convert_geom(path, tmp_path / "shards", progress=False)
    assert len(read) == 12 - state["molecules"]
    monkeypatch.setattr(geom, "convert_geom", lambda *a, **k: tmp_path / "shards")
    again = load_geom(path, progress=False)
    assert torch.equal(again.molecules.positions, whole.molecules.positions)
    assert torch.equal(again.keys, whole.keys)


def test_a_damaged_record_is_named_and_left_out_on_request(tmp_path, conformers):
    def change(smiles, value):
        if smiles == SMILES[6]:
            value["conformers"][1]["xyz"][0][1] = float("nan")
        if smiles == SMILES[8]:
            del value["conformers"]
        return value

    path = write_msgpack(tmp_path / "drugs_crude.msgpack", conformers, change)
    with pytest.raises(ValueError, match=r"'CCN\(CC\)CC' is damaged \(NaN or infinite coordinate\): skip=True"):
        load_geom(path, progress=False)
    with pytest.warns(UserWarning, match=r"2 damaged records .* such as 'CCN\(CC\)CC'"):
        data = load_geom(path, skip=True, progress=False)
    assert len(data.molecules) == 30


def test_a_file_that_is_cut_off_says_where(tmp_path, conformers):
    path = write_msgpack(tmp_path / "drugs_crude.msgpack", conformers)
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(ValueError, match=r"is damaged or cut off near byte [\d,]+, after"):
        load_geom(path, progress=False)


def test_edm_arrays_and_edm_split_with_its_warning(tmp_path, conformers):
    rows, k = [], 0
    for c in conformers.values():
        for mol, _ in c:
            rows.append(np.hstack([np.full((mol.GetNumAtoms(), 1), float(k)), np.array(xyz(mol))]))
            k += 1
    path = tmp_path / "geom_drugs_30.npy"
    np.save(path, np.concatenate(rows))
    data = load_geom(path, progress=False)
    assert len(data.molecules) == 36
    assert np.allclose(data.molecules[35:36].trim().positions[0], rows[35][:, 2:], atol=1e-5)
    assert len(data.keys.unique()) == 12  # by the graphs
    with pytest.raises(FileNotFoundError, match=r"geom_permutation\.npy"):
        load_geom(path, split="edm", progress=False)
    order = np.random.default_rng(0).permutation(36)
    np.save(tmp_path / "geom_permutation.npy", order)
    with pytest.warns(UserWarning, match="conformers of one molecule are in training and in test"):
        split = load_geom(path, split="edm", progress=False).split
    assert split["valid"].tolist() == order[:3].tolist()
    assert split["test"].tolist() == order[3:6].tolist()


def test_pickles_of_rdkit_molecules_bring_bonds(tmp_path, conformers):
    midi, folder, sdf = (tmp_path / name for name in ("midi", "rdkit_folder", "sdf"))
    for f in (midi, folder / "drugs", sdf):
        f.mkdir(parents=True)
    items = [(s, [m for m, _ in c]) for s, c in conformers.items()]
    for part, some in (("train", items[:8]), ("val", items[8:10]), ("test", items[10:])):
        (midi / f"{part}_data.pickle").write_bytes(pickle.dumps(some))
    for k, (s, c) in enumerate(conformers.items()):
        ones = [{"rd_mol": m, "totalenergy": e, "geom_id": 1} for m, e in c]
        (folder / "drugs" / f"{k:02d}.pickle").write_bytes(pickle.dumps({"smiles": s, "conformers": ones}))
    writer = Chem.SDWriter(str(sdf / "all.sdf"))
    for _, mols in items:
        for m in mols:
            writer.write(m)
    writer.close()
    for path in (midi, folder, sdf):
        data = load_geom(path, progress=False)
        x = data.molecules
        assert len(x) == 36
        assert len(data.keys.unique()) == 12
        mol = ck.chemistry.formats.to_rdkit(x[9:10].trim())[0]
        Chem.SanitizeMol(mol)
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(SMILES[3])
    assert np.allclose(
        load_geom(folder, progress=False).molecules[0:1].trim().positions[0], expected(conformers, 0)[0], atol=1e-5
    )


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_data.pickle").write_bytes(pickle.dumps([("C", [Evil()])]))
    with pytest.raises(ValueError, match=r"it holds posix\.system, which is no RDKit molecule"):
        load_geom(tmp_path, progress=False)
    assert not (tmp_path / "pwned").exists()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain, st.sampled_from([3, 4, 5]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_values_are_read_from_pickles_as_python_reads_them(tmp_path, value, protocol):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps([value, value], protocol))
    assert read_pickle(path) == [value, value]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_list_of_molecules_is_read_entry_by_entry(tmp_path, conformers, protocol):
    items = [(s, [m for m, _ in c]) for s, c in conformers.items()]
    path = tmp_path / "train_data.pickle"
    path.write_bytes(pickle.dumps(items, protocol)[:-1])  # its end is cut off
    entries = read_entries(path)
    name, mols = next(entries)
    assert name == items[0][0]
    for mol, (same, _) in zip(mols, conformers[name], strict=True):  # RDKit writes float32
        assert np.allclose(mol.GetConformer().GetPositions(), same.GetConformer().GetPositions(), atol=1e-6)
    first = weakref.ref(mols[0])
    del mols
    for name, _ in items[1:]:
        assert next(entries)[0] == name
    assert first() is None  # nothing keeps what was read
    with pytest.raises(ValueError, match="damaged"):
        next(entries)


def test_a_pickle_whose_entries_share_molecules_is_refused_not_read_wrong(tmp_path, conformers):
    mol = next(iter(conformers.values()))[0][0]
    path = tmp_path / "train_data.pickle"
    entry = ("C", [mol])
    for twice in ([entry, ("D", [mol])], [entry, entry]):
        path.write_bytes(pickle.dumps(twice))
        with pytest.raises(ValueError, match="refers to what an earlier one held"):
            list(read_entries(path))
        assert len(read_pickle(path)) == 2
    path.write_bytes(pickle.dumps({"smiles": "C"}))
    with pytest.raises(ValueError, match="holds no list"):
        list(read_entries(path))


def test_what_is_no_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no"):
        load_geom(tmp_path / "nowhere.txt", progress=False)
    with pytest.raises(ValueError, match="holds no .pickle"):
        load_geom(tmp_path, progress=False)
    with pytest.raises(ValueError, match="geom-drugs:PATH"):
        ck.dataset("geom-drugs")
