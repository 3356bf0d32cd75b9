"""Canonicalizers of images: what the group promises, and what pixels leave of it."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import rotate as scipy_rotate

from canonkit.canonicalizers import GCNN, Copies, Identity, canonicalizer
from canonkit.certificates import certify
from canonkit.groups import disk, rotate

KINDS = {"gcnn": lambda **options: GCNN(8, 4, **options), "copies": lambda **options: Copies(8, 4, **options)}
each_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind, **options):
    torch.manual_seed(0)
    return KINDS[kind](**options).eval()


@pytest.fixture(scope="module")
def digits(rotmnist_small):
    return rotmnist_small.part("test")[:64]


# -- the action -------------------------------------------------------------------------------------------------------


@given(st.integers(-5, 9))
def test_quarter_turns_only_move_pixels(k):
    x = torch.rand(3, 1, 6, 6)
    assert torch.equal(rotate(x, 90.0 * k), torch.rot90(x, k, (-2, -1)))


def test_other_turns_are_those_of_scipy():
    x = torch.rand(1, 1, 28, 28, dtype=torch.float64)
    theirs = scipy_rotate(x[0, 0].numpy(), 20, reshape=False, order=1)
    gap = (rotate(x, 20.0)[0, 0] - torch.from_numpy(theirs)).abs()
    assert gap[4:-4, 4:-4].max() < 1e-12


@given(st.floats(-720, 720), st.floats(-720, 720))
def test_turning_is_an_action_of_the_circle(a, b):
    place = torch.linspace(-1, 1, 28, dtype=torch.float64)
    blob = torch.exp(-8 * ((place[:, None] - 0.2) ** 2 + (place - 0.1) ** 2))[None, None]
    assert (rotate(rotate(blob, a), b) - rotate(blob, a + b)).abs().max() < 0.04


def test_the_derivative_with_respect_to_the_angle_is_that_of_a_difference():
    place = torch.linspace(-1, 1, 28, dtype=torch.float64)
    blob = torch.exp(-8 * ((place[:, None] - 0.3) ** 2 + place**2))[None, None]
    weight = torch.sin(3 * place[:, None] + 1) * torch.cos(2 * place + 0.7)
    for degrees in (0.0, 22.5, 90.0, 200.0):
        angle = torch.tensor([degrees], dtype=torch.float64, requires_grad=True)
        (rotate(blob, angle) * weight).sum().backward()
        nearby = [(rotate(blob, degrees + e) * weight).sum() for e in (-0.5, 0.5)]
        assert float(angle.grad) == pytest.approx(float(nearby[1] - nearby[0]), rel=0.15)


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 5\)"):
        rotate(torch.zeros(1, 1, 4, 5), 90.0)


def test_the_disk_is_round():
    assert torch.equal(disk(28), torch.rot90(disk(28)))
    assert float(disk(28).mean()) == pytest.approx(torch.pi / 4, abs=0.01)


# -- canonicalizers ---------------------------------------------------------------------------------------------------


@each_kind
def test_quarter_turns_shift_the_activations_and_leave_the_canonical_image_bit_for_bit(kind, digits):
    h = made(kind)
    with torch.no_grad():
        c = h(digits)
        for q in (1, 2, 3):
            turned = rotate(digits, 90.0 * q)
            shifted = h.activations(digits * disk(28)).roll(2 * q, 1)
            assert (h.activations(turned * disk(28)) - shifted).abs().max() < 1e-5
            other = h(turned)
            clear = ~(c.ambiguous | other.ambiguous)
            assert torch.equal(other.g[clear], (c.g[clear] + 2 * q) % 8)
            assert torch.equal(other.x[clear], c.x[clear])


@each_kind
def test_a_turn_by_one_element_is_mostly_followed(kind, digits):
    h = made(kind)
    with torch.no_grad():
        followed = h(rotate(digits, 45.0)).g == (h(digits).g + 1) % 8
    assert followed.float().mean() > 0.5  # by chance 1/8


@each_kind
def test_the_canonical_image_is_the_image_turned_back_without_its_corners(kind, digits):
    h = made(kind)
    with torch.no_grad():
        c = h(digits)
    assert torch.equal(c.x, rotate(digits * disk(28), -45.0 * c.g))


@each_kind
def test_the_gradient_goes_straight_through_the_choice(kind, digits):
    h = made(kind)
    h(digits[:8]).x.square().sum().backward()
    assert all(p.grad is not None for p in h.parameters())
    assert any(float(p.grad.abs().max()) > 0 for p in h.parameters())


@each_kind
def test_frozen_means_random_weights_in_eval_mode_that_nothing_trains(kind, digits):
    h = made(kind, frozen=True).train()
    assert not any(p.requires_grad for p in h.parameters())
    assert not any(m.training for m in h.modules())
    assert torch.equal(h(digits).x, made(kind).eval()(digits).x)


@each_kind
def test_a_blank_or_round_image_is_ambiguous(kind):
    place = torch.arange(28) - 13.5
    ring = torch.exp(-((place[:, None] ** 2 + place**2).sqrt() - 7).square() / 8)
    c = made(kind)(torch.stack([torch.zeros(28, 28), ring])[:, None])
    assert bool(c.ambiguous[0])


@each_kind
def test_bad_shapes_are_refused(kind):
    for shape in ((2, 28, 28), (2, 3, 28, 28), (2, 1, 28, 20)):
        with pytest.raises(ValueError, match=r"images of shape"):
            made(kind)(torch.zeros(shape))


def test_orders_without_quarter_turns_and_small_images_are_refused():
    with pytest.raises(ValueError, match="order 6 is not a multiple of 4"):
        Copies(6)
    with pytest.raises(ValueError, match="too small for 5 convolutions of 5"):
        made("gcnn")(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="choose from .*gcnn16.*copies8"):
        canonicalizer("gcnn")


def test_the_g_cnn_is_escnn_s_with_the_same_weights(digits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from escnn import gspaces
        from escnn import nn as enn

        torch.manual_seed(1)
        h = GCNN(8, 3, layers=3).double()
        for norm in h.norms:
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.uniform_(-0.5, 0.5)
        space = gspaces.rot2dOnR2(8)
        now = entry = enn.FieldType(space, [space.trivial_repr])
        regular = enn.FieldType(space, [space.regular_repr] * 3)
        layers = []
        for k in range(3):
            conv = enn.R2Conv(now, regular, 5, initialize=False)
            conv.weights.data = h.weights[k].data.flatten().clone()
            conv.bias.data = h.bias[k].data * 8**0.5  # its bias is a coefficient of the trivial part of the regular one
            layers.append(conv)
            if k < 2:
                norm = enn.InnerBatchNorm(regular, momentum=0.9)
                inner = next(m for m in norm.modules() if isinstance(m, torch.nn.BatchNorm3d))
                inner.weight.data, inner.bias.data = h.norms[k].weight.data.clone(), h.norms[k].bias.data.clone()
                layers += [norm, enn.ReLU(regular)]
            now = regular
        theirs = enn.SequentialModule(*layers).double().eval()
        x = digits[:4].double()
        out = theirs(enn.GeometricTensor(x, entry)).tensor.unflatten(1, (3, 8)).mean((1, 3, 4))
    assert (h.eval().activations(x) - out).abs().max() < 1e-6  # escnn's basis is float32


def test_only_what_is_learned_is_saved():
    h = GCNN(16, 8)
    assert sum(v.numel() for v in h.state_dict().values()) < 1.01 * sum(p.numel() for p in h.parameters())
    again = GCNN(16, 8)
    again.load_state_dict(h.state_dict())
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(again.eval()(x).x, h.eval()(x).x)


def test_the_identity_leaves_images_as_they_are(digits):
    c = Identity()(digits)
    assert c.x is digits
    assert c.g.tolist() == [0] * len(digits)


# -- the certificate --------------------------------------------------------------------------------------------------


def test_the_certificate_finds_quarter_turns_exact_and_others_within_interpolation(digits):
    found = certify(made("copies"), digits, dtype=torch.float32)
    assert (found.images, found.order) == (64, 8)
    assert (found.quarter_share, found.quarter_error) == (1.0, 0.0)
    assert 0.5 < found.followed_share <= 1
    assert found.pixel_error < found.interpolation_error < found.pixel_error_all
    assert "followed share" in str(found)
    assert "followed share" in found._repr_html_()


def test_the_certificate_finds_out_what_is_no_canonicalizer(digits):
    class Brightness(Copies):
        def activations(self, x):  # depends on the pose by chance alone
            return torch.sin(1e3 * x.flatten(1)[:, : 8 * 90].unflatten(1, (8, 90)).sum(-1))

    found = certify(Brightness(8), digits, dtype=torch.float32)
    assert found.followed_share < 0.4
    assert found.quarter_share < 0.4


def test_data_must_suit_the_canonicalizer(digits, sample):
    with pytest.raises(ValueError, match="Copies is for images, and these are molecules"):
        certify(made("copies"), sample[:2])
    with pytest.raises(ValueError, match="Identity is for molecules, and these are images"):
        certify(Identity(), digits)


def test_an_arbitrary_turn_has_nothing_to_do_with_the_pose(digits):
    h = canonicalizer("arbitrary8").eval()
    followed = (h(rotate(digits, 90.0)).g == (h(digits).g + 2) % 8).float().mean()
    assert followed < 0.3
    assert torch.equal(h(digits).g, h(digits).g)
    assert len(h(digits).g.unique()) == 8
