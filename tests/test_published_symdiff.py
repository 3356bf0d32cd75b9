"""SymDiff's checkpoints: files of its layout, made by an independent form of the network."""

import math

import pytest
import torch
from torch import nn

import canonkit as ck
from canonkit.networks import symdiff
from canonkit.processes.diffusion import polynomial_schedule

PADDED = 29


class Named(nn.Module):
    """Modules by the authors' names."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Gaussians(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.means, self.stds = nn.Embedding(1, count), nn.Embedding(1, count)


def transformer(width, depth, outputs, **more):
    blocks = [
        Named(
            attn=Named(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
            mlp=Named(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(2 * width, width)),
            adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)),
        )
        for _ in range(depth)
    ]
    final = Named(
        linear=nn.Linear(width, outputs), adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
    )
    mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
    return Named(t_embedder=Named(mlp=mlp), blocks=nn.ModuleList(blocks), final_layer=final, **more)


def normed(h):
    centred = h - h.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def run_blocks(net, h, t, heads):
    """One molecule, h (n, W): every head written out."""
    W = h.shape[1]
    rates = torch.tensor([10000 ** (-k / 128) for k in range(128)], dtype=h.dtype)
    c = net.t_embedder.mlp(torch.cat([(t * rates).cos(), (t * rates).sin()]))
    for block in net.blocks:
        shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(c).split(W)
        q, k, v = block.attn.qkv(normed(h) * (1 + scale1) + shift1).split(W, dim=1)
        mixed = []
        for rows in torch.arange(W).split(W // heads):
            weights = (q[:, rows] @ k[:, rows].T / math.sqrt(W // heads)).softmax(1)
            mixed.append(weights @ v[:, rows])
        h = h + gate1 * block.attn.proj(torch.cat(mixed, 1))
        gate, value = block.mlp.fc1(normed(h) * (1 + scale2) + shift2).split(2 * W, dim=1)
        h = h + gate2 * block.mlp.fc2(gate / (1 + (-gate).exp()) * value)
    return h, c


class Released(nn.Module):
    """SymDiff, or its DiT, for one molecule padded to 29 atoms, row vectors throughout."""

    def __init__(self, symmetrised, width=384, depth=2, gaussians=10, encoder=128, hidden=12):
        super().__init__()
        self.symmetrised, self.heads = symmetrised, {384: 6, 768: 12}[width]
        self.gaussian_embedder = Gaussians(gaussians)
        self.xh_embedder, self.pos_embedder = nn.Linear(9, gaussians), nn.Linear(gaussians, width - gaussians)
        self.add_module("k" if symmetrised else "model", transformer(width, depth, 9))
        if symmetrised:
            embedder = nn.Linear(3 + 3 + width - gaussians, encoder)
            self.gamma_enc = transformer(encoder, depth, 0, x_embedder=embedder)
            self.gamma_dec = Named(fc1=nn.Linear(encoder, hidden), fc2=nn.Linear(hidden, 9))

    def near(self, x):
        n = len(x)
        features = torch.zeros(n, PADDED, self.pos_embedder.in_features, dtype=x.dtype)  # of padding zero
        s = self.gaussian_embedder.stds.weight[0].abs() + 0.01
        for i in range(n):
            for j in range(n):
                d = torch.dist(x[i], x[j])
                up = -(((d - self.gaussian_embedder.means.weight[0]) / s) ** 2) / 2
                features[i, j] = up.exp() / (math.sqrt(2 * math.pi) * s)
        return self.pos_embedder(features).sum(1) / n

    def backbone(self, z, t):
        net = self.k if self.symmetrised else self.model
        h = torch.cat([self.xh_embedder(z), self.near(z[:, :3])], 1)
        h, c = run_blocks(net, h, t, self.heads)
        shift, scale = net.final_layer.adaLN_modulation(c).chunk(2)
        eps = net.final_layer.linear(normed(h) * (1 + scale) + shift)
        return torch.cat([eps[:, :3] - eps[:, :3].mean(0), eps[:, 3:]], 1)

    def forward(self, z, t, first=None, eta=None):
        if not self.symmetrised:
            return self.backbone(z, t)
        y = z[:, :3] @ first
        h = self.gamma_enc.x_embedder(torch.cat([y, eta, self.near(y)], 1))
        mean = run_blocks(self.gamma_enc, h, t, 4)[0].mean(0)
        matrix = self.gamma_dec.fc2(nn.functional.gelu(self.gamma_dec.fc1(mean))).view(3, 3)
        q, r = torch.linalg.qr(matrix.T)
        turn = (q * r.diagonal().sign()).T @ first.T
        out = self.backbone(torch.cat([z[:, :3] @ turn, z[:, 3:]], 1), t)
        return torch.cat([out[:, :3] @ turn.T, out[:, 3:]], 1)


def checkpoint(folder, symmetrised=True, more=None, **sizes):
    torch.manual_seed(0)
    net = Released(symmetrised, **sizes)
    for p in net.parameters():
        p.data = torch.randn_like(p) / max(1, p.shape[-1]) ** 0.5
    state = {f"dynamics.{k}": v for k, v in net.state_dict().items()}
    folder.mkdir(exist_ok=True)
    torch.save(
        state | {"gamma.gamma": polynomial_schedule().float(), "buffer": torch.zeros(1)} | (more or {}),
        folder / "generative_model_ema.npy",
    )
    return net.double()


class Fixed(nn.Module):
    def __init__(self, R):
        super().__init__()
        self.R = R

    def forward(self, z, t, mask=None):
        return self.R.expand(len(z), 3, 3)


@pytest.mark.parametrize("symmetrised", [True, False], ids=["SymDiff", "DiT"])
def test_a_checkpoint_gives_the_outputs_of_an_independent_implementation(tmp_path, symmetrised, qm9, monkeypatch):
    net = checkpoint(tmp_path, symmetrised)
    run = ck.load(str(tmp_path), published="symdiff")
    assert run.recipe.name == ("SymDiff" if symmetrised else "DiT")
    assert run.recipe.network_settings == {"gaussians": 10, "width": 384, "depth": 2, "heads": 6}
    assert run.recipe.reflections is None
    ours = run.model.network.double()
    first = ck.groups.haar_orthogonal(1, dtype=torch.float64)[0]
    if symmetrised:
        ours.kernel.first = Fixed(first)
    for n in (2, 5, 9):
        z, eta = torch.randn(n, 9).double(), torch.randn(n, 3).double()
        z[:, :3] = 2 * (z[:, :3] - z[:, :3].mean(0))
        monkeypatch.setattr(symdiff, "for_batch", lambda draw, count, eta=eta: eta[None])
        t = torch.rand(1).double()
        expected = net(z, t, first, eta).detach()
        found = ours(z[None], t)[0].detach()
        found[:, :3] -= found[:, :3].mean(0)  # as the process does
        assert expected.abs().max() > 0.1
        assert (found - expected).abs().max() < 1e-6


def test_a_checkpoint_is_sampled_and_only_qm9_s_networks_of_published_widths_are_read(tmp_path, qm9):
    checkpoint(tmp_path, depth=1)
    assert len(ck.load(str(tmp_path), published="symdiff").sample(2, 3, seed=0)) == 2
    path = tmp_path / "generative_model_ema.npy"
    whole = torch.load(path, weights_only=True)

    def refused(changed, said):
        torch.save({k: v for k, v in (whole | changed).items() if v is not None}, path)
        with pytest.raises(ValueError, match=said):
            ck.load(str(tmp_path), published="symdiff")

    refused({"dynamics.xh_embedder.weight": None}, "holds no network of SymDiff")
    refused({"dynamics.xh_embedder.weight": torch.zeros(10, 8)}, "takes 8 features per atom, QM9's SymDiff 9")
    refused({"dynamics.extra.weight": torch.zeros(1)}, r"dynamics\.extra\.weight has no place")
    refused({"dynamics.gamma_dec.fc2.bias": None}, r"has no dynamics\.gamma_dec\.fc2\.bias")
    refused({"dynamics.gamma_dec.fc2.bias": torch.zeros(8)}, "does not fit SymDiff's network")
    refused({"gamma.gamma": polynomial_schedule().float() + 1}, "another noise schedule")
    refused({"dynamics.k.final_layer.linear.weight": torch.zeros(9, 100)}, "k has width 100, and heads are known of")
    torch.save(whole, path)
    with pytest.raises(ValueError, match="holds no EGNN of EDM"):
        ck.load(str(tmp_path), published="edm")
