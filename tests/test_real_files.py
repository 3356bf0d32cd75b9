"""Files as people have them, and round trips: nothing is changed without a word."""

import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem
from torch_geometric.data import Batch, Data

import canonkit as ck
from canonkit.chemistry import formats
from canonkit.chemistry.bonds import perceive_bonds
from canonkit.chemistry.formats import from_ase, from_pyg, from_rdkit, read, to_ase, to_pyg, to_rdkit, write
from canonkit.groups import haar_rotations
from canonkit.molecules import SYMBOLS, Molecules

WATER = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.0]]
LINES = "O 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
SMILES = [
    "C/C=C/C", r"C/C=C\C", "C/C(F)=N/O", "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "C[S@](=O)c1ccccc1", "[NH3+]CC(=O)[O-]",
    "C[N+](=O)[O-]", "CN=[N+]=[N-]", "CC(=O)[O-].[NH4+]", "c1ccc2[nH]ccc2c1", "C[CH2]", "O=S(=O)(O)c1ccc(Cl)cc1",
    "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
]  # fmt: skip


def block(atoms, bonds, title="t", header="  program           3D", lines="", data=""):
    """A record of an SDF file, atoms as (symbol, x, y, z) and bonds as (i, j, type), from 1."""
    text = f"{title}\n{header}\n\n{len(atoms):3d}{len(bonds):3d}  0  0  0  0  0  0  0  0999 V2000\n"
    for symbol, *x in atoms:
        text += "".join(f"{v:10.4f}" for v in x) + f" {symbol:<3} 0  0  0  0  0  0  0  0  0  0  0  0\n"
    text += "".join(f"{i:3d}{j:3d}{order:3d}  0\n" for i, j, order in bonds)
    return f"{text}{lines}M  END\n{data}$$$$\n"


ATOMS, BONDS = [(s, *x) for s, x in zip("OHH", WATER, strict=True)], [(1, 2, 1), (1, 3, 1)]
METHYL = [("C", 0, 0, 0), ("H", 1.08, 0, 0), ("H", -0.54, 0.935, 0), ("H", -0.54, -0.935, 0)]


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7, useRandomCoords=True) == 0
    return mol


def smiles_from_3d(mol):
    mol = Chem.Mol(mol)
    Chem.SanitizeMol(mol)
    Chem.AssignStereochemistryFrom3D(mol)
    return Chem.MolToSmiles(Chem.RemoveHs(mol))


# -- round trips ------------------------------------------------------------------------------------------------------

lines = st.text(st.characters(exclude_categories=("C",), exclude_characters="\u2028\u2029"), max_size=12).map(str.strip)
names = st.text("abcXYZ_0123-", min_size=1, max_size=6).filter(lambda n: n[0] != "_")  # those are RDKit's own
values = st.lists(lines.filter(lambda v: v and v[0] not in ">$"), min_size=1, max_size=3).map("\n".join)


@st.composite
def batches(draw):
    """Atoms on a grid, any elements, with everything that a batch may hold."""
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    grid = 1.4 * np.stack(np.unravel_index(np.arange(27), (3, 3, 3)), -1)
    positions = [random.permutation(grid)[:n] + random.uniform(-0.4, 0.4, (n, 3)) for n in sizes]
    pairs = [np.stack(np.triu_indices(n, 1), -1) for n in sizes]
    bonds = [np.column_stack([p, random.integers(1, 5, len(p))])[random.random(len(p)) < 0.3] for p in pairs]
    more = {"charges": [random.integers(-3, 4, n) for n in sizes], "bonds": bonds}
    if draw(st.booleans()):
        more["radicals"] = [random.integers(0, 3, n) for n in sizes]
        more["radicals"][0][0] = 1
    titles = draw(st.lists(lines, min_size=len(sizes), max_size=len(sizes)))
    data = draw(st.lists(st.dictionaries(names, values, max_size=2), min_size=len(sizes), max_size=len(sizes)))
    more |= {"titles": titles if any(titles) else None, "data": data if any(data) else None}
    numbers = [random.integers(1, len(SYMBOLS), n) for n in sizes]
    return Molecules.from_list(positions, numbers, **more).to(torch.float32)


def assert_same(a, b, atol, without=()):
    torch.testing.assert_close(a.positions, b.positions, atol=atol, rtol=0)
    assert a.numbers.equal(b.numbers)
    for name in {"charges", "bonds", "radicals", "titles", "data"} - set(without):
        one, other = getattr(a, name), getattr(b, name)
        same = one.equal(other) if isinstance(one, torch.Tensor) and other is not None else one == other
        assert same, (name, one, other)


@given(batches())
def test_what_a_batch_holds_survives_every_format(tmp_path_factory, x):
    folder = tmp_path_factory.getbasetemp()
    assert_same(read(write(x, folder / "x.sdf")), x, 6e-5)
    assert_same(read(write(x, folder / "x.npz")), x, 0)
    assert_same(read(write(x, folder / "x.xyz")), x, 1e-6, without=("charges", "bonds", "radicals"))
    assert_same(from_rdkit(to_rdkit(x)), x, 0)
    assert_same(from_pyg(to_pyg(x)), x, 0, without=("data",))
    assert_same(from_ase(to_ase(x)), x, 0, without=("bonds",))


@given(batches())
@settings(max_examples=10)
def test_plain_records_are_read_as_rdkit_reads_them(tmp_path_factory, x):
    path = write(x.with_(radicals=None), tmp_path_factory.getbasetemp() / "plain.sdf")
    texts = [text for part, _ in formats._records(path) for text in part]
    for text, graph in zip(texts, formats._plain_graphs(texts), strict=True):
        if graph is not None:
            slow, _ = formats._rdkit_graph(text, "record")
            assert all(np.array_equal(a, b) for a, b in zip(graph, slow, strict=True))


def test_most_records_are_plain(sample, tmp_path):
    path = write(perceive_bonds(sample[:200].trim())[0], tmp_path / "a.sdf")
    texts = [text for part, _ in formats._records(path) for text in part]
    assert sum(graph is not None for graph in formats._plain_graphs(texts)) > 190


# -- stereo and other programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("smiles", SMILES)
def test_stereo_charges_and_radicals_survive(tmp_path, smiles):
    mol = embedded(smiles)
    want, x = smiles_from_3d(mol), from_rdkit([mol])
    assert want == Chem.CanonSmiles(smiles)
    path = write(x, tmp_path / "a.sdf")
    assert Chem.MolToSmiles(next(iter(Chem.SDMolSupplier(str(path))))) == want  # what another program sees
    again = write(read(path), tmp_path / "b.sdf")
    assert Chem.MolToSmiles(next(iter(Chem.SDMolSupplier(str(again))))) == want
    assert smiles_from_3d(to_rdkit(read(write(x, tmp_path / "a.npz")))[0]) == want
    stereo = to_rdkit(x, stereo=True)[0]
    Chem.SanitizeMol(stereo)
    assert Chem.MolToSmiles(Chem.RemoveHs(stereo)) == want


def test_rdkit_ase_and_open_babel_read_the_same_molecules(sample, tmp_path):
    from openbabel import openbabel, pybel

    openbabel.obErrorLog.SetOutputLevel(0)
    x, smiles = perceive_bonds(sample[:150].trim())
    x = x[[k for k, s in enumerate(smiles) if s]]
    path, xyz = str(write(x, tmp_path / "a.sdf")), str(write(x, tmp_path / "a.xyz"))
    want = [Chem.MolToSmiles(Chem.MolFromSmiles(s), isomericSmiles=False) for s in smiles if s]
    babel = [Chem.MolFromSmiles(m.write("can").split()[0]) for m in pybel.readfile("sdf", path)]
    assert [Chem.MolToSmiles(m, isomericSmiles=False) for m in babel] == want
    with_stereo = [Chem.CanonSmiles(smiles_from_3d(m)) for m in to_rdkit(x)]
    found = [Chem.CanonSmiles(Chem.MolToSmiles(m)) for m in Chem.SDMolSupplier(path)]
    assert sum("/" in s for s in with_stereo) > 5
    assert sum(a != b for a, b in zip(found, with_stereo, strict=True)) <= 1  # N=C-H: with and without its hydrogen
    for frame, one in zip(ase.io.read(xyz, ":"), x, strict=True):
        assert frame.numbers.tolist() == one.numbers[0].tolist()
        assert np.abs(frame.positions - one.positions[0].numpy()).max() < 1e-7


@pytest.mark.parametrize("smiles", ["C[n+]1ccccc1", "c1ccc[o+]c1", "O=[N+]([O-])c1ccncc1", "c1cc[n+]([O-])cc1"])
def test_open_babel_reads_charged_aromatic_rings_as_they_are(smiles, tmp_path):
    from openbabel import pybel

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=0)
    path = write(from_rdkit([mol]), tmp_path / "a.sdf")
    (babel,) = pybel.readfile("sdf", str(path))
    assert Chem.CanonSmiles(babel.write("can").split()[0]) == Chem.CanonSmiles(smiles)
    (mol,) = to_rdkit(read(path))
    Chem.SanitizeMol(mol)
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(smiles)


# -- XYZ --------------------------------------------------------------------------------------------------------------

QM9_OWN = (
    "3\ngdb 3\t799.6\t437.9\t282.9\t1.85\nO\t 0.0\t 0.0\t 0.0\t-0.59\nH\t 0.96\t 0.0\t 1.5*^-9\t 0.29\n"
    "H\t-0.24\t 0.93\t 0.0\t 0.29\n1671.46\t3803.63\t3907.70\nO\tO\t\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
)


@pytest.mark.parametrize(
    "text",
    [
        QM9_OWN,
        QM9_OWN * 2,
        "3\nheavy water\n" + LINES.replace("H", "D", 1).replace("H", "T", 1),
        "3\nc\nO 0.0D+00 0 0\nH 9.6D-01 0 0\nH -2.4d-01 0.93D0 0\n",
        b"\xef\xbb\xbf3\nc\n" + LINES.encode(),
        b"3\nL\xe4nge in \xc5\n" + LINES.encode(),
        "3\nfrom a web page\u2028energy 1\x0b\x85\n" + LINES,
        "3\r\nc\r\n" + LINES.replace(" ", "\t").replace("\n", "\r\n"),
        '3\nProperties=species:S:1:mass:R:1:pos:R:3 pbc="F F F"\nO 15.999 0 0 0\nH 1 0.96 0 0\nH 1 -0.24 0.93 0\n',
        "3\nProperties=pos:R:3:Z:I:1\n0 0 0 8\n0.96 0 0 1\n-0.24 0.93 0 1\n",
        '3\nE=-7 Properties="forces:R:3:species:S:1:pos:R:3"\n1 2 3 O 0 0 0\n1 2 3 H .96 0 0\n1 2 3 H -.24 .93 0\n',
    ],
)
def test_xyz_as_programs_write_it(tmp_path, text):
    x = read(put(tmp_path, "a.xyz", text))
    assert x.numbers.unique(dim=0).tolist() == [[8, 1, 1]]
    assert np.abs(x.positions.numpy() - WATER).max() < 1e-6


def test_data_of_xyz_comments_are_kept(tmp_path):
    x = read(put(tmp_path, "a.xyz", QM9_OWN))
    assert x.titles[0].startswith("gdb 3")
    assert x.data[0]["SMILES"] == "O\tO"
    extended = '3\nProperties=species:S:1:pos:R:3 energy=-76.4 note="a \\"b\\" = c" title="water 42"\n' + LINES
    for _ in range(2):
        x = read(put(tmp_path, "b.xyz", extended))
        assert (x.titles, x.data) == (("water 42",), ({"energy": "-76.4", "note": 'a "b" = c'},))
        extended = write(x, tmp_path / "c.xyz").read_text()
    assert ase.io.read(tmp_path / "c.xyz").info["note"] == 'a "b" = c'


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ("species:S:1:mass:R:1", "does not say species:S:1 and pos:R:3"),
        ("pos:R:3", "does not say"),
        ("species:S:1:pos:R", "does not say"),
        ("species:S:1:pos:R:2", "does not say"),
        ("species:S:1:pos:R:3:forces:R:3", "a line of the frame at line 1"),  # fewer columns than it says
    ],
)
def test_extended_xyz_that_says_too_little_is_refused(tmp_path, properties, message):
    with pytest.raises(ValueError, match=rf"a\.xyz: .*{message}"):
        read(put(tmp_path, "a.xyz", f"3\nProperties={properties}\n{LINES}"))


def test_a_periodic_cell_is_told(tmp_path):
    comment = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3'
    path = put(tmp_path, "a.xyz", f"3\n{comment}\n{LINES}")
    with pytest.warns(UserWarning, match="1 of 1 frames are periodic"):
        assert read(path).data is None


def test_far_molecules_keep_their_distances(tmp_path):
    x = Molecules.from_list([np.array(WATER) + 1e6], [[8, 1, 1]])
    for suffix in (".xyz", ".sdf", ".npz"):
        back = read(write(x, tmp_path / f"a{suffix}"))
        assert back.positions.dtype == torch.float64
        assert (back.distances() - x.distances()).abs().max() < 2e-4
    c = ck.canonicalizer("frame")(x).x
    assert (c.distances() - x.distances()).abs().max() < 1e-5


# -- SDF --------------------------------------------------------------------------------------------------------------


def test_records_titles_and_fields_of_an_sdf(tmp_path):
    records = [
        block(ATOMS, BONDS, title="water 42", data="> <a>\n1\n"),  # no blank line before $$$$
        block(ATOMS, BONDS, title="Grüße", data=">  25  <b>  (7)\none\ntwo\n> <c>\n3\n\n"),
        block(ATOMS, BONDS, title=""),
    ]
    x = read(put(tmp_path, "a.sdf", "".join(records)))
    for _ in range(2):
        assert x.titles == ("water 42", "Grüße", "")
        assert x.data == ({"a": "1"}, {"b": "one\ntwo", "c": "3"}, {})
        x = read(write(x, tmp_path / "b.sdf"))
    assert x[[2, 0]].titles == ("", "water 42")
    assert x[torch.tensor([False, True, False])].data == ({"b": "one\ntwo", "c": "3"},)
    assert Molecules.cat([x[:1], x[2:].with_(titles=None, data=None)]).titles == ("water 42", "")
    assert next(iter(x)).titles == ("water 42",)
    assert read(put(tmp_path, "c.sdf", "".join(records).encode("latin-1"))).titles[1] == "Grüße"
    assert len(read(put(tmp_path, "d.sdf", "".join(records * 2000)))) == 6000  # more than one piece


def test_a_radical_stays_one(tmp_path):
    path = put(tmp_path, "a.sdf", block(METHYL, [(1, k, 1) for k in (2, 3, 4)], lines="M  RAD  1   1   2\n"))
    x = read(path)
    assert x.radicals.tolist() == [[1, 0, 0, 0]]
    written = write(x, tmp_path / "b.sdf")
    assert Chem.MolToSmiles(next(iter(Chem.SDMolSupplier(str(written))))) == "[CH3]"
    with pytest.raises(ValueError, match="molecule 0 has unpaired electrons that SDF cannot name"):
        write(x.with_(radicals=3 * x.radicals), tmp_path / "c.sdf")
    assert Molecules.cat([x, x.with_(radicals=None)]).radicals.tolist() == [[1, 0, 0, 0], [0] * 4]


def test_flat_molecules_are_told(tmp_path):
    flat = block(
        [("C", 0, 0, 0), ("C", 1.3, 0.75, 0), ("O", 2.6, 0, 0)], [(1, 2, 1), (2, 3, 1)], header=" " * 20 + "2D"
    )
    with pytest.warns(UserWarning, match="1 of 2 molecules have 2D coordinates"):
        read(put(tmp_path, "a.sdf", flat + block(ATOMS, BONDS)))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (block(ATOMS, [(1, 2, 5), (1, 3, 1)]), "record 0: the bond of atoms 0 and 1 is a query"),
        (block(ATOMS, [(1, 2, 9), (1, 3, 1)]), "record 0: the bond of atoms 0 and 1 is dative"),
        (block(ATOMS, [(1, 2, 1), (2, 1, 1)]), "record 0"),
        (block(ATOMS, [(1, 1, 1)]), "record 0"),
        (block([("L", 0, 0, 0), *ATOMS[1:]], BONDS, lines="M  ALS   1  2 F C   N\n"), "record 0|molecule 0"),
    ],
)
def test_what_names_no_bond_or_element_is_refused(tmp_path, record, message):
    with pytest.raises(ValueError, match=rf"a\.sdf: .*({message})"):
        read(put(tmp_path, "a.sdf", record))


def test_fields_that_sdf_would_lose_are_refused(tmp_path):
    x = Molecules.from_list([WATER], [[8, 1, 1]])
    for fields in ({"a": "1\n\n2"}, {"a>": "1"}, {"a": "> <b>"}, {"a": "$$$$"}):
        with pytest.raises(ValueError, match="of molecule 0 has a blank line, or a line"):
            write(x.with_(data=(fields,)), tmp_path / "a.sdf")
    for suffix in (".sdf", ".xyz"):
        with pytest.raises(ValueError, match="is not one line of text"):
            write(x.with_(titles=("a\nb",)), tmp_path / f"a{suffix}")
    with pytest.raises(ValueError, match="a field 'a b', which XYZ cannot hold"):
        write(x.with_(data=({"a b": "1"},)), tmp_path / "a.xyz")


def test_rdkit_bonds_and_conformers_that_cannot_be_kept_are_refused():
    mol = Chem.RWMol()
    ends = [mol.AddAtom(Chem.Atom("Cr")) for _ in range(2)]
    mol.AddBond(*ends, Chem.BondType.QUADRUPLE)
    mol.AddConformer(Chem.Conformer(2))
    with pytest.raises(ValueError, match="molecule 0: the bond of atoms 0 and 1 is quadruple"):
        from_rdkit([mol])
    mol = embedded("CC")
    mol.AddConformer(mol.GetConformer(), assignId=True)
    with pytest.raises(ValueError, match="molecule 0 has 2 conformers"):
        from_rdkit([mol])


# -- arrays, npz ------------------------------------------------------------------------------------------------------

EDGES = np.zeros((1, 3, 3))
EDGES[0, 0, 1:] = EDGES[0, 1:, 0] = 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"bonds": 9 * EDGES}, "molecule 0 has a bond of order 9"),
        ({"bonds": 0.5 * EDGES}, "bonds are orders 0 to 3, and 4 for aromatic, not 0.5"),
        ({"bonds": np.triu(EDGES)}, "molecule 0 has a one-sided bond of atoms 0 and 1"),
        ({"bonds": EDGES + np.eye(3)}, "from an atom to itself or to padding"),
        ({"bonds": EDGES, "numbers": [[8, 1, 0]]}, "from an atom to itself or to padding"),
        ({"charges": [[-0.8, 0.4, 0.4]]}, "charges are formal charges, whole numbers, not -0.8"),
        ({"charges": [[np.nan, 0, 0]]}, "not nan"),
        ({"numbers": [[8.5, 1, 1]]}, "numbers are atomic numbers, such as 6 for carbon, not 8.5"),
        ({"radicals": [[-1, 0, 0]]}, "radicals are counts of unpaired electrons, not -1"),
    ],
)
def test_numbers_are_not_cast_in_silence(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **({"positions": np.array([WATER]), "numbers": [[8, 1, 1]]} | arrays))
    with pytest.raises(ValueError, match=rf"a\.npz: .*{message}"):
        read(tmp_path / "a.npz")


def test_arrays_of_numpy_are_as_good_as_tensors(tmp_path):
    x = Molecules.from_arrays(
        [WATER] * 2, [[8, 1, 1]] * 2, bonds=np.repeat(1.5 * EDGES, 2, 0), charges=np.zeros((2, 3))
    )
    assert x[:1].bonds.tolist() == (4 * EDGES).tolist()
    assert read(write(x[:1], tmp_path / "a.sdf")).bonds.equal(x[:1].bonds)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["inertial", "frame", "spectral"])
def test_every_type_of_number_has_a_pose(name, dtype):
    x = Molecules.from_arrays(torch.tensor([WATER], dtype=dtype), [[8, 1, 1]])
    for batch in (x, x.to(dtype)):
        assert ck.canonicalizer(name)(batch).x.positions.isfinite().all()


@pytest.mark.slow
def test_large_molecules_beside_small_ones_are_read(tmp_path):
    grid = 2.1 * np.stack(np.unravel_index(np.arange(2000), (13,) * 3), -1)
    x = [grid, *[np.array(WATER)] * 1000]
    path = tmp_path / "a.sdf"
    path.write_text("".join(block([("C", *p) for p in grid[:999]], [(1, 2, 1)]) + block(ATOMS, BONDS) * 1000))
    xyz = "2000\n\n" + "".join(f"C {a} {b} {c}\n" for a, b, c in grid) + f"3\n\n{LINES}" * 1000
    put(tmp_path, "a.xyz", xyz)
    code = (
        "import resource, canonkit as ck; resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2)\n"
        f"for s in ('xyz', 'sdf'): print(len(ck.read({str(tmp_path)!r} + '/a.' + s)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["1001", "1001"], done.stderr
    assert len(x) == 1001


# -- PyTorch Geometric ------------------------------------------------------------------------------------------------


def graph(n, seed, **more):
    random = np.random.default_rng(seed)
    pos = torch.tensor(1.5 * random.normal(size=(n, 3)), dtype=torch.float32)
    return Data(pos=pos, z=torch.tensor(random.choice([1, 6, 7, 8], n)), **more)


def test_a_batch_without_ptr_is_taken_apart():
    whole = Batch.from_data_list([graph(4, 1), graph(6, 2), graph(3, 3)])
    bare = Data(pos=whole.pos, z=whole.z, batch=whole.batch)
    assert from_pyg(bare).positions.equal(from_pyg(whole).positions)
    torch.testing.assert_close(ck.Canonicalize()(bare).pos, ck.Canonicalize()(whole).pos)
    bare.batch = bare.batch.flip(0)
    with pytest.raises(ValueError, match="batch is not sorted"):
        ck.Canonicalize()(bare)


def test_types_of_pos_that_pyg_users_have():
    whole = Data(pos=torch.tensor([[0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 1, 3]]), z=torch.tensor([6, 1, 7, 8]))
    new = ck.Canonicalize()(whole)
    torch.testing.assert_close(torch.cdist(new.pos, new.pos), torch.cdist(whole.pos.float(), whole.pos.float()))
    assert ck.Canonicalize()(Data(pos=graph(5, 0).pos.bfloat16(), z=graph(5, 0).z)).pos.dtype == torch.bfloat16
    item = graph(5, 0)
    item.pos.requires_grad_()
    assert len(from_pyg(item)) == 1
    with pytest.raises(ValueError, match="has no z"):
        from_pyg(Data(pos=torch.zeros(2, 3)))


def test_an_index_that_may_be_a_label_is_refused():
    with pytest.raises(ValueError, match="mol_index may number atoms or be a label"):
        ck.Canonicalize("spectral")(graph(5, 0, mol_index=torch.tensor([3])))


def test_edges_are_bonds_only_where_they_say_so():
    ends = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    assert from_pyg(graph(3, 0, edge_index=ends, edge_attr=torch.rand(4))).bonds is None
    assert from_pyg(graph(3, 0, edge_index=ends)).bonds is None
    one_hot = torch.eye(4)[[3, 3, 0, 0]]  # as in PyG's QM9
    assert from_pyg(graph(3, 0, edge_index=ends, edge_attr=one_hot)).bonds[0].tolist() == [
        [0, 4, 0],
        [4, 0, 1],
        [0, 1, 0],
    ]


# -- ASE --------------------------------------------------------------------------------------------------------------


def test_ase_atoms_that_hold_more_are_told():
    atoms = Atoms("OH2", WATER, cell=[9, 9, 9], pbc=True, charges=[-0.8, 0.4, 0.4])
    with pytest.warns(UserWarning, match="left out") as told:
        assert from_ase(atoms).charges is None
    assert {str(w.message).split(":")[0] for w in told} == {
        "1 of 1 molecules are periodic",
        "partial charges are left out",
    }


def test_without_ase_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(ModuleNotFoundError, match="pip install ase"):
        to_ase(Molecules.from_list([WATER], [[8, 1, 1]]))


# -- images -----------------------------------------------------------------------------------------------------------


def test_images_are_kept_or_refused(tmp_path):
    from matplotlib.image import imread

    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert (np.load(write(grey, tmp_path / "a.npz"))["images"] == grey.numpy()).all()
    colour = torch.zeros(1, 3, 2, 2)
    colour[:, 0] = 1
    assert imread(write(colour, tmp_path / "a.png"))[0, 0, :3].tolist() == [1, 0, 0]
    for wrong, message in (
        (255 * torch.rand(1, 1, 8, 8), "values up to 2"),
        (grey.int(), "images of torch.int32"),
        (colour / 0, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            write(wrong, tmp_path / "b.npz")
    with pytest.raises(ValueError, match="make no sheet"):
        write(torch.zeros(1, 2, 8, 8), tmp_path / "b.png")


# -- poses ------------------------------------------------------------------------------------------------------------

AXES = np.concatenate([np.eye(3), -np.eye(3)])
CARBON, HYDROGEN = [[0.67, 0, 0], [-0.67, 0, 0]], [[x, y, 0] for x in (1.23, -1.23) for y in (0.92, -0.92)]
ALLENE = [
    [0, 0, 0],
    [0, 0, 1.31],
    [0, 0, -1.31],
    [0.93, 0, 1.87],
    [0, 0.93, -1.87],
    [-0.93, 0, 1.87],
    [0, -0.93, -1.87],
]


@pytest.mark.parametrize(
    ("positions", "numbers"),
    [
        ([[0, 0, 0], *1.56 * AXES], [16] + [9] * 6),
        ([*1.95 * AXES[[0, 1, 3, 4]], [0, 0, 0]], [9] * 4 + [54]),
        ([CARBON[0], *HYDROGEN[:2], *HYDROGEN[2:], CARBON[1]], [6, 1, 1, 1, 1, 6]),
        ([CARBON[0], HYDROGEN[2], HYDROGEN[3], HYDROGEN[0], HYDROGEN[1], CARBON[1]], [6, 1, 1, 1, 1, 6]),
        (ALLENE, [6, 6, 6, 1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("name", ["inertial", "spectral-pose", "frame"])
def test_flagged_poses_are_well_defined_too(generator, name, positions, numbers):
    torch.manual_seed(0)
    table = Molecules.from_list([np.array(positions, dtype=float)], [np.array(numbers)]).elements
    h = ck.canonicalizer(name, **({"elements": table} if name == "frame" else {})).double()
    for _ in range(6):
        order = torch.randperm(len(numbers), generator=generator).numpy()
        x = Molecules.from_list([np.array(positions, dtype=float)[order]], [np.array(numbers)[order]])
        turned = x[[0] * 6].act(haar_rotations(6, generator=generator, dtype=torch.float64))
        assert h(x).ambiguous.all()
        assert (h(turned).x.positions - h(x).x.positions).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["spectral-pose", "spectral", "inertial-spectral"])
@pytest.mark.parametrize("spread", [5, 25, 100])
def test_clusters_are_flagged_or_have_one_pose(name, spread):
    found = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        turns = [np.linalg.qr(random.normal(size=(3, 3)))[0] for _ in range(5)]
        x = np.concatenate([np.array(WATER) @ turn + spread * random.normal(size=3) for turn in turns])
        found.append(ck.certify(ck.canonicalizer(name), Molecules.from_list([x], [[8, 1, 1] * 5])))
    assert max(c.max_error for c in found) < 1e-6
    assert sum(c.ambiguous_share for c in found) > 0


def test_a_gas_of_one_kind_has_no_spectrum():
    x = Molecules.from_list([25 * np.random.default_rng(0).normal(size=(6, 3))], [[2] * 6])
    assert ck.canonicalizer("spectral-pose")(x).ambiguous.all()


def test_a_nan_is_named():
    x = Molecules.from_arrays(np.stack([WATER, np.multiply(WATER, np.nan)]), [[8, 1, 1]] * 2)
    for name in ("inertial", "frame", "spectral"):
        with pytest.raises(ValueError, match="molecule 1 has a NaN"):
            ck.canonicalizer(name)(x)


# -- views and command line -------------------------------------------------------------------------------------------


def test_captions_are_text(tmp_path):
    x = Molecules.from_list([WATER], [[8, 1, 1]])
    ck.draw(x, captions=["$x^$"]).savefig(tmp_path / "a.png")
    numbers = ck.explore(x[[0, 0]], {"a": torch.tensor([1.0, torch.inf]), "b": torch.zeros(2)}).map.properties
    assert numbers["a"] == [1.0, None]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "CanonFlow", "-o", "x.sdf", "-n", "0"], "--count 0 is too few"),
        (["sample", "CanonFlow", "-o", "x.sdf", "--steps", "-2"], "--steps -2 is too few"),
        (["train", "GDM", "--out", "r", "--steps", "-1"], "--steps -1 is too few"),
        (["train", "GDM", "--out", "r", "--minutes", "nan"], "--minutes nan is not a training time"),
        (["train", "GDM", "--out", "r", "--device", "abacus"], "there is no device 'abacus' here"),
        (["data", "qm9", "--path", "other.sdf"], "other.sdf: record 1 is titled 'mol A'"),
        (["sample", "run", "-o", "x.sdf"], "run.json is damaged"),
    ],
)
def test_the_command_line_answers_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    from canonkit.cli import main

    put(tmp_path, "other.sdf", block(ATOMS, BONDS, title="mol A"))
    (tmp_path / "run").mkdir()
    put(tmp_path / "run", "run.json", "{")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["canonkit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 1
    assert last.startswith("canonkit: ")
    assert message in last
