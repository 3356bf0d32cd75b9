"""The scale `published`: networks and settings of the code released with the papers."""

import math
from pathlib import Path

import pytest
import torch
from conftest import COUNTS, lively
from test_networks import linear, mlp2, pairs
from torch.nn.functional import silu

from canonkit.molecules import Molecules
from canonkit.networks import GNN, GaussianDiT, PositionTurn
from canonkit.networks.symdiff import PADDED, Distances
from canonkit.recipes.names import SYSTEMS, recipe
from canonkit.recipes.recipe import Recipe
from canonkit.training import Settings
from canonkit.training.optimizers import make_optimizers

PARAMETERS = {
    "GDM": 3_555_859,
    "EDM": 5_339_920,
    "canon(fr)+GDM": 3_555_859,
    "canon+GDM": 3_555_859,
    "DiT": 28_965_553,
    "DiT-Aug": 28_965_553,
    "SymDiff": 31_195_834,
    "SymDiff*": 123_309_408,
    "UNet": 1_084_897,
}


def on_meta(name, scale="published"):
    """The model without memory for its weights."""
    with torch.device("meta"):
        return recipe(name, scale).build(torch.ones(30))


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_as_many_parameters_as_the_released_one(name):
    assert sum(p.numel() for p in on_meta(name).network.parameters()) == PARAMETERS[name]
    chosen = recipe(name, "published")
    assert Recipe.from_card(chosen.card("0" * 64, 1, COUNTS)).network_settings == chosen.network_settings


def test_only_what_was_released_has_a_published_scale():
    for name in ("CanonFlow", "Flow-DiT", "GDM-heavy", "SymDiff-heavy"):
        with pytest.raises(ValueError, match=r"has no published scale: choose laptop or paper"):
            recipe(name, "published")
    with pytest.raises(ValueError, match="choose paper or published"):
        recipe("SymDiff*")


def test_frozen_is_what_it_says_at_paper_scale_and_what_was_done_at_published_scale():
    paper, published = (recipe("canon(fr)+GDM", scale) for scale in ("paper", "published"))
    assert not paper.build(COUNTS).learned
    assert published.build(COUNTS).learned
    assert published.settings.canonicalizer_lr == published.settings.lr == 1e-4
    assert recipe("canon+GDM", "published").settings.canonicalizer_lr == 1e-6


def test_published_and_paper_recipes_train_in_float32_for_the_published_number_of_steps():
    steps = {"GDM": 4_689_000, "EDM": 4_689_000, "SymDiff": 1_700_850, "UNet": 79_000, "CanonFlow": None}
    for name, count in steps.items():
        for scale in ("paper",) if count is None else ("paper", "published"):
            assert recipe(name, scale).steps == count
    for name in SYSTEMS:
        for scale in ("paper", "published"):
            try:
                chosen = recipe(name, scale)
            except ValueError:
                continue
            assert chosen.settings.precision == "float32" or SYSTEMS[name].flow
    assert recipe("GDM").steps is None


@pytest.mark.parametrize(("scale", "sides"), [("paper", {1.0}), ("published", {-1.0, 1.0})])
def test_the_augmentation_of_dit_aug_mirrors_as_released(scale, sides):
    space = on_meta("DiT-Aug", scale).process.space
    # Four atoms of four elements, so that the order can be put back.
    x = Molecules(torch.randn(1, 4, 3), torch.arange(4)[None], torch.ones(1, 4, dtype=torch.bool)).centred()
    many = x[[0] * 64]
    turned = space.randomize(many, torch.Generator().manual_seed(0))
    positions = turned.positions.gather(1, turned.types.argsort(1)[..., None].expand(-1, -1, 3))
    volume, before = (torch.linalg.det(p[:, :3] - p[:, 3:]) for p in (positions, many.positions))
    assert set((volume / before).round().tolist()) == sides


# -- GDM with self-messages and padding -------------------------------------------------------------------------------


def plain_released_gdm(net, z, t, atoms):
    """One molecule, z (n, F), padded to `atoms`; every atom hears every one, itself included."""
    n = len(z)
    z = torch.cat([z, z.new_zeros(atoms - n, z.shape[1])])
    real = (torch.arange(atoms) < n).to(z.dtype)[:, None]
    h = linear(torch.cat([z, t.expand(atoms, 1)], -1), net.embed)
    for layer in net.layers:
        m = silu(mlp2(pairs(h), layer.message.first, layer.message.second))
        a = torch.sigmoid(linear(m, layer.attention))
        h = (h + mlp2(torch.cat([h, (a * m).sum(1)], -1), layer.node[0], layer.node[2])) * real
    return linear(h, net.out)[:n, :-1]


def test_released_gdm_hears_itself_and_its_padding():
    torch.manual_seed(0)
    net, masked = GNN(9, 16, 3, padded=8).double(), GNN(9, 16, 3).double()
    masked.load_state_dict(net.state_dict())
    z, t = torch.randn(3, 6, 9).double(), torch.rand(3).double()
    sizes = torch.tensor([6, 4, 2])
    mask = torch.arange(6) < sizes[:, None]
    found = net(z, t, mask)
    for b, n in enumerate(sizes.tolist()):
        expected = plain_released_gdm(net, z[b, :n], t[b], 8)
        assert (found[b, :n] - expected).abs().max() < 1e-12
        assert (net(z[b : b + 1, :n], t[b : b + 1])[0] - expected).abs().max() < 1e-12
    assert not found[~mask].any()
    assert (masked(z, t, mask) - found).abs().max() > 0.01


# -- SymDiff's networks -----------------------------------------------------------------------------------------------

TINY = {"width": 16, "depth": 2, "heads": 2}


def test_distances_are_learned_gaussians_with_the_self_pair():
    torch.manual_seed(0)
    layer = lively(Distances(5, 4), 1.0).double()
    x = 2 * torch.randn(1, 3, 3).double()
    found = layer(x, None)[0]
    for i in range(3):
        total = torch.zeros(5).double()
        for j in range(3):
            d = (x[0, i] - x[0, j]).norm()
            s = layer.spreads.abs() + 0.01
            total += torch.exp(-((d - layer.means) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi)) / 3
        expected = layer.linear.weight @ total + layer.linear.bias * PADDED / 3
        assert (found[i] - expected).abs().max() < 1e-10


@pytest.mark.parametrize("make", ["k", "gamma"])
def test_padding_changes_nothing(make):
    k = GaussianDiT(9, **TINY, gaussians=6)
    net = lively(k if make == "k" else PositionTurn(k.distances, **TINY, hidden=8)).double()
    if make == "gamma":
        with torch.no_grad():
            net.atoms.weight[:, 3:6] = 0  # without its noise
    z, t = torch.randn(2, 5, 9).double(), torch.rand(2).double()
    padded = torch.cat([z, torch.randn(2, 3, 9).double()], 1)
    mask = torch.arange(8).expand(2, 8) < 5
    found, expected = net(padded, t, mask), net(z, t)
    assert (found[:, :5] - expected if make == "k" else found - expected).abs().max() < 1e-12


def test_the_turn_is_in_o3_and_begins_away_from_the_identity():
    torch.manual_seed(0)
    k = GaussianDiT(9, **TINY, gaussians=6)
    r = PositionTurn(k.distances, 128, 2, 4).double()
    z, t = torch.randn(64, 5, 9).double(), torch.rand(64).double()
    g = r(z, t)
    eye = torch.eye(3, dtype=torch.float64)
    assert (g @ g.mT - eye).abs().max() < 1e-12
    assert (g - eye).abs().max() > 0.5
    outputs = []
    r.head.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    g = r(z, t)
    q, upper = torch.linalg.qr(outputs[0].view(-1, 3, 3).mT)
    q = q * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    assert (g - q.mT).abs().max() < 1e-9


def test_types_change_nothing_for_the_turn_and_the_output_begins_at_zero():
    torch.manual_seed(0)
    k = GaussianDiT(9, **TINY, gaussians=6).double()
    r = PositionTurn(k.distances, **TINY, hidden=8).double()
    z, t = torch.randn(4, 5, 9).double(), torch.rand(4).double()
    other = torch.cat([z[..., :3], torch.randn(4, 5, 6).double()], -1)
    torch.manual_seed(1)
    first = r(z, t)
    torch.manual_seed(1)
    assert r(other, t).equal(first)
    assert not k(z, t).any()


def test_released_symdiff_trains_all_its_parts():
    chosen = recipe("SymDiff", "published")
    small = {"network_settings": {**TINY, "gaussians": 6}, "kernel_settings": {**TINY, "hidden": 8}}
    model = Recipe(**{**vars(chosen), **small}).build(COUNTS)
    assert model.network.kernel.as_released
    assert model.network.kernel.r.distances is model.network.network.distances
    lively(model.network)
    x = Molecules(torch.randn(4, 5, 3), torch.zeros(4, 5, dtype=torch.long), torch.ones(4, 5, dtype=torch.bool))
    model(x).total.backward()
    without = [
        n for n, p in model.network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert without == []


# -- the page ---------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "notebooks" / "pages" / "published.md"


def rows(title):
    lines = PAGE.read_text().split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return table[2:]


def test_the_page_s_sizes_and_settings_are_those_of_the_code():
    found = rows("Sizes and settings at scale `published`")
    assert {row[0] for row in found} >= PARAMETERS.keys()
    for name, *cells in found:
        chosen = recipe(name, "published")
        s, learns = chosen.settings, chosen.canonicalizer != "identity"
        model = chosen.build(torch.ones(30)) if "(p16)" in name else on_meta(name)
        network, h = (sum(p.numel() for p in part.parameters()) for part in (model.network, model.canonicalizer))
        clip = "EDM's" if s.clip is None else "none" if s.clip == 1e9 else f"{s.clip:g}"
        rate = f"{s.canonicalizer_lr:.0e}" if learns else "–"
        weights = f"{h:,}" if learns else "–"
        assert cells == [f"{network:,}", weights, str(s.batch_size), f"{s.lr:.0e}", rate, clip, f"{chosen.steps:,}"]


def test_the_page_s_differences_name_the_sizes_of_the_code():
    found = {(row[0], row[1]): row[2] for row in rows("Differences")}
    (ours,) = (there for (name, code), there in found.items() if name == "DiT, SymDiff" and "weights" in code)
    counts = [sum(p.numel() for p in on_meta(n, "paper").network.parameters()) for n in ("DiT", "SymDiff", "SymDiff*")]
    assert ours == "{:,}, {:,} and {:,}".format(*counts)
    unet = sum(p.numel() for p in on_meta("UNet", "paper").network.parameters())
    assert any(f"{unet:,} weights" in there for there in found.values())
    dit = on_meta("DiT").network
    assert dit.trunk.blocks[0].up.out_features == 2 * 768
    assert dit.atoms.out_features == 184
    assert on_meta("SymDiff*").network.network.atoms.out_features == 382
    assert on_meta("DiT", "paper").network.transformer.blocks[0].up.out_features == 2 * 1024
    optimizer = make_optimizers(recipe("UNet", "published").build(torch.tensor([0, 1])), Settings())["optimizer"]
    assert optimizer.defaults["amsgrad"]
    assert optimizer.defaults["betas"][0] == 0.9
    assert {len(row) for row in rows("Differences")} == {4}
