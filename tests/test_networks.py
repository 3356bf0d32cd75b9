"""The package's networks against the plain form: facts as published, with every pair's features concatenated."""

import pytest
import torch
from torch.nn.functional import silu

from canonkit.groups import haar_orthogonal
from canonkit.networks import EGNN, GNN, MCEGNN, GraphEGNN, layers


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
        r = D.square().sum(-2)
        m = silu(mlp2(torch.cat([pairs(h), r], -1), layer.message.first, layer.message.second))
        A = mlp2(m, layer.mix[0], layer.mix[2]).tanh().reshape(n, n, net.channels, net.channels)
        X = X + ((D / ((r + 1e-8).sqrt() + 1)[:, :, None] @ A) * other[..., None]).sum(1) / n
        h = h + mlp2(torch.cat([h, (m * other).sum(1), h0], -1), layer.node[0], layer.node[2])
    return h, X


def plain_egnn(net, z, t):
    """One molecule, z (n, F), no padding."""
    x = start = z[:, :3]
    n = len(z)
    other = (1 - torch.eye(n, dtype=z.dtype))[..., None]
    h = linear(torch.cat([z[:, 3:], t.expand(n, 1)], -1), net.embed)

    def difference(x):
        d = x[:, None] - x[None]
        return d, d.square().sum(-1, keepdim=True)

    for layer in net.layers:
        d, squared = difference(x)
        e = torch.cat([squared, difference(start)[1]], -1)
        inner, outer = layer.nodes, layer.pairs
        m = silu(mlp2(torch.cat([pairs(h), e], -1), inner.message.first, inner.message.second))
        a = torch.sigmoid(linear(m, inner.attention)) * other
        h = h + mlp2(torch.cat([h, (a * m).sum(1)], -1), inner.node[0], inner.node[2])
        m = silu(mlp2(torch.cat([pairs(h), e], -1), outer.first, outer.second))
        x = x + (d / ((squared + 1e-8).sqrt() + 1) * 15 * torch.tanh(linear(m, layer.length)) * other).sum(1)
    moved = x - start
    return torch.cat([moved - moved.mean(0), linear(h, net.out)[:, :-1]], -1)


def gdm(dtype=torch.float32, width=32, layers=3):
    net = GNN(9, width, layers).to(dtype)
    return net, plain_gnn, lambda b, n: (torch.randn(b, n, 9, dtype=dtype), torch.rand(b, dtype=dtype))


def edm(dtype=torch.float32, width=32, layers=3):
    net = EGNN(9, width, layers).to(dtype)
    with torch.no_grad():
        for layer in net.layers:
            layer.length.weight *= 100  # the initial weights hardly move an atom
    return net, plain_egnn, lambda b, n: (torch.randn(b, n, 9, dtype=dtype), torch.rand(b, dtype=dtype))


def mc_egnn(dtype=torch.float32):
    net = MCEGNN(5, 16, 3, 4).to(dtype)
    with torch.no_grad():
        for layer in net.layers:
            layer.mix[-1].weight *= 100
    return net, plain_mc_egnn, lambda b, n: (torch.randn(b, n, 5, dtype=dtype), torch.randn(b, n, 3, dtype=dtype))


@pytest.mark.parametrize(("network", "parameters"), [(GNN, 3_555_859), (EGNN, 5_339_920)])
def test_at_paper_scale_a_network_has_the_published_number_of_parameters(network, parameters):
    assert sum(p.numel() for p in network(9, 256, 9).parameters()) == parameters


def apart(a, b):
    """|a - b| / |b| over lists of tensors."""
    a, b = (torch.cat([x.flatten() for x in xs]) for xs in (a, b))
    return (a - b).norm() / b.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", [[6, 6, 6], [6, 4, 2]], ids=["equal", "padded"])
@pytest.mark.parametrize("make", [gdm, edm, mc_egnn])
@pytest.mark.parametrize("chunk", [2**20, 1], ids=["at once", "one by one"])
def test_outputs_and_gradients_equal_the_plain_form(make, sizes, dtype, tolerance, chunk, monkeypatch):
    monkeypatch.setattr(layers, "CHUNK", chunk)
    torch.manual_seed(0)
    net, plain, draw = make(dtype)
    one, two = draw(3, 6)
    mask = torch.arange(6) < torch.tensor(sizes)[:, None]
    one = (one * mask[..., None]).requires_grad_()
    if two.ndim == 3:
        two = (two * mask[..., None]).requires_grad_()
    ours = net(one, two, None if mask.all() else mask)
    theirs = [plain(net, one[b, :n], two[b, :n] if two.ndim == 3 else two[b]) for b, n in enumerate(sizes)]
    if not isinstance(ours, tuple):
        ours, theirs = (ours,), [(x,) for x in theirs]
        assert not ours[0][~mask].any()
    ours = [part[b, :n] for b, n in enumerate(sizes) for part in ours]
    theirs = [part for parts in theirs for part in parts]
    assert apart(ours, theirs) < tolerance
    weights = [torch.randn_like(x) for x in theirs]
    inputs = [x for x in (one, two) if x.requires_grad]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(xs, weights, strict=True)), [*inputs, *net.parameters()])
        for xs in (ours, theirs)
    ]
    assert apart(gradients[0][: len(inputs)], gradients[1][: len(inputs)]) < tolerance
    assert apart(gradients[0][len(inputs) :], gradients[1][len(inputs) :]) < tolerance


@pytest.mark.parametrize("make", [gdm, edm])
def test_padding_changes_nothing(make):
    torch.manual_seed(0)
    net, _, draw = make(torch.float64)
    z, t = draw(2, 5)
    padded = torch.cat([z, torch.zeros(2, 3, 9, dtype=torch.float64)], 1)
    mask = torch.arange(8).expand(2, 8) < 5
    assert (net(padded, t, mask)[:, :5] - net(z, t)).abs().max() < 1e-12


@pytest.mark.parametrize("n", [1, 2, 7])
def test_edm_is_equivariant_under_rotations_reflections_and_permutations_and_blind_to_translations(n):
    torch.manual_seed(0)
    net, _, draw = edm(torch.float64)
    z, t = draw(8, n)
    g, v, order = haar_orthogonal(8, dtype=torch.float64), torch.randn(8, 1, 3).double(), torch.randperm(n)
    eps = net(z, t)
    turned = net(torch.cat([z[..., :3] @ g.mT + v, z[..., 3:]], -1)[:, order], t)
    assert (turned - torch.cat([eps[..., :3] @ g.mT, eps[..., 3:]], -1)[:, order]).abs().max() < 1e-11
    assert eps[..., :3].mean(1).abs().max() < 1e-14
    if n > 1:
        assert eps[..., :3].abs().max() > 0.1


def test_edm_survives_atoms_on_top_of_each_other():
    net, _, _ = edm()
    z = torch.zeros(1, 3, 9, requires_grad=True)
    out = net(z, torch.rand(1))
    out.sum().backward()
    assert out.isfinite().all()
    assert z.grad.isfinite().all()


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


@pytest.mark.parametrize("make", [gdm, edm])
def test_bfloat16_stays_within_its_rounding(make):
    torch.manual_seed(0)
    net, _, draw = make(width=64, layers=4)
    z, t = draw(4, 9)
    loss = [[], []]
    for gradient, net.fast_dtype in zip(loss, (None, torch.bfloat16), strict=True):
        out = net(z, t)
        gradient += [out, torch.cat([g.flatten() for g in torch.autograd.grad(out.square().sum(), net.parameters())])]
        assert out.dtype == torch.float32
    assert 1e-6 < apart(loss[1][:1], loss[0][:1]) < 2e-2
    assert 1e-6 < apart(loss[1][1:], loss[0][1:]) < 5e-2


@pytest.mark.parametrize("make", [gdm, edm])
def test_evaluation_without_gradients_gives_the_same(make):
    torch.manual_seed(0)
    net, _, draw = make()
    z, t = draw(4, 9)
    kept = net(z, t)
    with torch.no_grad():
        assert net(z, t).equal(kept)


def test_a_frozen_network_passes_gradients_on_to_its_input():
    torch.manual_seed(0)
    net, _, draw = gdm(torch.float64)
    z, t = draw(2, 5)
    z.requires_grad_()
    (all_trained,) = torch.autograd.grad(net(z, t).sum(), [z])
    net.requires_grad_(False)
    (frozen,) = torch.autograd.grad(net(z, t).sum(), [z])
    assert frozen.equal(all_trained)
    assert frozen.any()


def test_mc_egnn_s_vectors_stay_of_a_molecule_s_size_whatever_the_weights():
    torch.manual_seed(0)
    layers, channels = 6, 4
    net = MCEGNN(5, 16, layers, channels)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(30)
    x = 2 * torch.randn(8, 12, 3)
    _, X = net(torch.randn(8, 12, 5), x)
    moved = torch.linalg.vector_norm(X.detach() - x[..., None], dim=-2)
    assert float(moved.max()) <= layers * channels


def test_graph_egnn_turns_positions_with_its_input_and_leaves_kinds_and_bonds_alone():
    generator = torch.Generator().manual_seed(0)
    net = GraphEGNN(8, 16, 2).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    z = torch.randn(3, 6, 8, generator=generator, dtype=torch.float64)
    bonds = torch.randint(0, 6, (3, 6, 6), generator=generator).triu(1)
    bonds, mask = bonds + bonds.mT, torch.arange(6) < torch.tensor([[6], [5], [3]])
    t, g = torch.rand(3, generator=generator, dtype=torch.float64), haar_orthogonal(3, dtype=torch.float64)
    (out, logits), turned = net(z, t, mask, bonds), torch.cat([z[..., :3] @ g.mT, z[..., 3:]], -1)
    again, same = net(turned, t, mask, bonds)
    assert logits.std() > 0.01
    assert (out[..., :3] - z[..., :3])[mask].abs().max() > 0.01
    torch.testing.assert_close(again[..., :3], out[..., :3] @ g.mT, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again[..., 3:], out[..., 3:], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(same, logits, rtol=1e-9, atol=1e-9)
    assert logits.equal(logits.transpose(1, 2))
    order = torch.randperm(6, generator=generator)
    moved, _ = net(z[:1, order], t[:1], None, bonds[:1, order][:, :, order])
    torch.testing.assert_close(moved, out[:1, order], rtol=1e-9, atol=1e-9)
