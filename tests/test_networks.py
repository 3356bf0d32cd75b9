"""The package's networks against the plain form: facts as published, with every pair's features concatenated."""

import pytest
import torch
from torch.nn.functional import silu

from canonkit.groups import haar_orthogonal
from canonkit.networks import GNN, MCEGNN


def linear(x, layer):
    return x @ layer.weight.T + (layer.bias if layer.bias is not None else 0)


def mlp2(x, first, second):
    return linear(silu(linear(x, first)), second)


def pairs(h):
    n = h.shape[0]
    return torch.cat([h[:, None].expand(n, n, -1), h[None].expand(n, n, -1)], -1)


def plain_gnn(net, z, t):
    """One molecule, z (n, F), no padding."""
    h = linear(torch.cat([z, t.expand(len(z), 1)], -1), net.embed)
    for layer in net.layers:
        m = silu(mlp2(pairs(h), layer.message.first, layer.message.second))
        a = torch.sigmoid(linear(m, layer.attention)) * (1 - torch.eye(len(z), dtype=z.dtype))[..., None]
        h = h + mlp2(torch.cat([h, (a * m).sum(1)], -1), layer.node[0], layer.node[2])
    return linear(h, net.out)[:, :-1]


def plain_mc_egnn(net, h, x):
    h = h0 = linear(h, net.embed)
    X = x[..., None].repeat(1, 1, net.channels)
    n = len(x)
    other = (1 - torch.eye(n, dtype=x.dtype))[..., None]
    for layer in net.layers:
        D = X[:, None] - X[None]
        m = silu(mlp2(torch.cat([pairs(h), D.square().sum(-2)], -1), layer.message.first, layer.message.second))
        A = mlp2(m, layer.mix[0], layer.mix[2]).reshape(n, n, net.channels, net.channels)
        X = X + ((D @ A) * other[..., None]).sum(1) / n
        h = h + mlp2(torch.cat([h, (m * other).sum(1), h0], -1), layer.node[0], layer.node[2])
    return h, X


def test_gdm_at_paper_scale_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in GNN(9, 256, 9).parameters()) == 3_555_859


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("padded", [False, True])
def test_gnn_and_its_gradients_equal_the_plain_form(dtype, tolerance, padded):
    torch.manual_seed(0)
    net = GNN(9, 32, 3).to(dtype)
    z, t = torch.randn(2, 7, 9, dtype=dtype), torch.rand(2, dtype=dtype)
    z[1, 5:] = 0
    sizes = [7, 5] if padded else [7, 7]
    mask = torch.arange(7) < torch.tensor(sizes)[:, None] if padded else None
    ours = net(z, t, mask)
    plain = torch.stack(
        [torch.cat([plain_gnn(net, z[b, :n], t[b]), torch.zeros(7 - n, 9, dtype=dtype)]) for b, n in enumerate(sizes)]
    )
    assert (ours - plain).norm() / plain.norm() < tolerance
    weight = torch.randn_like(plain)
    for loss in (ours, plain):
        (loss * weight).sum().backward(retain_graph=True)
        grads = torch.cat([p.grad.flatten() for p in net.parameters()])
        net.zero_grad()
        if loss is ours:
            first = grads
    assert (first - grads).norm() / grads.norm() < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("padded", [False, True])
def test_mc_egnn_equals_the_plain_form(dtype, tolerance, padded):
    torch.manual_seed(0)
    net = MCEGNN(5, 16, 3, 4).to(dtype)
    h, x = torch.randn(2, 6, 5, dtype=dtype), torch.randn(2, 6, 3, dtype=dtype)
    sizes = [6, 4] if padded else [6, 6]
    mask = torch.arange(6) < torch.tensor(sizes)[:, None] if padded else None
    if padded:
        x[1, 4:] = 0
    ours = net(h, x, mask)
    for b, n in enumerate(sizes):
        for one, plain in zip(ours, plain_mc_egnn(net, h[b, :n], x[b, :n]), strict=True):
            assert (one[b, :n] - plain).norm() / plain.norm() < tolerance


def test_mc_egnn_is_equivariant_under_rotations_and_reflections():
    torch.manual_seed(0)
    net = MCEGNN(5, 16, 3, 4).double()
    h, x, g = torch.randn(8, 6, 5).double(), torch.randn(8, 6, 3).double(), haar_orthogonal(8, dtype=torch.float64)
    features, vectors = net(h, x)
    turned_features, turned = net(h, x @ g.mT)
    assert (turned_features - features).abs().max() < 1e-12
    assert (turned - torch.einsum("bxy,bnyc->bnxc", g, vectors)).abs().max() < 1e-12


def test_gnn_is_equivariant_under_permutations():
    torch.manual_seed(0)
    net = GNN(9, 16, 2).double()
    z, t, order = torch.randn(2, 6, 9).double(), torch.rand(2).double(), torch.randperm(6)
    assert (net(z[:, order], t) - net(z, t)[:, order]).abs().max() < 1e-12


def test_bfloat16_pairs_stay_within_the_rounding_of_bfloat16():
    torch.manual_seed(0)
    net = GNN(9, 64, 4)
    z, t = torch.randn(4, 9, 9), torch.rand(4)
    exact = net(z, t)
    net.pair_dtype = torch.bfloat16
    assert 1e-6 < (net(z, t) - exact).norm() / exact.norm() < 1e-2
