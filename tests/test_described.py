"""Files that people pass on: what is damaged or absurd in them is named."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import canonkit as ck
from canonkit.described import checked
from canonkit.recipes import recipe
from canonkit.recipes.recipe import Recipe
from canonkit.training import read_card, read_log

SHIPPED = sorted((Path(ck.__file__).parent / "pretrained").glob("*.card.json"))


@pytest.fixture
def card():
    return copy.deepcopy(read_card(SHIPPED[0], "WeightsCard"))


def test_the_cards_of_the_kit_are_as_described():
    assert len(SHIPPED) > 10
    for path in SHIPPED:
        assert read_card(path, "WeightsCard")["format"] == 1


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("settings.lr", -1, "settings.lr = -1 should be greater than or equal to 0"),
        ("settings.ema", float("nan"), "settings.ema = nan should be a finite number"),
        ("settings.log_every", 2.5, r"settings.log_every = 2.5 should be a valid integer"),
        ("settings.seed", 2**70, "settings.seed = .* should be less than 4294967296"),
        ("settings.guess", 1, "settings.guess = 1 is no field"),
        ("size_counts", [0, 0], r"size_counts = \[0, 0\] should count at least one sample"),
        ("data.train", True, "data.train = True should be a valid integer"),
        ("data", [], r"data = \[\] should be"),
        ("evaluation.valid", 1.5, "evaluation.valid = 1.5 should be less than or equal to 1"),
        ("weights_sha256", "abc", "weights_sha256 = 'abc' should match"),
        ("recipe.network_settings", {"width": 10**12}, "recipe.network_settings.width = 10+ should be less"),
    ],
)
def test_an_absurd_field_is_named_with_its_value(card, tmp_path, where, value, said):
    *path, last = where.split(".")
    inner = card
    for key in path:
        inner = inner[key]
    inner[last] = value
    (tmp_path / "a.card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=rf"a\.card\.json: {said}.*: restore"):
        read_card(tmp_path / "a.card.json", "WeightsCard")


def test_every_field_that_is_missing_is_named(card):
    for name in card:
        if name != "init":
            with pytest.raises(ValueError, match=f"file: {name} is missing: restore it"):
                checked("WeightsCard", {k: v for k, v in card.items() if k != name}, "file", "restore it")


@pytest.mark.parametrize("change", [{"network": "GNM"}, {"canonicalizer": "inertail"}, {"kernel": "x", "data": "QM9"}])
def test_a_recipe_that_makes_no_model_is_one_line(card, change):
    card["recipe"] |= {"network": "DiT", "data": "QM9"} | change
    with pytest.raises(ValueError, match="card: its recipe makes no model") as error:
        Recipe.rebuilt(card, "card")
    assert "\n" not in str(error.value)


BAD = [("lr", -1.0), ("ema", float("nan")), ("ema", 1.5), ("log_every", 2.5), ("batch_size", 0), ("seed", 2**32)]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_settings_that_train_nothing_are_refused_before_training(name, value):
    changes: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"settings: {name} = "):
        recipe("GDM", "laptop", **changes)


def test_a_damaged_line_of_a_log_is_named_and_one_cut_short_is_left_out(tmp_path):
    lines = [json.dumps({"kind": "train", "step": k, "seconds": 0.5 * k, "loss": 1.0}) + "\n" for k in range(4)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(lines)[:-9])
    assert [e["step"] for e in read_log(tmp_path)] == [0, 1, 2]
    log.write_text("".join([lines[0], lines[1][:-9] + "\n", lines[2]]))
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2 is damaged"):
        read_log(tmp_path)
    log.write_text("".join([lines[0], lines[1].replace('"step": 1', '"step": -1')]))
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: step = -1 should be"):
        read_log(tmp_path)


def test_results_that_come_with_the_kit_are_as_described():
    from canonkit import results

    for found in (results.measured_laptop(), results.measured_costs(), results.measured_steps()):
        assert found
