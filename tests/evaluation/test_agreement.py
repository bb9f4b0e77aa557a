"""Agreement of oracles and annotators."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypref.errors import DataError, OracleError
from raypref.evaluation.agreement import LABELS, Label, agreement, cohens_kappa, label_of, majority
from raypref.evaluation.labelled_comparisons import read_comparisons
from raypref.evaluation.tables import write_json

ITEMS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)


def test_kappa_by_hand() -> None:
    """They agree on 3 of 4; with rates (2, 1, 1) and (1, 2, 1) chance gives (2 + 2 + 1) / 16: (12 - 5) / (16 - 5) = 7/11."""
    a = ["first", "first", "second", "tie"]
    b = ["first", "second", "second", "tie"]
    assert cohens_kappa(a, b) == pytest.approx(7 / 11, abs=1e-15)


def test_kappa_of_fifty_proposals() -> None:
    """20 both yes, 15 both no, 5 and 10 apart: p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa = 0.4."""
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(a, b) == pytest.approx(0.4, abs=1e-15)


def test_annotators_that_are_independent_agree_by_chance_alone() -> None:
    """Every combination at the product of its rates, (1/2, 1/2) and (1/4, 3/4) of 8 items: kappa is 0."""
    assert cohens_kappa([1, 1, 1, 1, 2, 2, 2, 2], [1, 2, 2, 2, 1, 2, 2, 2]) == 0.0


@given(ITEMS)
def test_kappa_has_two_sides_and_no_names(items: list[tuple[Label, Label]]) -> None:
    """It is the same from either side, and whatever the labels are called; 1 of an annotator with itself, if there are two labels."""
    a, b = zip(*items, strict=True)
    kappa = cohens_kappa(a, b)
    for other in (cohens_kappa(b, a), cohens_kappa([LABELS.index(x) for x in a], [LABELS.index(x) for x in b])):
        assert other == kappa or (math.isnan(other) and math.isnan(kappa))
    assert math.isnan(kappa) == (len({*a, *b}) == 1)
    if len(set(a)) > 1:
        assert cohens_kappa(a, a) == 1.0


@pytest.mark.parametrize(("a", "b"), [([], []), (["tie"], ["tie", "tie"])])
def test_kappa_needs_the_same_items(a: list[Label], b: list[Label]) -> None:
    with pytest.raises(ValueError, match=r"no item|longer"):
        cohens_kappa(a, b)


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        (("first", "second", "first"), "first"),
        (("first", "second", "tie"), None),
        (("first", "second"), None),
        (("first", "first", "second", "tie"), None),
        (("tie",), "tie"),
        ((), None),
    ],
)
def test_majority_is_more_than_half(votes: tuple[Label, ...], label: Label | None) -> None:
    assert majority(votes) == label


@pytest.mark.parametrize(
    ("chance", "margin", "label"),
    [
        (0.51, 0.0, "first"),
        (0.49, 0.0, "second"),
        (0.5, 0.0, "tie"),
        (0.3 + 0.2 + 1e-16, 0.0, "tie"),
        (0.6, 0.125, "tie"),
        (0.375, 0.125, "tie"),
        (0.2, 0.125, "second"),
    ],
)
def test_a_verdict_in_words(chance: float, margin: float, label: Label) -> None:
    assert label_of(chance, margin) == label


def test_figures_by_hand() -> None:
    """Five comparisons with an answer. Rows first, second, tie: (1, 1, 0), (0, 1, 0), (1, 0, 1): 3 of 5 agree; of the three without a
    tie on either side 2. Rates (2, 1, 2) and (2, 2, 1): kappa = (5 * 3 - (4 + 2 + 2)) / (25 - 8) = 7/17."""
    chances = [0.9, 0.1, 0.4, 0.7, 0.5, float("nan")]
    labels = ["first", "first", "second", "tie", "tie", "first"]
    found = agreement(chances, labels, list("abcdef"), resamples=200)
    assert (found.agreement, found.decided_agreement) == (0.6, pytest.approx(2 / 3))
    assert found.kappa == pytest.approx(7 / 17)
    assert (found.comparisons, found.unanswered) == (5, 1)
    assert found.confusion == ((1, 1, 0), (0, 1, 0), (1, 0, 1))
    assert found.low < 0.6 < found.high
    assert found.kappa_low < 7 / 17 < found.kappa_high


def test_the_margin_turns_close_verdicts_into_ties() -> None:
    found = agreement([0.55, 0.45, 0.9], ["tie", "tie", "first"], list("abc"), tie_margin=0.1, resamples=10)
    assert (found.agreement, found.kappa) == (1.0, 1.0)


@pytest.mark.parametrize(("prompts", "half_width"), [(400, 0.049), (100, 0.098)])
def test_comparisons_of_one_prompt_are_not_independent(prompts: int, half_width: float) -> None:
    """400 comparisons, half right. Of 400 prompts: 1.96 * 0.5 / sqrt(400) = 0.049. Four alike of each of 100 prompts: 0.098.

    As many of either label on either side make p_e = 1/2, so kappa = 2 p_o - 1, its interval twice as wide around 0.
    """
    names = [str(number % prompts) for number in range(400)]
    right = [int(name) % 2 == 0 for name in names]
    labels = ["first" if int(name) % 4 < 2 else "second" for name in names]
    chances = [float((label == "first") == agrees) for label, agrees in zip(labels, right, strict=True)]
    found = agreement(chances, labels, names, resamples=4000)
    assert (found.agreement, found.kappa) == (0.5, 0.0)
    assert (found.low, found.high) == pytest.approx((0.5 - half_width, 0.5 + half_width), abs=0.01)
    assert (found.kappa_low, found.kappa_high) == pytest.approx((-2 * half_width, 2 * half_width), abs=0.02)


def test_a_figure_that_is_not_defined_is_nan() -> None:
    """One label throughout: no kappa. Ties alone: nothing is decided."""
    found = agreement([0.5, 0.5], ["tie", "tie"], ["a", "b"], resamples=10)
    assert (found.agreement, found.low, found.high) == (1.0, 1.0, 1.0)
    assert np.isnan([found.kappa, found.kappa_low, found.kappa_high, found.decided_agreement]).all()


def test_abstention_on_everything_is_an_error() -> None:
    with pytest.raises(OracleError, match="abstained on all 2 comparisons"):
        agreement([float("nan")] * 2, ["first", "tie"], ["a", "b"])


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(DataError, match=r"label 1: expected one of first, second, tie, got 'both'"):
        agreement([0.5, 0.5], ["tie", "both"], ["a", "b"])


def test_each_verdict_has_a_label() -> None:
    with pytest.raises(ValueError, match="shorter"):
        agreement([0.5, 0.5], ["tie"], ["a", "b"])


def test_what_is_not_defined_is_null_in_json(tmp_path: Path) -> None:
    """Both say ``first`` throughout: no kappa."""
    write_json(tmp_path / "a.json", agreement([0.9, 0.8], ["first", "first"], ["p", "q"], resamples=10))
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["agreement"], found["kappa"], found["kappa_low"]) == (1.0, None, None)


def test_an_oracle_sees_the_turns_of_a_labelled_comparison(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    record = {"prompt": turns, "responses": ["a", "b"], "label": "first"}
    (tmp_path / "labels.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record | {"prompt": "q"}) + "\n")
    with_turns, plain = (one.sides(0)[0].prompt for one in read_comparisons(tmp_path / "labels.jsonl"))
    assert (with_turns.chat, with_turns.text) == ((("system", "s"), ("user", "q")), "system: s\n\nuser: q")
    assert (plain.chat, plain.text) == ((), "q")
