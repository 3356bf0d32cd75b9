import dataclasses

import numpy as np
import pytest
import torch

from canonkit.canonicalizers import Canonicalizer, Inertial, base, canonicalizer
from canonkit.certificates import certify
from canonkit.groups import act, gram_schmidt, haar_rotations, inverse
from canonkit.molecules import Molecules

SMALL = {"width": 16, "layers": 2}
KINDS = {
    "identity": ("identity", {}),
    "inertial": ("inertial", {}),
    "frame": ("frame", {}),
    "frozen frame": ("frame", {"frozen": True}),
    "small frame": ("frame", SMALL),
    "small frozen frame": ("frame", SMALL | {"frozen": True}),
}
ALIGNING = [kind for kind in KINDS if kind != "identity"]  # those that remove rotations
FRAMES = [kind for kind in KINDS if "frame" in kind]
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # Å

dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
kinds = pytest.mark.parametrize("kind", KINDS)
aligning = pytest.mark.parametrize("kind", ALIGNING)


def make(kind, dtype=torch.float64):
    name, settings = KINDS[kind]
    torch.manual_seed(0)
    return canonicalizer(name, **settings).eval().to(dtype)


def some(sample, kind, dtype=torch.float64):
    """Molecules of QM9, fewer where the network is of full size."""
    return sample[: 24 if kind in ("frame", "frozen frame") else 300].trim().to(dtype)


def gap(x, y):
    """Largest distance between atoms of the same place, per molecule, (B,)."""
    return (torch.linalg.vector_norm(x.positions - y.positions, dim=-1) * x.mask).amax(1)


def random_order(x, generator):
    """A random permutation of each molecule's atoms, padding last, (B, N)."""
    return (torch.rand(x.mask.shape, generator=generator) + ~x.mask).argsort(1)


def thickness(x):
    """Root mean square distance to the best plane, (B,)."""
    return torch.linalg.svdvals(x.centred().positions)[:, -1] / x.sizes**0.5


def molecule(numbers, positions, dtype=torch.float64):
    return Molecules.from_arrays(np.array([positions], dtype=np.float64), [numbers]).to(dtype)


def ring(radius, start=0.0):
    angles = start + np.arange(6) * np.pi / 3
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), 0 * angles], 1)


def buckminsterfullerene():
    """A truncated icosahedron of edge 1.42 Å: cyclic permutations and all signs of three corners."""
    phi = (1 + 5**0.5) / 2
    corners = set()
    for corner in ([0, 1, 3 * phi], [1, 2 + phi, 2 * phi], [phi, 2, 2 * phi + 1]):
        for signs in np.ndindex(2, 2, 2):
            point = np.array(corner) * (1 - 2 * np.array(signs)) + 0.0
            corners |= {tuple(np.roll(point, k)) for k in range(3)}
    return 0.71 * np.array(sorted(corners))


TETRAHEDRON = 0.63 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
SYMMETRIC = {
    "atom": ([9], [[1.0, 2, 3]]),
    "H2": ([1, 1], [[0, 0, 0], [0, 0, 0.74]]),
    "HCN": ([1, 6, 7], [[0, 0, -1.06], [0, 0, 0], [0, 0, 1.16]]),
    "CO2": ([8, 6, 8], [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]]),
    "acetylene": ([6, 6, 1, 1], [[0, 0, 0.6], [0, 0, -0.6], [0, 0, 1.66], [0, 0, -1.66]]),
    "methane": ([6, 1, 1, 1, 1], [[0, 0, 0], *TETRAHEDRON]),
    "benzene": ([6] * 6 + [1] * 6, [*ring(1.39), *ring(2.48)]),
    "C60": ([6] * 60, buckminsterfullerene()),
}
# Formic acid, roughly: planar, and no two atoms alike.
PLANAR = (
    [6, 8, 8, 1, 1],
    [[0.1, 0.4, 0], [1.2, 0.3, 0], [-0.9, -0.5, 0], [-0.5, 1.4, 0], [-0.3, -1.3, 0]],
)


def turned(x, seed=1):
    return x.act(haar_rotations(len(x), generator=torch.Generator().manual_seed(seed), dtype=x.positions.dtype))


# -- on QM9 --


@dtypes
@aligning
def test_pose_is_invariant_under_rotation_and_translation(sample, generator, kind, dtype):
    x, c = some(sample, kind, dtype), make(kind, dtype)
    shift = 5 * torch.randn(len(x), 3, generator=generator, dtype=dtype)
    pose, moved = c(x), c(turned(x).translate(shift))
    assert pose.ambiguous.double().mean() < 0.2
    assert gap(pose.x, moved.x)[~pose.ambiguous].max() < TOLERANCE[dtype]
    assert gap(x.centred(), turned(x).centred()).min() > 0.1


def test_identity_is_invariant_under_translation_only(sample, generator):
    x, c = some(sample, "identity"), make("identity")
    shift = torch.randn(len(x), 3, generator=generator, dtype=torch.float64)
    assert gap(c(x).x, c(x.translate(shift)).x).max() < 1e-12
    assert gap(c(x).x, c(turned(x)).x).min() > 0.1


@aligning
def test_rotation_turns_with_the_molecule(sample, kind):
    x, c = some(sample, kind), make(kind)
    g = haar_rotations(len(x), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pose = c(x)
    assert (c(x.act(g)).g - g @ pose.g)[~pose.ambiguous].abs().max() < 1e-8


@dtypes
@kinds
def test_a_canonical_pose_is_its_own(sample, kind, dtype):
    c = make(kind, dtype)
    pose = c(some(sample, kind, dtype))
    assert gap(c(pose.x).x, pose.x)[~pose.ambiguous].max() < TOLERANCE[dtype]


@kinds
def test_rotation_is_proper_and_takes_the_pose_back(sample, kind):
    x = some(sample, kind)
    pose = make(kind)(x)
    assert (torch.linalg.det(pose.g) - 1).abs().max() < 1e-12
    assert (pose.g @ inverse(pose.g) - torch.eye(3)).abs().max() < 1e-12
    back = (act(pose.g, pose.x.positions) + x.centroid()) * x.mask[..., None]
    assert (back - x.positions).abs().max() < 1e-12
    assert pose.x.centroid().abs().max() < 1e-12


@kinds
def test_padding_and_company_do_not_change_the_pose(sample, kind):
    x, c = some(sample, kind)[:12].trim(), make(kind)
    together, padded = c(x), c(x.pad(40))
    assert gap(together.x, padded.x.trim()).max() < 1e-10
    assert not padded.x.positions[:, x.mask.shape[1] :].any()
    for b, one in enumerate(x):
        alone = c(one)
        assert gap(alone.x, together.x[b].trim()).max() < 1e-10
        assert alone.ambiguous == together.ambiguous[b] == padded.ambiguous[b]


@kinds
def test_permuting_atoms_permutes_the_pose(sample, generator, kind):
    x, c = some(sample, kind), make(kind)
    order = random_order(x, generator)
    pose, permuted = c(x), c(x.permute(order))
    assert permuted.ambiguous.equal(pose.ambiguous)
    assert gap(permuted.x, pose.x.permute(order))[~pose.ambiguous].max() < 1e-8


@kinds
def test_mirror_image_has_another_pose(sample, kind):
    x, c = some(sample, kind), make(kind)
    pose, mirrored = c(x), c(turned(x.with_(positions=-x.positions)))
    chiral = ~pose.ambiguous & (thickness(x) > 0.05)
    assert chiral.double().mean() > 0.7
    assert gap(pose.x, mirrored.x)[chiral].min() > 0.05


@pytest.mark.parametrize("kind", FRAMES)
def test_mirror_image_lands_in_the_pose_flipped_along_z(sample, kind):
    x, c = some(sample, kind), make(kind)
    pose, mirrored = c(x), c(x.with_(positions=-x.positions))
    flipped = pose.x.with_(positions=pose.x.positions * torch.tensor([1, 1, -1]))
    assert gap(flipped, mirrored.x)[~pose.ambiguous].max() < 1e-8


def test_inertial_axes_are_ordered_by_variance(sample):
    pose = make("inertial")(some(sample, "inertial"))
    x, m = pose.x.positions, pose.x.numbers.double()[..., None]
    covariance = (m * x).mT @ x
    variance = covariance.diagonal(dim1=1, dim2=2)
    assert (covariance - torch.diag_embed(variance)).abs().max() < 1e-9
    assert (variance.diff(dim=1) < 1e-9).all()


def test_inertial_signs_come_from_third_moments(sample):
    pose = make("inertial")(some(sample, "inertial"))
    moments = (pose.x.numbers.double()[..., None] * pose.x.positions**3).sum(1)
    assert ((moments > 0).sum(1) >= 2)[~pose.ambiguous].all()


# -- special shapes --


@aligning
def test_planar_molecule_is_not_flagged_and_lies_in_xy(kind):
    x, c = turned(molecule(*PLANAR)), make(kind)
    pose = c(x)
    assert not pose.ambiguous
    assert pose.x.positions[..., 2].abs().max() < 1e-10
    assert gap(pose.x, c(turned(x, seed=2)).x) < 1e-8


@pytest.mark.parametrize("name", ["benzene", "CO2", "HCN", "H2"])
def test_symmetric_planar_molecules_lie_in_xy_too(name):
    pose = make("inertial")(turned(molecule(*SYMMETRIC[name])))
    assert pose.x.positions[..., 2].abs().max() < 1e-10


def test_symmetric_tops_keep_the_axis_that_is_unique():
    chair = ring(1.45) + [0, 0, 0.25] * np.array([[1], [-1]] * 3)  # the short axis, which becomes z
    cage = np.concatenate([ring(1.0)[::2], ring(1.0)[::2]]) + [0, 0, 2] * np.array([[1]] * 3 + [[-1]] * 3)  # x
    for positions, axis, height in ((chair, 2, 0.25), (cage, 0, 2)):
        pose = make("inertial")(turned(molecule([6] * 6, positions)))
        assert pose.ambiguous
        assert (pose.x.positions[..., axis].abs() - height).abs().max() < 1e-10


def test_coordinates_of_the_symmetric_molecules_are_right():
    near = molecule(*SYMMETRIC["C60"]).distances()[0]
    assert ((near - 1.42).abs() < 1e-9).sum(0).tolist() == [3] * 60
    assert molecule(*SYMMETRIC["methane"]).distances()[0, 0, 1:].tolist() == pytest.approx([0.63 * 3**0.5] * 4)


@dtypes
@aligning
@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_or_linear_molecule_is_flagged_not_crashed(kind, name, dtype):
    x, c = molecule(*SYMMETRIC[name]), make(kind, dtype)
    for y in (x, turned(x)):
        y = y.to(dtype).with_(positions=y.positions.to(dtype).clone())
        y.positions.requires_grad_()
        pose = c(y)
        assert pose.ambiguous
        assert pose.x.positions.isfinite().all()
        assert (torch.linalg.det(pose.g) - 1).abs() < 1e-5
        assert (pose.x.distances() - y.distances()).abs().max() < 1e-5
        (pose.x.positions**3).sum().backward()
        leaves = [y.positions, *(p for p in c.parameters() if p.requires_grad)]
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves)
        assert y.positions.grad is not None


@aligning
@pytest.mark.parametrize("name", SYMMETRIC)
def test_flagged_molecules_keep_their_pose_when_turned(kind, name):
    x, c = molecule(*SYMMETRIC[name]), make(kind)
    assert gap(c(x).x, c(turned(x)).x) < 1e-8


@aligning
def test_flagged_molecules_do_not_disturb_their_batch(sample, kind):
    x, c = some(sample, kind)[:4], make(kind)
    special = [molecule(*SYMMETRIC[name]) for name in ("atom", "HCN", "methane")]
    together = c(Molecules.cat([*special, x]))
    assert together.ambiguous[:3].all()
    assert gap(together.x[3:], c(x.pad(together.x.mask.shape[1])).x).max() < 1e-10


# -- gradients --


@dtypes
@pytest.mark.parametrize("kind", ["frame", "small frame"])
def test_gradients_reach_the_frame_and_the_positions(sample, kind, dtype):
    x, c = some(sample, kind, dtype)[:8], make(kind, dtype)
    x.positions.requires_grad_()
    (c(x).x.positions ** 3).sum().backward()
    for name, p in c.named_parameters():
        assert p.grad.isfinite().all(), name
        assert p.grad.any(), name
    assert x.positions.grad.isfinite().all()
    assert x.positions.grad.any()


def test_gradient_of_the_frame_is_that_of_finite_differences(sample):
    x, c = some(sample, "small frame")[:4], make("small frame")
    loss = lambda: (c(x).x.positions ** 3).sum()  # noqa: E731
    weight = c.weights.weight
    loss().backward()
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        weight += 1e-6 * direction
        above = loss()
        weight -= 2e-6 * direction
        below = loss()
    assert float((above - below) / 2e-6) == pytest.approx(float((weight.grad * direction).sum()), rel=1e-5)


@pytest.mark.parametrize("kind", ["frozen frame", "small frozen frame"])
def test_frozen_frame_has_nothing_to_train(sample, kind):
    c = make(kind)
    assert len(list(c.parameters())) > 10
    assert not any(p.requires_grad for p in c.train().parameters())
    x = some(sample, kind)[:2]
    assert not c(x).x.positions.requires_grad


def test_frozen_and_learned_frames_start_the_same(sample):
    x = some(sample, "small frame")
    assert gap(make("small frame")(x).x, make("small frozen frame")(x).x).max() == 0


# -- by name --


@pytest.mark.parametrize("name", ["inertial", "frame", "spectral-pose", "spectral", "inertial-smiles"])
def test_large_batches_are_cut_by_pairs_of_atoms_and_give_the_same(sample, name, monkeypatch):
    x, h, seen = sample[:40].to(torch.float64).pad(31), canonicalizer(name), []
    with torch.no_grad():
        whole = h(x)
        monkeypatch.setattr(base, "PAIRS", 5_000)
        together = h.together
        monkeypatch.setattr(h, "together", lambda y: seen.append(y.mask.shape) or together(y))
        cut = h(x)
    assert len(seen) > 3
    assert max(B * N**2 for B, N in seen) <= 5_000
    sure = ~whole.ambiguous
    assert cut.ambiguous.equal(whole.ambiguous)
    assert cut.x.mask.equal(whole.x.mask)
    close = 1e-4 if name == "frame" else 1e-6  # its network computes in float32
    assert (cut.x.positions - whole.x.positions)[sure].abs().max() < close
    assert (cut.g - whole.g)[sure].abs().max() < close
    if whole.order is not None:
        assert cut.order.sort(1).values.equal(torch.arange(31).expand(40, -1))
        assert x.permute(cut.order).types[sure].equal(whole.x.types[sure])


def test_an_unknown_canonicalizer_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'nonsense': choose from identity, inertial, frame"):
        canonicalizer("nonsense")


def test_more_elements_than_the_frame_knows_are_refused():
    x = Molecules.from_list([np.eye(3)], [[1, 6, 17]], elements=("H", "C", "N", "O", "F", "Cl"))
    with pytest.raises(ValueError, match="not "):
        make("small frame", torch.float64)(x)


def test_gram_schmidt_keeps_the_first_direction_and_the_plane():
    a, b = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = gram_schmidt(a, b)
    assert (g.mT @ g - torch.eye(3)).abs().max() < 1e-12
    assert (torch.linalg.det(g) - 1).abs().max() < 1e-12
    in_frame = inverse(g) @ torch.stack([a, b], -1)  # [[|a|, b.v1], [0, > 0], [0, 0]]
    assert in_frame[:, 1:, 0].abs().max() < 1e-12
    assert in_frame[:, 2].abs().max() < 1e-12
    assert (in_frame[:, 0, 0] > 0).all()
    assert (in_frame[:, 1, 1] > 0).all()


# -- the certificate --


def test_certificate_passes_inertial_and_fails_identity(sample):
    x = sample[:200]
    good, bad = (certify(make(kind, torch.float32), x) for kind in ("inertial", "identity"))
    assert good.max_error < 1e-8
    assert bad.max_error > 1
    assert good.handed
    assert good.molecules == bad.molecules == 200
    assert 0 < good.ambiguous_share < 0.1
    assert bad.ambiguous_share == bad.jump_share == 0
    assert "max error" in str(good)
    assert "Å" in good._repr_html_()


@pytest.mark.parametrize("kind", ["small frame", "small frozen frame"])
def test_certificate_passes_frames(sample, kind):
    scored = certify(make(kind, torch.float32), sample[:100])
    assert scored.max_error < 1e-8
    assert scored.handed
    assert scored.jump_share < 0.1
    assert scored.dtype == "float64"
    assert certify(make(kind), sample[:100], dtype=torch.float32).max_error < 1e-3


class Reflecting(Inertial):
    """The mirror image of a chiral molecule is turned into it: a canonicalizer of O(3), not of SO(3)."""

    def pose(self, centred):
        g, ambiguous = super().pose(centred)
        pose = centred.positions @ g
        sign = torch.sign((pose[:, :, 2] ** 3).sum(1))
        return g * torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)[:, None], ambiguous


def test_certificate_notices_mirror_images_taken_for_one_another(sample):
    assert not certify(Reflecting(), sample[:100]).handed


class Placed(Inertial):
    """Invariant under rotations, not under translations."""

    def forward(self, x):
        pose = super().forward(x)
        away = torch.linalg.vector_norm(x.centroid(), dim=-1).expand(-1, 3)
        return dataclasses.replace(pose, x=pose.x.translate(away))


def test_certificate_notices_poses_that_depend_on_the_place(sample):
    assert certify(Placed(), sample[:100].centred()).max_error > 1


class Jumping(Inertial):
    """Invariant, and so sensitive that any noise turns the pose."""

    def pose(self, centred):
        g, ambiguous = super().pose(centred)
        angle = 1e4 * centred.positions.square().sum((1, 2)).round(decimals=6)
        zero, one = torch.zeros_like(angle), torch.ones_like(angle)
        turn = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one], -1)
        return g @ turn.unflatten(-1, (3, 3)), ambiguous


def test_certificate_counts_jumps(sample):
    assert certify(Jumping(), sample[:100]).jump_share > 0.7
    assert certify(make("inertial"), sample[:100]).jump_share < 0.1


@pytest.mark.parametrize("training", [True, False])
@dtypes
@pytest.mark.parametrize("tried_in", [torch.float64, torch.float32])
def test_certificate_leaves_the_canonicalizer_as_it_was(sample, training, dtype, tried_in):
    c = make("small frame", dtype).train(training)
    with torch.no_grad():
        c.weights.weight /= 3  # to the last digit of its precision
    before = {k: v.clone() for k, v in c.state_dict().items()}
    certify(c, sample[:10], dtype=tried_in)
    assert c.training == training
    for name, value in c.state_dict().items():
        assert value.dtype == dtype
        assert value.equal(before[name])


def test_certificate_leaves_the_canonicalizer_as_it_was_on_failure():
    c = make("small frame", torch.float32).train()
    with pytest.raises(ValueError, match="not Li"):
        certify(c, molecule([1, 3, 9, 17, 35, 53], np.eye(6, 3) + np.arange(6)[:, None]))
    assert c.training
    assert c.weights.weight.dtype == torch.float32
    with pytest.raises(ValueError, match="no data given"):
        certify(c, molecule(*PLANAR)[:0])


class FirstThree(Canonicalizer):
    """Equivariant, but the frame is that of the first atoms in the file."""

    def pose(self, centred):
        a, b = centred.positions[:, 0], centred.positions[:, 1]
        return gram_schmidt(a, b), torch.zeros(len(centred), dtype=torch.bool)


def test_a_pose_that_feels_the_order_of_atoms_is_found_out(sample):
    bad, good = (certify(h, sample[:100]) for h in (FirstThree(), canonicalizer("inertial")))
    assert bad.max_error < 1e-6
    assert bad.order_error > 1
    assert good.order_error < 1e-9
    assert certify(canonicalizer("spectral"), sample[:20]).order_error is None


def test_a_frame_knows_elements_by_name_whatever_table_the_molecules_have():
    positions, numbers = torch.randn(1, 5, 3), [[6, 7, 8, 1, 1]]
    frame = canonicalizer("frame", elements=("O", "C", "H", "S", "N"))
    poses = [
        frame(Molecules.from_arrays(positions, numbers, elements=table)).x.positions
        for table in (("H", "C", "N", "O", "F"), ("N", "O", "C", "H", "S"), ("O", "C", "H", "S", "N"))
    ]
    assert torch.equal(poses[0], poses[2])
    assert torch.equal(poses[1], poses[2])
    with pytest.raises(ValueError, match=r"this frame knows H, C, N, O, F, not S: .* elements=molecules.elements"):
        canonicalizer("frame")(Molecules.from_arrays(positions, [[6, 7, 16, 1, 1]], elements=("H", "C", "N", "S")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_frame_takes_positions_of_any_precision(sample, dtype):
    """Positions of half precision are canonicalized in float32."""
    x, h = sample[:1].trim().centred().to(dtype), canonicalizer("frame", elements=sample.elements)
    found = h(x).x.positions
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (found.double() - h(x.to(torch.float64)).x.positions).abs().max() < 1e-4
