"""Models of images: training, evaluation, Table 2."""

import json

import pytest
import torch
from safetensors.torch import load_file

import canonkit as ck
from canonkit import course, releases
from canonkit.metrics import Interval, bootstrap, denoising_errors
from canonkit.networks import ShuffleUNet, UNet
from canonkit.networks.shuffle_unet import Unit
from canonkit.recipes.names import SYSTEMS, recipe
from canonkit.recipes.recipe import Recipe
from canonkit.recipes.run import load_run
from canonkit.results import PUBLISHED_ROTMNIST, evaluate_denoising, table2
from canonkit.trainer import train_recipe

TABLE_2 = [name for name, system in SYSTEMS.items() if system.data == "RotMNIST"]
SMALL = {"batch_size": 8, "warmup": 0, "log_every": 2, "validate_every": 0, "sample_every": 0}


@pytest.fixture(scope="module")
def data(rotmnist_small):
    """The first images of each part."""
    from dataclasses import replace

    counts = {"train": 40, "valid": 12, "test": 30}
    rows = torch.cat([torch.arange(3000)[:40], torch.arange(3000, 3012), torch.arange(3500, 3530)])
    cut = {k: getattr(rotmnist_small, k)[rows] for k in ("pixels", "digits", "angles")}
    return replace(rotmnist_small, counts=counts, **cut)


def trained(name, data, out, steps=4, **options):
    return train_recipe(name, out, steps=steps, data=data, progress=False, device="cpu", **(SMALL | options))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return trained("copies(16)+UNet", data, tmp_path_factory.mktemp("run"))


# -- the network ------------------------------------------------------------------------------------------------------


def test_unet_keeps_the_shape_and_begins_at_zero():
    torch.manual_seed(0)
    net = UNet(1, 8, (1, 2), 1)
    z, t = torch.randn(3, 1, 28, 28), torch.rand(3)
    assert net(z, t).shape == z.shape
    assert not net(z, t).any()  # the best guess before anything is learned
    with pytest.raises(ValueError, match="27 x 27 pixels: sides must be multiples of 2"):
        net(torch.zeros(1, 1, 27, 27), t[:1])
    with pytest.raises(ValueError, match="width 12"):
        UNet(1, 12)


def test_the_released_unet_has_the_released_size_and_looks_times_up_one_by_one():
    """1,084,897 parameters: Sareen et al.'s code, counted."""
    network = ShuffleUNet()
    assert sum(p.numel() for p in network.parameters()) == 1_084_897
    network.eval()
    z = torch.randn(1, 1, 28, 28).expand(3, -1, -1, -1)
    near, same, next_one = network(z, torch.tensor([400, 400.1, 401]) / 999)
    assert torch.equal(near, same)
    assert not torch.equal(near, next_one)
    with pytest.raises(ValueError, match="27 x 28"):
        network(torch.zeros(1, 1, 27, 28), torch.zeros(1))


def test_channels_of_a_halving_unit_all_see_the_whole_input():
    unit = Unit(8, 16, halve=True).eval()
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    out = unit(x)
    assert out.shape == (2, 16, 4, 4)
    for channel in (0, 1):  # of the left and of the right branch
        (gradient,) = torch.autograd.grad(out[:, channel].sum(), x, retain_graph=True)
        assert (gradient.abs().sum((0, 2, 3)) > 0).all()


def test_unet_depends_on_time_and_on_every_pixel():
    torch.manual_seed(0)
    net = UNet(1, 8, (1, 2), 1)
    for layer in (net.output, *(m.conv2 for m in net.modules() if hasattr(m, "conv2"))):  # they begin at zero
        torch.nn.init.normal_(layer.weight, std=0.1)
    z = torch.randn(1, 1, 28, 28, requires_grad=True)
    one, two = (net(z, torch.tensor([t])) for t in (0.1, 0.9))
    assert (one - two).abs().max() > 1e-3
    net(z, torch.tensor([0.5]))[0, 0, 14, 14].backward()
    assert (z.grad != 0).all()  # through attention at the lowest resolution


def test_half_precision_changes_little():
    torch.manual_seed(0)
    net = UNet(1, 16, (1, 2), 1)
    torch.nn.init.normal_(net.output.weight, std=0.05)
    z, t = torch.randn(4, 1, 28, 28), torch.rand(4)
    exact = net(z, t)
    net.fast_dtype = torch.bfloat16
    rough = net(z, t)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() / exact.norm() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_2)
def test_every_row_of_table_2_is_a_recipe(name):
    small, paper = (recipe(name, scale) for scale in ("laptop", "paper"))
    assert (paper.network_settings["width"], paper.settings.batch_size) == (64, 128)
    model = small.build(torch.tensor([0, 1]))
    x = torch.rand(2, 1, 28, 28)
    assert torch.isfinite(model(x).total)
    again = Recipe.from_card(small.card("0" * 64, 1, torch.tensor([0, 1])))
    assert (again.name, again.data) == (name, "RotMNIST")


def test_rows_share_the_initial_unet():
    states = [recipe(name).build(torch.tensor([0, 1])).network.state_dict() for name in TABLE_2]
    assert all(torch.equal(states[0][k], other[k]) for other in states[1:] for k in other)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_2)
def test_the_released_form_sees_images_in_zero_to_one_at_a_thousand_times(name):
    made = recipe(name, "published", batch_size=2)
    assert made.network == "ShuffleUNet"
    model = made.build(torch.tensor([0, 1]))
    assert (model.process.T, model.process.space.bounds) == (999, (0.0, 1.0))
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(model.process.space.encode(x)[0], x)
    assert torch.isfinite(model(x).total)
    again = Recipe.from_card(made.card("0" * 64, 1, torch.tensor([0, 1])))
    assert again.build(torch.tensor([0, 1])).process.space.unit


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_lowers_the_loss(data, tmp_path):
    run = trained("copies(16)+UNet", data, tmp_path, steps=40, lr=2e-3, log_every=10)
    losses = [e["loss"] for e in run.log if e["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]
    assert run.log[-1]["seen"] == 320


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copies(16)+UNet", "canon(p8)+UNet"])
def test_resumed_training_ends_with_the_same_weights(name, data, tmp_path, monkeypatch):
    from canonkit.recipes import names

    # With dropout and batch normalisation, whose state must be kept too.
    monkeypatch.setitem(names.SIZE["gcnn"], "laptop", {"channels": 2, "layers": 3, "dropout": 0.5})
    for folder, parts in (("whole", (6,)), ("parts", (2, 5, 6))):
        for k, steps in enumerate(parts):
            trained(name, data, tmp_path / folder, steps=steps, resume=k > 0)
    one, two = (load_file(tmp_path / folder / "checkpoint.safetensors") for folder in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_averaged_models_have_the_latest_statistics(data, tmp_path, monkeypatch):
    from canonkit.recipes import names

    monkeypatch.setitem(names.SIZE["gcnn"], "laptop", {"channels": 2, "layers": 3, "dropout": 0.0})
    trained("canon(p8)+UNet", data, tmp_path)
    saved = load_file(tmp_path / "checkpoint.safetensors")
    means = [k for k in saved if k.startswith("ema/") and k.endswith("running_mean")]
    assert len(means) == 2
    for k in means:
        assert saved[k].abs().sum() > 0
        assert torch.equal(saved[k], saved[k.replace("ema/", "model/")])
    assert not any("basis" in k for k in saved)


def test_samples_are_images_and_repeat_with_their_seed(run):
    x = run.sample(5, 4, seed=0)
    assert x.shape == (5, 1, 28, 28)
    assert torch.equal(x, run.sample(5, 4, seed=0))
    assert not torch.equal(x, run.sample(5, 4, seed=0, randomize=True))
    assert torch.equal(run.sample(5, 4, seed=0, eta=0.0, batch_size=5), run.sample(5, 4, seed=0, eta=0.0))


def test_samples_are_written_as_a_sheet_and_as_an_array(run, tmp_path):
    import numpy as np
    from matplotlib.image import imread

    x = run.sample(5, 2, seed=0)
    assert imread(ck.write(x, tmp_path / "digits.png")).shape[:2] == (2 * 28 * 4, 3 * 28 * 4)
    stored = np.load(ck.write(x, tmp_path / "digits.npz"))["images"]
    assert (stored.shape, stored.dtype) == ((5, 1, 28, 28), np.uint8)
    with pytest.raises(ValueError, match=r"cannot write '.sdf' files, only .png, .npz"):
        ck.write(x, tmp_path / "digits.sdf")


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_every_model_meets_the_same_noise(data, run):
    """A network that answers zero has the error |eps|^2 / pixels, whatever the canonicalizer."""
    errors = []
    for name in ("UNet", "copies(16)+UNet"):
        model = recipe(name).build(torch.tensor([0, 1]))
        model.network.forward = lambda z, t, mask=None: torch.zeros_like(z)
        errors.append(denoising_errors(model, data.part("test")))
    assert torch.equal(*errors)
    assert float(errors[0].mean()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(errors[0], denoising_errors(run.model, data.part("test")))


def test_bootstrap_interval_is_that_of_the_normal_law():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = bootstrap(values)
    half = 1.96 * float(values.std()) / 2000**0.5
    assert found.mean == pytest.approx(float(values.mean()))
    assert found.high - found.mean == pytest.approx(half, rel=0.15)
    assert found.mean - found.low == pytest.approx(half, rel=0.15)
    assert str(Interval(0.03125, 0.03, 0.032)) == "0.0312 [0.0300, 0.0320]"


def test_evaluation_says_how_it_was_got_and_compares_image_by_image(data, run, tmp_path):
    control = trained("UNet", data, tmp_path)
    found = evaluate_denoising(run, data, against=control)
    assert found["low"] < found["denoising_error"] < found["high"]
    assert (found["test_images"], found["test_data"]) == (30, data.sha256)
    gap = denoising_errors(run.model, data.part("test")) - denoising_errors(control.model, data.part("test"))
    assert found["difference"] == pytest.approx(float(gap.double().mean()), rel=1e-9)
    assert found["difference_low"] < found["difference"] < found["difference_high"]
    assert found["against"]["recipe"] == "UNet"
    assert {"seed", "seen", "step", "data", "hardware", "validation_loss"} <= found.keys()
    table = table2([found])
    row = next(row for row in table.rows if row[0] == "copies(16)+UNet")
    assert row[1] == "–"
    assert row[2] == f"{found['denoising_error']:.4f}"
    assert f"{found['difference']:+.4f}" in row
    assert "30 test images" in str(table)


def test_table_2_prints_the_published_figures():
    table = table2([])
    assert {row[0]: row[1] for row in table.rows} == PUBLISHED_ROTMNIST
    assert (PUBLISHED_ROTMNIST["UNet"], PUBLISHED_ROTMNIST["canon(p16)+UNet"]) == (".0312", ".0255")


def test_weights_of_images_are_released_and_loaded_by_name(data, run, tmp_path, monkeypatch):
    monkeypatch.setattr(releases, "FOLDER", tmp_path)
    monkeypatch.setenv("CANONKIT_WEIGHTS", str(tmp_path))
    path = releases.release(run, lambda rounded: evaluate_denoising(rounded, data), name="canon(p16, fr)+UNet")
    assert path.name == "canon(p16, fr)+UNet.safetensors"
    loaded = ck.load("canon(p16, fr)+UNet")
    assert torch.equal(loaded.sample(2, 3, seed=0), load_run_rounded(run).sample(2, 3, seed=0))
    assert "denoising error" in str(ck.pretrained())
    assert json.loads((tmp_path / "canon(p16, fr)+UNet.card.json").read_text())["data"]["name"] == "RotMNIST"


def load_run_rounded(run):
    again = load_run(run.folder)
    for parameter in again.model.parameters():
        parameter.data = parameter.data.half().float()
    return again


@pytest.mark.slow
def test_the_course_of_a_training_is_kept_and_read_again(data, tmp_path):
    name = "copies(16)+UNet"
    path = course.make(name, (1, 3), tmp_path / "run", data=data, to=tmp_path, batch_size=8)
    read = course.course(name, tmp_path)
    assert list(read) == [1, 3]
    last = load_run(tmp_path / "run").model.canonicalizer.state_dict()
    for key, value in read[3].state_dict().items():
        assert torch.equal(value, last[key].half().float())
    assert not all(torch.equal(a, b) for a, b in zip(read[1].parameters(), read[3].parameters(), strict=True))
    with pytest.raises(ValueError, match="3 steps already"):
        course.make(name, (2,), tmp_path / "run", data=data, to=tmp_path, batch_size=8)
    with pytest.raises(ValueError, match="no course of training is kept of 'UNet'"):
        course.course("UNet", tmp_path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 8
    path.write_bytes(content)
    with pytest.raises(ValueError, match="course.safetensors: its content is not what was written"):
        course.course(name, tmp_path)
