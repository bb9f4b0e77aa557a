"""Which of two responses is shown first, and what the orders make of a verdict."""

from __future__ import annotations

import numpy as np
import pytest

from raypref.oracles.base import ABSTAIN, Question
from raypref.oracles.support.orders import combine, shown

QUESTION = Question("p", "Why?", ("a", "b", "c"), ((0, 1), (1, 2)))


def test_both_orders_are_averaged_and_the_lean_is_reported() -> None:
    """P(a > b) = (0.9 + 1 - 0.4) / 2 = 0.75, lean 0.9 + 0.4 - 1 = 0.3; P(b > c) = (0.2 + 1 - 0.6) / 2 = 0.3, lean -0.2."""
    assert shown(QUESTION, "both") == [(0, 1), (1, 0), (1, 2), (2, 1)]
    answer = combine(QUESTION, {(0, 1): 0.9, (1, 0): 0.4, (1, 2): 0.2, (2, 1): 0.6})
    np.testing.assert_allclose(answer.values[[0, 1, 1, 2], [1, 0, 2, 1]], [0.75, 0.25, 0.3, 0.7])
    assert answer.observed["oracle/position_bias"] == pytest.approx([0.3, -0.2])


def test_a_pair_without_a_verdict_abstains() -> None:
    answer = combine(QUESTION, {(0, 1): None, (1, 2): 0.2})
    assert (answer.values[0, 1], answer.values[1, 0]) == (ABSTAIN, ABSTAIN)
    assert answer.values[1, 2] == 0.2
    assert answer.observed["oracle/position_bias"] == []


def test_one_order_is_drawn_by_the_texts_alone() -> None:
    """The same text comes first wherever the two stand in their group; over many texts either place is as likely."""
    (pair,) = shown(Question("p", "Why?", ("a", "b"), ((0, 1),)), "one")
    (mirrored,) = shown(Question("q", "Why?", ("b", "a"), ((0, 1),)), "one")
    assert ("ab"[pair[0]], "ab"[pair[1]]) == ("ba"[mirrored[0]], "ba"[mirrored[1]])
    firsts = [shown(Question("p", "Why?", (f"x{k}", f"y{k}"), ((0, 1),)), "one")[0][0] for k in range(400)]
    assert 150 < sum(firsts) < 250
    assert combine(QUESTION, {(1, 0): 0.3, (1, 2): 0.6}).values[0, 1] == pytest.approx(0.7)


def test_any_text_has_an_order() -> None:
    assert len(shown(Question("p", "Why?", ("\ud800", "b"), ((0, 1),)), "one")) == 1, "an unpaired surrogate, as JSON may hold"


def test_equal_texts_are_a_tie_and_not_shown() -> None:
    question = Question("p", "Why?", ("same", "same", "c"), ((0, 1), (0, 2)))
    assert shown(question, "both") == [(0, 2), (2, 0)]
    answer = combine(question, {(0, 2): 0.9, (2, 0): 0.1})
    assert (answer.values[0, 1], answer.values[0, 2]) == (0.5, 0.9)
    assert answer.observed["oracle/position_bias"] == pytest.approx([0.0])
