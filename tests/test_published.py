"""Published checkpoints: files of their layout, made by an independent form of the network."""

import pickle

import pytest
import torch
from torch import nn

import canonkit as ck
from canonkit.processes.diffusion import polynomial_schedule


class Block(nn.Module):
    """One block of EDM's EGNN, all pairs of real atoms written out, parameters called as in the authors' code."""

    def __init__(self, width):
        super().__init__()
        pair = 2 * width + 2
        self.gcl_0, self.gcl_equiv = nn.Module(), nn.Module()
        self.gcl_0.edge_mlp = nn.Sequential(nn.Linear(pair, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.gcl_0.node_mlp = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.gcl_0.att_mlp = nn.Sequential(nn.Linear(width, 1), nn.Sigmoid())
        last = nn.Linear(width, 1, bias=False)
        self.gcl_equiv.coord_mlp = nn.Sequential(
            nn.Linear(pair, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last
        )

    def forward(self, h, x, start):
        n = len(x)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]

        def edge(i, j):
            return torch.stack([(x[i] - x[j]).square().sum(), (start[i] - start[j]).square().sum()])

        received = [torch.zeros_like(h[0]) for _ in range(n)]
        for i, j in pairs:
            m = self.gcl_0.edge_mlp(torch.cat([h[i], h[j], edge(i, j)]))
            received[i] = received[i] + self.gcl_0.att_mlp(m) * m
        h = h + self.gcl_0.node_mlp(torch.cat([h, torch.stack(received)], 1))
        moves = [torch.zeros(3, dtype=x.dtype) for _ in range(n)]
        for i, j in pairs:
            d = x[i] - x[j]
            length = 15 * torch.tanh(self.gcl_equiv.coord_mlp(torch.cat([h[i], h[j], edge(i, j)])))
            moves[i] = moves[i] + d / ((d.square().sum() + 1e-8).sqrt() + 1) * length
        return h, x + torch.stack(moves)


class Egnn(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.embedding, self.embedding_out = nn.Linear(7, width), nn.Linear(width, 7)
        self.blocks = [Block(width) for _ in range(layers)]
        for k, block in enumerate(self.blocks):
            self.add_module(f"e_block_{k}", block)

    def forward(self, z, t):
        x = start = z[:, :3]
        h = self.embedding(torch.cat([z[:, 3:], t.expand(len(z), 1)], 1))
        for block in self.blocks:
            h, x = block(h, x, start)
        moved = x - start
        return torch.cat([moved - moved.mean(0), self.embedding_out(h)[:, :-1]], 1)


def checkpoint(folder, width=16, layers=2, name="generative_model_ema.npy", prefix="", **more):
    torch.manual_seed(0)
    net = Egnn(width, layers)
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    state = {f"{prefix}dynamics.egnn.{k}": v for k, v in net.state_dict().items()}
    state |= {f"{prefix}gamma.gamma": polynomial_schedule().float(), f"{prefix}buffer": torch.zeros(1)} | more
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / name)
    return net


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_edm_checkpoint_gives_the_outputs_of_an_independent_implementation(tmp_path, prefix, qm9):
    net = checkpoint(tmp_path / "edm_qm9", prefix=prefix)
    run = ck.load(str(tmp_path / "edm_qm9"), published="edm")
    assert run.recipe.name == "EDM"
    assert run.recipe.network_settings == {"width": 16, "layers": 2}
    ours = run.model.network.double()
    for n in (2, 5, 9):
        z = torch.randn(n, 9, dtype=torch.float64)
        z[:, :3] -= z[:, :3].mean(0)
        t = torch.rand(1, dtype=torch.float64)
        expected = net.double()(z, t)
        assert float((ours(z[None], t)[0] - expected).detach().abs().max()) < 1e-6
    run.model.network.float()
    assert len(run.sample(2, 3, seed=0)) == 2


def test_the_averaged_weights_are_read_where_there_are_both(tmp_path, qm9):
    checkpoint(tmp_path, width=8, name="generative_model.npy")
    assert ck.load(str(tmp_path), published="edm").recipe.network_settings["width"] == 8
    checkpoint(tmp_path, width=16)
    assert ck.load(str(tmp_path), published="edm").recipe.network_settings["width"] == 16


class Harm:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_nothing_but_tensors_is_read(tmp_path, qm9):
    with pytest.raises(FileNotFoundError, match=r"give EDM's folder, or its generative_model_ema\.npy"):
        ck.load(str(tmp_path), published="edm")
    with pytest.raises(ValueError, match="published='emd' is not known"):
        ck.load(str(tmp_path), published="emd")
    path = tmp_path / "generative_model_ema.npy"
    torch.save({"a": Harm()}, path)
    with pytest.raises(ValueError, match="is no file of tensors"):
        ck.load(str(tmp_path), published="edm")
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="is no file of tensors"):
        ck.load(str(path), published="edm")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is no file of tensors"):
        ck.load(str(path), published="edm")
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="not a dictionary of tensors"):
        ck.load(str(path), published="edm")
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"holds no EGNN of EDM"):
        ck.load(str(path), published="edm")
    checkpoint(tmp_path, **{"gamma.gamma": polynomial_schedule().float() + 1})
    with pytest.raises(ValueError, match="another noise schedule"):
        ck.load(str(path), published="edm")
    checkpoint(tmp_path, **{"dynamics.egnn.e_block_0.gcl_1.edge_mlp.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="has no place in EDM's EGNN"):
        ck.load(str(path), published="edm")
