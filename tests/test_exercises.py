"""Exercises judge every answer and never fail themselves."""

import numpy as np
import pytest
import torch

from canonkit.exercises import check


def judge(answer, right=lambda a: a == 3):
    return check(answer, right, because="3 turns bring it back", hint="count the turns")


def test_a_right_answer_is_right_and_says_why():
    verdict = judge(3)
    assert verdict.state == "right"
    assert repr(verdict) == str(verdict) == "right: 3 turns bring it back"


def test_a_wrong_answer_gets_the_hint():
    verdict = judge(4)
    assert verdict.state == "not yet"
    assert repr(verdict) == "not yet: count the turns"


@pytest.mark.parametrize("answer", [..., (1, ...), [..., ...]])
def test_no_answer_is_neither_right_nor_wrong(answer):
    verdict = judge(answer, right=lambda a: 1 / 0)
    assert verdict.state == "open"
    assert repr(verdict).startswith("write your answer above (instead of ...)")


def test_what_judging_raises_means_not_yet():
    verdict = judge("three", right=lambda a: a + 1 > 0)
    assert verdict.state == "not yet"
    assert repr(verdict).startswith("not yet: count the turns (TypeError: ")


def test_a_judge_can_say_what_is_wrong():
    assert repr(judge(5, right=lambda a: "that is one too many")) == "not yet: count the turns (that is one too many)"


@pytest.mark.parametrize("true", [True, np.True_, torch.tensor(True), torch.tensor([1.0, 2.0]).sum() > 2])
def test_anything_that_is_true_is_right(true):
    assert judge(np.zeros(3), right=lambda a: true).state == "right"
    assert judge(torch.zeros(3), right=lambda a: a == 0).state == "not yet"  # several truths are none


def test_functions_can_be_answers():
    assert judge(lambda x: x + 1, right=lambda f: f(2) == 3).state == "right"


def test_html_is_escaped():
    page = check(1, lambda a: False, because="", hint="is a < b?")._repr_html_()
    assert page.startswith("<div")
    assert "not yet: is a &lt; b?" in page
