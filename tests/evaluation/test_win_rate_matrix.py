"""Win rates among several policies."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypref.errors import DataError, OracleError
from raypref.evaluation.matching import match
from raypref.evaluation.outcomes import Outcomes, play
from raypref.evaluation.tables import matrix_table, save_svg, write_json
from raypref.evaluation.win_rate_matrix import win_rate_matrix
from raypref.types import Comparison, Rollout
from tests.evaluation.response_sets import HOW, TableJudge, response_set, shown

CYCLE = {"stone>scissors": 0.7, "paper>stone": 0.9, "scissors>paper": 0.8}
NAN = float("nan")


def _outcomes(values: Any, names: tuple[str, ...] | None = None) -> Outcomes:
    """Of (M, M, N) values above the diagonal; the rest follows."""
    values = np.array(values, dtype=np.float64)
    size, _, count = values.shape
    lower = np.tril_indices(size, -1)
    values[lower] = 1.0 - values.transpose(1, 0, 2)[lower]
    values[np.arange(size), np.arange(size)] = 0.5
    return Outcomes(names or tuple("abcdefgh"[:size]), values, np.ones((size, count)), "tokens", (0,) * size)


def _pair(*chances: float) -> Outcomes:
    return _outcomes([[[0.5] * len(chances), list(chances)], [[0.0] * len(chances)] * 2])


def _games() -> tuple[Outcomes, TableJudge]:
    sets = [response_set(name, name, name, tokens=True) for name in ("stone", "paper", "scissors")]
    judge = TableJudge(CYCLE)
    return asyncio.run(play(match(sets), judge, in_flight=2)), judge


def test_stone_paper_scissors() -> None:
    """Each pair is asked once a prompt; the same on both prompts, so that the intervals are points and the cycle is beyond chance."""
    outcomes, judge = _games()
    assert len(judge.met) == 3 * 2
    matrix = win_rate_matrix(outcomes, **HOW)
    np.testing.assert_allclose(matrix.win_rates, [[0.5, 0.1, 0.7], [0.9, 0.5, 0.2], [0.3, 0.8, 0.5]])
    np.testing.assert_allclose(matrix.low, matrix.win_rates)
    np.testing.assert_allclose(matrix.high, matrix.win_rates)
    assert matrix.cyclic
    assert matrix.cyclic_beyond_chance
    assert (matrix.lengths, matrix.unit, matrix.prompts) == ((5.0, 5.0, 8.0), "tokens", 2)


def test_an_order_is_no_cycle() -> None:
    """The first beats both others, and the second the third."""
    zero = [0.0]
    matrix = win_rate_matrix(_outcomes([[zero, [0.6], [0.7]], [zero, zero, [0.9]], [zero, zero, zero]]), **HOW)
    assert not matrix.cyclic
    assert not matrix.cyclic_beyond_chance


def test_a_cycle_within_chance() -> None:
    """Each pair of the cycle wins three prompts of five: 0.6, with an interval that reaches from well below one half to well above it."""
    rates = [1.0, 1.0, 1.0, 0.0, 0.0]
    lost = [0.0, 0.0, 0.0, 1.0, 1.0]
    zero = [0.0] * 5
    matrix = win_rate_matrix(_outcomes([[zero, rates, lost], [zero, zero, rates], [zero, zero, zero]]), **HOW)
    assert matrix.cyclic
    assert not matrix.cyclic_beyond_chance


def test_abstentions_are_left_out_and_counted() -> None:
    """0.9 and 0.3 with one prompt unanswered: mean 0.6 over two."""
    matrix = win_rate_matrix(_pair(0.9, NAN, 0.3), **HOW)
    assert matrix.win_rates[0][1] == pytest.approx(0.6)
    assert matrix.win_rates[1][0] == pytest.approx(0.4)
    assert matrix.unanswered == ((0, 1), (1, 0))
    assert matrix.prompts == 3
    with pytest.raises(OracleError, match="no answer on any of the 2 prompts for 'a' against 'b'"):
        win_rate_matrix(_pair(NAN, NAN), **HOW)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=3, max_size=3))
def test_mirror_images_add_up_to_one(chances: list[list[float]]) -> None:
    """W + W^T = 1, and an interval is the mirror image of the other's; each holds its win rate but for rounding."""
    first, second, third = chances
    zero = [0.0] * 4
    matrix = win_rate_matrix(_outcomes([[zero, first, second], [zero, zero, third], [zero, zero, zero]]), **HOW)
    rates, low, high = (np.array(table) for table in (matrix.win_rates, matrix.low, matrix.high))
    np.testing.assert_allclose(rates + rates.T, 1.0)
    np.testing.assert_allclose(low + high.T, 1.0)
    assert (low <= high + 1e-12).all()


def test_several_responses_are_averaged_over_both_sides() -> None:
    """(0.9 + 0.5 + 0.7 + 0.1) / 4 = 0.55 over two responses on each side."""
    table = {"a>c": 0.9, "a>d": 0.5, "b>c": 0.7, "b>d": 0.1}
    outcomes = asyncio.run(play(match([response_set("x", ("a", "b")), response_set("y", ("c", "d"))]), TableJudge(table), in_flight=1))
    assert outcomes.values[0, 1, 0] == pytest.approx(0.55)


def test_against_one_opponent_only() -> None:
    judge = TableJudge(CYCLE)
    sets = [response_set(name, name) for name in ("stone", "paper", "scissors")]
    outcomes = asyncio.run(play(match(sets), judge, in_flight=4, opponent="paper"))
    assert [met[1:] for met in judge.met] == [(("stone",), ("paper",)), (("scissors",), ("paper",))]
    np.testing.assert_allclose(outcomes.values[:, 1, 0], [0.1, 0.5, 0.8])
    assert np.isnan(outcomes.values[0, 2, 0])
    with pytest.raises(DataError, match="no set of responses named 'well'; there are stone, paper, scissors"):
        asyncio.run(play(match(sets), judge, in_flight=4, opponent="well"))


def test_one_policy_has_nobody_to_meet() -> None:
    with pytest.raises(DataError, match="at least two sets of responses are needed, got stone alone"):
        asyncio.run(play(match([response_set("stone", "stone")]), TableJudge(CYCLE), in_flight=1))


def test_no_more_than_in_flight_at_a_time() -> None:
    """Six comparisons, two at a time, whatever the order in which they end."""
    running, most = 0, 0

    async def compare(challenger: Rollout, defender: Rollout) -> Comparison:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02 if challenger.prompt.index == 0 else 0.0)
        running -= 1
        return Comparison(challenger.prompt.id, "", 0.1 * challenger.prompt.index, "", "", 0.0, 0.0, {"oracle/abstained": 0.0})

    outcomes = asyncio.run(play(match([response_set("a", *"uvwxyz"), response_set("b", *"uvwxyz")]), compare, in_flight=2))
    assert most == 2
    np.testing.assert_allclose(outcomes.values[0, 1], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_first_failure_ends_the_others() -> None:
    asked = []

    async def compare(challenger: Rollout, defender: Rollout) -> Comparison:
        asked.append(challenger.prompt.id)
        await asyncio.sleep(0)
        raise OracleError("no")

    async def run() -> None:
        with pytest.raises(OracleError, match="no"):
            await play(match([response_set("a", *"uvwxyz"), response_set("b", *"uvwxyz")]), compare, in_flight=2)
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert asked == ["q0", "q1"]


def test_json_and_table(tmp_path: Path) -> None:
    outcomes, _ = _games()
    matrix = win_rate_matrix(outcomes, **HOW)
    write_json(tmp_path / "matrix.json", matrix)
    read = json.loads((tmp_path / "matrix.json").read_text())
    assert read["names"] == ["stone", "paper", "scissors"]
    assert read["win_rates"][2][1] == pytest.approx(0.8)
    text = shown(matrix_table(matrix))
    assert "0.800  [0.800, 0.800]" in text
    assert "the majority relation has a cycle, beyond chance" in text


def test_the_matrix_as_a_picture(tmp_path: Path) -> None:
    """A cell for each pair: 0 has the colour of losing, 1 that of winning, one half is white. Names are escaped."""
    matrix = win_rate_matrix(_outcomes([[[0.5], [1.0]], [[0.0], [0.5]]], ("a & b", "<c>")), **HOW)
    save_svg(tmp_path / "matrix.svg", matrix_table(matrix))
    text = (tmp_path / "matrix.svg").read_text()
    root = ElementTree.fromstring(text)
    page, *cells = [rect.get("fill") for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("fill")]
    assert page == "white"
    assert cells == ["#ffffff", "#0072b2", "#d55e00", "#ffffff"]
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text") if element.text]
    assert sum("a\xa0&\xa0b" in word for word in words) == 2
    assert any("1.000\xa0\xa0[1.000,\xa01.000]" in word for word in words)
