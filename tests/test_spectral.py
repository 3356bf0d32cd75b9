"""Canonicalizers of S_n x SE(3): pose and order of atoms from the spectrum of a geometric graph."""

import numpy as np
import pytest
import torch
from conftest import COUNTS
from hypothesis import given
from hypothesis import strategies as st

from canonkit.canonicalizers import Inertial, Ordered, SpectralKey, canonicalizer
from canonkit.canonicalizers.base import VERSION
from canonkit.canonicalizers.order import EQUAL, sort_atoms
from canonkit.canonicalizers.spectral import ELEMENT_TERM, GAP, REACH, spectrum
from canonkit.certificates import certify
from canonkit.data import canonical
from canonkit.groups import haar_rotations
from canonkit.molecules import Molecules
from canonkit.recipes.names import recipe

# Five different atoms: a carbon with H, N, O and F at the corners of a distorted tetrahedron, and its mirror image.
CHIRAL = [[0, 0, 0], [0.6, 0.6, 0.7], [-0.8, -0.8, 0.9], [-0.8, 0.9, -0.7], [0.8, -0.7, -0.8]], [6, 1, 7, 8, 9]
# A chain with a pair of hydrogens above and below the plane of the rest: its own mirror image.
ACHIRAL = (
    [[0, 0, 0], [1.4, 0.1, 0], [2.1, 1.3, 0], [-0.5, -0.8, 0.88], [-0.5, -0.8, -0.88], [-0.6, 0.9, 0], [3.5, 1.4, 0]],
    [6, 6, 7, 1, 1, 9, 8],
)
CO2 = [[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]], [8, 6, 8]
ORDERED = ["spectral", "inertial-spectral", "frame-spectral", "inertial-smiles"]


def molecule(positions, numbers):
    return Molecules.from_list([np.array(positions, dtype=np.float64)], [np.array(numbers)])


def mirrored(x):
    return x.with_(positions=x.positions * x.positions.new_tensor([1, 1, -1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERED)
def test_no_rotation_translation_or_permutation_changes_the_canonical_molecule(sample, name):
    torch.manual_seed(0)
    found = certify(canonicalizer(name), sample[:600])
    assert found.max_error < 1e-8
    assert found.idempotence_error < 1e-8
    assert found.handed
    assert found.ambiguous_share < 0.06
    assert found.jump_share < 0.06
    assert 0 < found.reordered_share < 0.6
    assert "reordered share" in str(found)


def test_the_pose_alone_forgets_the_order_of_the_atoms(sample):
    h, x = canonicalizer("spectral-pose"), sample[:300].to(torch.float64)
    order = (torch.rand(x.mask.shape) + ~x.mask).argsort(1)
    clear = ~h(x).ambiguous
    assert (h(x.permute(order)).g - h(x).g).abs().amax((1, 2))[clear].max() < 1e-9
    assert certify(h, x).reordered_share is None


def test_the_canonical_molecule_is_the_same_atoms_elsewhere(sample):
    x = sample[:50].to(torch.float64)
    c = canonicalizer("spectral")(x)
    again = x.centred().permute(c.order)
    assert c.x.types.equal(again.types)
    assert c.x.mask.equal(x.mask)
    assert (c.x.act(c.g).positions - again.positions).abs().max() < 1e-12
    assert c.order.sort(1).values.equal(torch.arange(x.mask.shape[1]).expand_as(c.order))


def test_the_spectrum_is_that_of_the_graph_s_laplacian(sample):
    x = sample[:40].to(torch.float64).centred()
    found = spectrum(x)
    for b, n in enumerate(x.sizes.tolist()):
        p, z = x.positions[b, :n].numpy(), x.numbers[b, :n].numpy()
        w = np.exp(-0.5 * (np.linalg.norm(p[:, None] - p[None], axis=-1) / REACH) ** 2)
        laplacian = np.diag(w.sum(1)) - w + ELEMENT_TERM * np.diag((z - z.mean()) / 9)
        values, vectors = np.linalg.eigh(laplacian)
        for k in (1, 2):
            gap = (values[k + 1] - values[k]) / values[k + 1]
            if gap > GAP and not found.unclear[b].any():
                u = found.u[b, :n, k - 1].numpy()
                assert min(np.abs(u - s * vectors[:, k]).max() for s in (1, -1)) < 1e-9
            assert bool(found.unclear[b, k - 1]) or gap >= GAP


def test_atoms_stand_in_the_order_of_the_fiedler_vector(sample):
    x = sample[:100].to(torch.float64)
    c = canonicalizer("spectral")(x)
    u = spectrum(c.x).u[..., 0]
    for b, n in enumerate(x.sizes.tolist()):
        if not c.ambiguous[b]:
            assert (u[b, :n].diff() > -n * EQUAL).all()  # a group may be a chain of equals


def test_padding_changes_nothing(sample):
    h, x = canonicalizer("spectral"), sample[:20].to(torch.float64)
    padded = h(x.pad(40))
    assert not padded.x.mask[:, x.mask.shape[1] :].any()
    c = h(x)
    assert (padded.x.positions[:, : x.mask.shape[1]] - c.x.positions)[~c.ambiguous].abs().max() < 1e-10
    assert padded.order[:, : x.mask.shape[1]][x.mask].equal(c.order[x.mask])


@pytest.mark.parametrize("name", ["spectral", "inertial-spectral"])
def test_mirror_images_are_kept_apart_unless_they_are_one_molecule(name):
    h = canonicalizer(name)
    for x, same in ((molecule(*CHIRAL), False), (molecule(*ACHIRAL), True)):
        c, other = h(x), h(mirrored(x))
        assert not c.ambiguous.any()
        gap = float((c.x.positions - other.x.positions).abs().max())
        assert (gap < 1e-9) == same
        assert c.x.types.equal(other.x.types)


@pytest.mark.parametrize("shape", ["linear", "six-fold", "one atom", "two atoms"])
def test_where_the_spectrum_cannot_tell_the_molecule_is_flagged_and_finite(shape):
    angle = np.arange(6) * np.pi / 3
    ring = np.concatenate([r * np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1) for r in (1.39, 2.48)])
    shapes = {
        "linear": CO2,
        "six-fold": (ring, [6] * 6 + [1] * 6),
        "one atom": ([[1.0, 2, 3]], [6]),
        "two atoms": ([[0, 0, 0], [0, 0, 1.1]], [6, 8]),
    }
    c = canonicalizer("spectral")(molecule(*shapes[shape]))
    assert c.ambiguous.all()
    assert c.x.positions.isfinite().all()
    assert (torch.linalg.det(c.g) - 1).abs().max() < 1e-9


def test_smiles_ranks_gather_atoms_that_the_graph_does_not_tell_apart():
    x = molecule(*ACHIRAL)
    key, unclear = canonicalizer("inertial-smiles").key(x)
    assert key[0, 3] == key[0, 4]
    assert len(set(key[0].tolist())) == 6
    assert not unclear.any()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-50, 50)), min_size=1, max_size=12, unique=True), st.randoms())
def test_atoms_are_sorted_by_key_and_within_equal_keys_by_place(atoms, random):
    def keys(pairs):  # keys within a group differ by far less than EQUAL
        return torch.tensor([[k + 1e-6 * random.random() for k, _ in pairs]], dtype=torch.float64)

    place = torch.tensor([[p for _, p in atoms]], dtype=torch.float64)
    order = sort_atoms(keys(atoms), place, torch.ones(1, len(atoms), dtype=torch.bool))[0].tolist()
    assert [atoms[i] for i in order] == sorted(atoms)


def test_padding_stays_last():
    mask = torch.tensor([[True, True, False]])
    assert sort_atoms(torch.tensor([[2.0, 1, 0]]), torch.zeros(1, 3), mask).tolist() == [[1, 0, 2]]


def test_an_order_may_follow_any_pose(sample):
    x = sample[:100].to(torch.float64)
    c = Ordered(Inertial(), SpectralKey())(x)
    assert c.g.equal(Inertial()(x).g)
    turned = x.act(haar_rotations(len(x), dtype=torch.float64))
    assert (Ordered(Inertial(), SpectralKey())(turned).x.positions - c.x.positions)[~c.ambiguous].abs().max() < 1e-8


def test_canonical_data_are_cached_by_molecules_and_version(sample, tmp_path, monkeypatch):

    monkeypatch.setenv("CANONKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(canonical, "SMALL", 100)
    model = recipe("Flow+order").build(COUNTS)
    x = sample[:300].with_(charges=torch.where(sample[:300].mask, sample[:300].types, 0))
    expected = model.canonical(x)
    for attempt in range(2):
        found = canonical.cached_canonical(model, "spectral", x)
        assert (found.positions - expected.positions).abs().max() < 1e-3
        assert found.types.equal(expected.types)
        assert found.charges.equal(expected.charges)  # whatever belongs to an atom goes with it
        assert found.mask.equal(expected.mask)
        if attempt == 0:  # not computed again
            monkeypatch.setattr(canonical, "_compute", lambda *a: pytest.fail("the cache was not used"))
    (file,) = tmp_path.glob("canonical-spectral-*.safetensors")
    stale = file.with_name(file.name.replace("-v1", "-v0"))
    file.rename(stale)
    monkeypatch.undo()
    monkeypatch.setenv("CANONKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(canonical, "SMALL", 100)
    canonical.cached_canonical(model, "spectral", x)
    assert file.exists()
    assert not stale.exists()
    with pytest.raises(ValueError, match="'frame' has weights"):
        canonical.cached_canonical(recipe("canon+GDM").build(COUNTS), "frame", x)


FORMS = {"inertial": -0.33255, "spectral-pose": -0.47596, "spectral": 2.85318, "inertial-spectral": 2.29517}


@pytest.mark.parametrize("name", FORMS)
def test_a_changed_formula_has_a_new_version(qm9, name):
    """Kept canonical forms are read by this version alone: raise VERSION when these numbers change."""
    x = qm9.molecules[1000:1020].to(torch.float64)
    weights = torch.linspace(0, 1, x.positions.numel(), dtype=torch.float64).view_as(x.positions)
    assert VERSION == 1
    assert float((canonicalizer(name)(x).x.positions * weights).sum()) == pytest.approx(FORMS[name], abs=2e-5)
