"""Canonicalize as a transform of PyTorch Geometric."""

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose, RandomRotate

import canonkit as ck
from canonkit.canonicalizers import Frame
from canonkit.chemistry.formats import from_pyg, to_pyg
from canonkit.groups import haar_rotations
from canonkit.metrics import bond_orders


@pytest.fixture(scope="module")
def some(sample):
    """Molecules with bonds that every canonicalizer here has a clear pose for."""
    x = sample[:80].trim().to(torch.float64)
    clear = ~ck.canonicalizer("spectral")(x).ambiguous & ~ck.canonicalizer("inertial")(x).ambiguous
    return x[clear].with_(bonds=bond_orders(x[clear]))


@pytest.fixture(scope="module")
def items(some):
    """The same as a list of `Data`, each with attributes of its own."""
    found = to_pyg(some).to_data_list()
    for k, item in enumerate(found):
        n = len(item.z)
        item.y, item.name = torch.tensor([float(k)]), f"molecule {k}"
        item.label = torch.arange(n)
        item.symbols = [some.elements[t] for t in some.types[k, :n].tolist()]
        item.force = item.pos - item.pos.mean(0)  # turns with the molecule
    return found


@pytest.mark.parametrize("name", ["inertial", "spectral"])
def test_the_result_is_the_same_however_the_molecule_is_turned(items, name):
    random = [RandomRotate(180, axis=axis) for axis in range(3)]
    h = ck.Canonicalize(name)
    for item in items[:20]:
        one, other = h(item), Compose([*random, h])(item)
        torch.testing.assert_close(other.pos, one.pos, atol=1e-5, rtol=0)  # RandomRotate is in float32
        assert other.z.equal(one.z)


def test_it_is_the_canonicalizers_own_pose(items, some):
    h = ck.canonicalizer("inertial")
    c = h(some)
    for b, item in enumerate(items[:20]):
        new = ck.Canonicalize(h)(item)
        torch.testing.assert_close(new.pos, c.x.positions[b, : len(item.z)])
        torch.testing.assert_close(new.g, c.g[b : b + 1])
        assert new.ambiguous.equal(c.ambiguous[b : b + 1])


def test_other_attributes_are_kept_and_the_input_is_left_alone(items):
    item = items[7]
    before = item.pos.clone()
    new = ck.Canonicalize("inertial")(item)
    assert item.pos.equal(before)
    assert "g" not in item
    assert set(new.keys()) == set(item.keys()) | {"g", "ambiguous"}
    for key in ("z", "y", "name", "label", "symbols", "edge_index", "edge_attr"):
        assert new[key] is item[key]


@pytest.mark.parametrize("name", ["inertial", "spectral"])
def test_vectors_turn_with_the_molecule(items, name):
    new = ck.Canonicalize(name)(items[3])
    torch.testing.assert_close(new.force, new.pos)
    left = ck.Canonicalize("inertial", vectors=())(items[3])
    assert left.force is items[3].force


def test_atoms_and_edges_follow_where_atoms_are_ordered(items):
    moved = 0
    for item in items:
        new = ck.Canonicalize("spectral")(item)
        moved += not new.label.equal(item.label)
        assert new.z.equal(item.z[new.label])
        assert new.symbols == [item.symbols[i] for i in new.label.tolist()]
        # The bonds are those of the new places: same orders between same atoms, and as long as they were.
        old = new.label[new.edge_index]
        assert old.equal(item.edge_index)
        assert new.edge_attr.equal(item.edge_attr)
        lengths = [(d.pos[d.edge_index[0]] - d.pos[d.edge_index[1]]).norm(dim=-1) for d in (item, new)]
        torch.testing.assert_close(*lengths)
    assert moved > len(items) / 2


@pytest.mark.parametrize("name", ["inertial", "spectral"])
def test_a_batch_gives_what_its_molecules_give(items, name):
    h = ck.Canonicalize(name)
    one, all_at_once = Batch.from_data_list([h(item) for item in items]), h(Batch.from_data_list(items))
    for key in ("pos", "force", "g"):
        torch.testing.assert_close(all_at_once[key], one[key])
    for key in ("z", "label", "edge_index", "edge_attr", "batch", "ptr", "ambiguous", "y"):
        assert all_at_once[key].equal(one[key])
    again = from_pyg(all_at_once)
    torch.testing.assert_close(again.positions[again.mask], one.pos)


def test_a_loader_batches_transformed_molecules(items):
    h = ck.Canonicalize("inertial")
    batch = next(iter(DataLoader([h(item) for item in items], batch_size=8)))
    assert batch.g.shape == (8, 3, 3)
    assert batch.to_data_list()[3].g.equal(h(items[3]).g)


def test_two_atoms_do_not_confuse_a_batch_with_its_molecules():
    item = Data(pos=torch.tensor([[0.0, 0, 0], [0, 0, 0.74]]), z=torch.tensor([1, 1]))
    new = ck.Canonicalize("spectral")(Batch.from_data_list([item]))
    assert new.ptr.tolist() == [0, 2]
    assert new.ambiguous.tolist() == [True]


def test_a_learned_canonicalizer_knows_elements_by_one_table(items):
    item = next(d for d in items if set(d.z.tolist()) == {1, 6, 8})
    frame = Frame(width=16, layers=1).double()
    g = haar_rotations(1, dtype=torch.float64)[0]
    other = item.clone()
    other.pos = item.pos @ g.T
    h = ck.Canonicalize(frame)
    torch.testing.assert_close(h(other).pos, h(item).pos)
    torch.testing.assert_close(h(item).pos, frame(from_pyg(item)).x.positions[0])
    with pytest.raises(ValueError, match="element S is not in the table"):
        h(Data(pos=torch.eye(3), z=torch.tensor([16, 1, 1])))
    assert ck.Canonicalize("inertial")(Data(pos=torch.eye(3), z=torch.tensor([16, 1, 1]))).z.tolist() == [16, 1, 1]


def test_what_it_cannot_do_is_said(items):
    with pytest.raises(ValueError, match="has no z: a molecule is"):
        ck.Canonicalize()(Data(pos=torch.zeros(3, 3)))
    item = items[0].clone()
    item.adj = torch.zeros(len(item.z), len(item.z))
    with pytest.raises(ValueError, match="adj cannot be brought into another order"):
        ck.Canonicalize("spectral")(item)
    assert repr(ck.Canonicalize("inertial")) == "Canonicalize(Inertial())"
