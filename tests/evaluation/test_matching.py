"""The same prompts in several files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raypref.errors import DataError
from raypref.evaluation.matching import match
from raypref.evaluation.response_files import ResponseSet
from tests.evaluation.response_sets import response_set


def _reversed(answered: ResponseSet) -> ResponseSet:
    return ResponseSet(answered.name, answered.answers[::-1])


def test_by_id_in_the_first_sets_order() -> None:
    matched = match([response_set("a", "x", "y"), _reversed(response_set("b", "v", "w"))])
    assert [prompt.id for prompt in matched.prompts] == ["q0", "q1"]
    assert [[one.responses for one in row] for row in matched.answers] == [[("x",), ("y",)], [("v",), ("w",)]]
    assert matched.unmatched == (0, 0)


@pytest.mark.parametrize("ids", [(False, False), (True, False)])
def test_by_text_where_one_has_no_ids(ids: tuple[bool, bool]) -> None:
    first, second = ids
    matched = match([response_set("a", "x", "y", ids=first), _reversed(response_set("b", "v", "w", ids=second))])
    assert [[one.responses[0] for one in row] for row in matched.answers] == [["x", "y"], ["v", "w"]]
    assert [prompt.id for prompt in matched.prompts] == (["q0", "q1"] if first else ["0", "1"])


def test_by_text_where_no_id_is_common() -> None:
    other = response_set("b", "v", "w")
    renamed = ResponseSet("b", tuple(replace(one, id=f"other {one.id}") for one in other.answers))
    assert len(match([response_set("a", "x", "y"), renamed]).prompts) == 2
    with pytest.raises(DataError, match="no prompt is in all of them"):
        match([response_set("a", "x", "y"), renamed], by="id")


def test_a_text_that_is_there_twice_is_matched_in_order() -> None:
    sets = [response_set(name, *texts, ids=False) for name, texts in (("a", "xy"), ("b", "vw"))]
    same = [ResponseSet(one.name, tuple(replace(answers, prompt="again") for answers in one.answers)) for one in sets]
    matched = match(same)
    assert [[one.responses[0] for one in row] for row in matched.answers] == [["x", "y"], ["v", "w"]]


def test_unmatched_prompts_are_refused_or_counted() -> None:
    sets = [response_set("a", "x", "y", "z"), response_set("b", "v", "w")]
    with pytest.raises(DataError, match=r"a:3: this prompt is not in all .* 1 of 3 in 'a', 0 of 2 in 'b'; allow a partial match"):
        match(sets)
    matched = match(sets, partial=True)
    assert (len(matched.prompts), matched.unmatched) == (2, (1, 0))


def test_one_id_with_two_texts_is_refused() -> None:
    other = response_set("b", "v")
    changed = ResponseSet("b", (replace(other.answers[0], prompt="something else"),))
    with pytest.raises(DataError, match=r"b:1: id 'q0' stands for another prompt than in a:1"):
        match([response_set("a", "x"), changed])


def test_prompts_come_from_whichever_file_has_them() -> None:
    """As with Arena-Hard v0.1, whose answers name the question by its id alone."""
    bare = [ResponseSet(one.name, tuple(replace(answers, prompt=None) for answers in one.answers)) for one in (response_set("b", "v"),)]
    assert match([*bare, response_set("a", "x")]).prompts[0].text == "question 0"
    with pytest.raises(DataError, match=r"b:1: no file has the prompt of id 'q0'"):
        match([*bare, replace(bare[0], name="c")])
    with pytest.raises(DataError, match=r"b:1: the file has the id 'q0' but no prompt to match by"):
        match([*bare, response_set("a", "x", ids=False)])


def test_sets_that_cannot_be_told_apart() -> None:
    with pytest.raises(DataError, match="different names, got a, a"):
        match([response_set("a", "x"), response_set("a", "y")])


def test_matching_by_id_without_ids_is_refused() -> None:
    with pytest.raises(DataError, match=r"b:1: no id to match by"):
        match([response_set("a", "x"), response_set("b", "y", ids=False)], by="id")


def test_lengths_are_tokens_only_where_all_files_have_them() -> None:
    """Tokens are counted as letters and one more: 3 and 2 (mean 2.5) against 5 tokens, 2 and 1 (mean 1.5) against 4 characters."""

    def counted(name: str, *texts: str) -> ResponseSet:
        answered = response_set(name, texts)
        return ResponseSet(name, (replace(answered.answers[0], tokens=tuple(len(text) + 1 for text in texts)),))

    with_tokens = match([counted("a", "xy", "z"), counted("b", "four")])
    assert with_tokens.unit == "tokens"
    np.testing.assert_allclose(with_tokens.lengths, [[2.5], [5.0]])
    without = match([counted("a", "xy", "z"), response_set("b", "four")])
    assert without.unit == "characters"
    np.testing.assert_allclose(without.lengths, [[1.5], [4.0]])


def test_rollouts_hold_texts_alone() -> None:
    rollout = match([response_set("a", ("x", "y")), response_set("b", "v")]).rollout(0, 0)
    assert [response.text for response in rollout.responses] == ["x", "y"]
    assert (rollout.prompt.text, rollout.policy_version, len(rollout.responses[0].token_ids)) == ("question 0", None, 0)
