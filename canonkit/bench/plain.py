r"""The networks as the public implementations run them: what `canonkit bench` measures against, and nothing else uses.

Every molecule is padded to one length and stands as N^2 directed edges (i, j), masked afterwards. An edge MLP reads the
concatenation of both atoms' gathered features and its own; messages are summed by scatter. Modules and weights are
those of `canonkit.networks`, so that both sides compute the same numbers. The transformer pads and masks likewise.
"""

# pyright: reportArgumentType=false

import torch
from torch import Tensor
from torch.nn.functional import silu

from canonkit.networks import EGNN, GNN, MCEGNN, DiT
from canonkit.networks.dit import DISTANCES, FARTHEST, TIME_WIDTH
from canonkit.networks.layers import PairMLP
from canonkit.networks.time import time_features


class Edges:
    """All pairs of each molecule's padded atoms: rows i and columns j of the flattened atoms, and which are real."""

    def __init__(self, mask: Tensor):
        B, N = mask.shape
        atom = torch.arange(B * N, device=mask.device).view(B, N)
        self.i = atom[:, :, None].expand(B, N, N).reshape(-1)
        self.j = atom[:, None].expand(B, N, N).reshape(-1)
        other = ~torch.eye(N, dtype=torch.bool, device=mask.device)
        self.mask = (mask[:, :, None] & mask[:, None] & other).reshape(-1, 1).float()
        self.nodes = mask.reshape(-1, 1).float()

    def sum(self, m: Tensor) -> Tensor:
        """sum_j m_ij, (E, ...) -> (B N, ...)."""
        index = self.i.view(-1, *[1] * (m.ndim - 1)).expand_as(m)
        return m.new_zeros(len(self.nodes), *m.shape[1:]).scatter_add_(0, index, m)


def _message(mlp: PairMLP, h: Tensor, e: Tensor | None, edges: Edges) -> Tensor:
    pair = torch.cat([h[edges.i], h[edges.j]] + ([] if e is None else [e]), dim=1)
    return silu(mlp.second(silu(mlp.first(pair))))


def _attentive(layer, h: Tensor, e: Tensor | None, edges: Edges) -> Tensor:
    m = _message(layer.message, h, e, edges)
    summed = edges.sum(m * torch.sigmoid(layer.attention(m)) * edges.mask)
    return (h + torch.nn.Sequential.forward(layer.node, torch.cat([h, summed], dim=1))) * edges.nodes


def _with_time(features: Tensor, t: Tensor) -> Tensor:
    return torch.cat([features, t[:, None, None].expand(*features.shape[:2], 1)], dim=-1).flatten(0, 1)


def gnn(net: GNN, z: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """GDM's network; shapes as in `GNN.forward`."""
    edges = Edges(mask)
    h = net.embed(_with_time(z, t))
    for layer in net.layers:
        h = _attentive(layer, h, None, edges)
    return (net.out(h) * edges.nodes)[:, :-1].view_as(z)


def egnn(net: EGNN, z: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """EDM's network; shapes as in `EGNN.forward`."""
    edges = Edges(mask)
    x = start = z[..., :3].flatten(0, 1)
    h = net.embed(_with_time(z[..., 3:], t))
    d_start = (start[edges.i] - start[edges.j]).square().sum(1, keepdim=True)
    for layer in net.layers:
        d = x[edges.i] - x[edges.j]
        squared = d.square().sum(1, keepdim=True)
        e = torch.cat([squared, d_start], dim=1)
        h = _attentive(layer.nodes, h, e, edges)
        length = 15 * torch.tanh(layer.length(_message(layer.pairs, h, e, edges)))
        x = x + edges.sum(d / ((squared + 1e-8).sqrt() + 1) * length * edges.mask)
    moved = ((x - start) * edges.nodes).view_as(z[..., :3])
    moved = (moved - moved.sum(1, keepdim=True) / mask.sum(1)[:, None, None]) * mask[..., None]
    return torch.cat([moved, (net.out(h) * edges.nodes)[:, :-1].view_as(z[..., 3:])], dim=-1)


def mc_egnn(net: MCEGNN, h: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The canonicalizer's network; shapes as in `MCEGNN.forward`."""
    edges, C = Edges(mask), net.channels
    B, N, _ = x.shape
    n = mask.sum(1).repeat_interleave(N)[:, None, None]
    h = h0 = net.embed(h.flatten(0, 1))
    X = x.flatten(0, 1)[..., None].expand(-1, -1, C)
    for layer in net.layers:
        D = X[edges.i] - X[edges.j]
        r = D.square().sum(1)
        m = _message(layer.message, h, r, edges) * edges.mask
        D = D / ((r + 1e-8).sqrt() + 1)[:, None]
        X = X + edges.sum((D @ layer.mix(m).tanh().view(-1, C, C)) * edges.mask[..., None]) / n
        update = torch.nn.Sequential.forward(layer.node, torch.cat([h, edges.sum(m), h0], dim=1))
        h = (h + update) * edges.nodes
    return h.view(B, N, -1), X.view(B, N, 3, C)


def dit(net: DiT, z: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """SymDiff's network, every pair's distance through the linear layer, attention written out; as `DiT.forward`."""
    trunk = net.transformer
    B, N, _ = z.shape
    d = torch.cdist(z[..., :3], z[..., :3], compute_mode="donot_use_mm_for_euclid_dist")
    centres = torch.linspace(0, FARTHEST, DISTANCES, dtype=z.dtype, device=z.device)
    pairs = trunk.distances(torch.exp(-0.5 * ((d[..., None] - centres) / centres[1]).square()))
    other = (mask[:, None] & ~torch.eye(N, dtype=torch.bool, device=mask.device)).to(z.dtype)
    mean = (pairs * other[..., None]).sum(2) / other.sum(2, keepdim=True).clamp(min=1)
    h = torch.cat([trunk.atoms(z), mean], dim=-1)
    e = trunk.time(time_features(t, TIME_WIDTH).to(z.dtype))

    def norm(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    for block in trunk.blocks:
        c1, b1, a1, c2, b2, a2 = block.modulation(e)[:, None].chunk(6, dim=-1)
        qkv = block.inputs((1 + c1) * norm(h) + b1).chunk(3, dim=-1)
        q, k, v = (x.view(B, N, block.heads, -1).transpose(1, 2) for x in qkv)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask[:, None, None], -torch.inf)
        h = h + a1 * block.output((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, N, -1))
        gate, value = block.up((1 + c2) * norm(h) + b2).chunk(2, dim=-1)
        h = h + a2 * block.down(silu(gate) * value)
    c, b = trunk.modulation(e)[:, None].chunk(2, dim=-1)
    return net.out((1 + c) * norm(h) + b) * mask[..., None]
