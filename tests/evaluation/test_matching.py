"""The same prompts in several files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypref.data.identity import content_id
from raypref.errors import DataError
from raypref.evaluation.matching import match
from raypref.evaluation.response_files import ResponseSet, read_responses
from raypref.evaluation.response_formats import Asked
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
    nameless = [content_id("question 0"), content_id("question 1")]
    assert [prompt.id for prompt in matched.prompts] == (["q0", "q1"] if first else nameless)


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
    with pytest.raises(DataError, match=r"a:3: this prompt is not in all .* 1 of 3 in 'a', 0 of 2 in 'b'; --partial compares the 2"):
        match(sets)
    matched = match(sets, partial=True)
    assert (len(matched.prompts), matched.unmatched) == (2, (1, 0))


def test_one_id_with_two_texts_is_refused() -> None:
    other = response_set("b", "v")
    changed = ResponseSet("b", (replace(other.answers[0], prompt="something else"),))
    with pytest.raises(DataError, match=r"b:1: id 'q0' stands for another prompt than in a:1; match by text \(--match text\)"):
        match([response_set("a", "x"), changed], by="id")
    with pytest.raises(DataError, match=r"a:1: this prompt is not in all sets .*; id 'q0' stands for another prompt in b:1"):
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


def _written(path: Path, *rows: dict[str, Any]) -> ResponseSet:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_responses(path)


def _numbered(number: int, prompt: str, answer: str) -> dict[str, Any]:
    """A row as ``raypref generate`` wrote it before: the number of the row as its id."""
    told = {"revisions": [[answer]], "tokens": [[2]], "finish_reasons": ["stop"]}
    return {"id": str(number), "prompt": prompt, "responses": [answer], **told}


def test_numbers_of_rows_do_not_match_prompts(tmp_path: Path) -> None:
    """The same two prompts in another order, each file with the numbers of its rows as ids."""
    a = _written(tmp_path / "a.jsonl", _numbered(0, "p", "a: p"), _numbered(1, "q", "a: q"))
    b = _written(tmp_path / "b.jsonl", _numbered(0, "q", "b: q"), _numbered(1, "p", "b: p"))
    matched = match([a, b])
    assert [prompt.text for prompt in matched.prompts] == ["p", "q"]
    assert [[one.responses[0] for one in row] for row in matched.answers] == [["a: p", "a: q"], ["b: p", "b: q"]]
    with pytest.raises(DataError, match=r"b\.jsonl:2: id '1' stands for another prompt than in .*a\.jsonl:2|id '0' stands for another"):
        match([a, b], by="id")


@pytest.mark.parametrize("partial", [False, True])
def test_questions_numbered_from_one_do_not_meet_rows_numbered_from_zero(tmp_path: Path, partial: bool) -> None:
    """FastChat's question_id 1, 2, 3 beside rows 0, 1, 2: two ids are common, and each stands for another question."""
    theirs = [{"question_id": k, "model_id": "m", "choices": [{"index": 0, "turns": [f"their answer to question {k}"]}]} for k in (1, 2, 3)]
    ours = _written(tmp_path / "ours.jsonl", *(_numbered(k - 1, f"question {k}", f"our answer to question {k}") for k in (1, 2, 3)))
    answered = _written(tmp_path / "theirs.jsonl", *theirs)
    with pytest.raises(DataError, match=r"theirs\.jsonl:1: the file names this prompt by its id '1' alone.*--questions FILE.*--match id"):
        match([answered, ours], partial=partial)
    asked = {str(k): Asked(f"question {k}") for k in (1, 2, 3)}
    matched = match([read_responses(tmp_path / "theirs.jsonl", questions=asked), ours], partial=partial)
    assert [[one.responses[0][-1] for one in row] for row in matched.answers] == [["1", "2", "3"]] * 2


def test_another_system_turn_makes_another_prompt(tmp_path: Path) -> None:
    """The last turn is the same; without a system turn it is a plain text, which is one turn of the user."""
    asked = {"role": "user", "content": "q"}
    chats: list[Any] = ["q", [{"role": "system", "content": "s"}, asked], [{"role": "system", "content": "t"}, asked]]
    history = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}, asked]
    rows = [{"prompt": chat, "response": str(number)} for number, chat in enumerate([*chats, history])]
    first, second = _written(tmp_path / "a.jsonl", *rows), _written(tmp_path / "b.jsonl", *rows[:0:-1], {**rows[0], "prompt": [asked]})
    matched = match([first, second])
    assert [[one.responses[0] for one in row] for row in matched.answers] == [["0", "1", "2", "3"]] * 2
    assert [prompt.chat[-1:] for prompt in matched.prompts] == [(("user", "q"),)] * 4


def test_a_chat_beside_its_text_is_told_apart(tmp_path: Path) -> None:
    """A file that holds the whole chat as one text, as some formats must, is matched by id where the user says so."""
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    whole = _written(tmp_path / "a.jsonl", {"id": "x", "prompt": chat, "response": "1"})
    flat = _written(tmp_path / "b.jsonl", {"id": "x", "prompt": "system: s\n\nuser: q", "response": "2"})
    with pytest.raises(DataError, match=r"b\.jsonl:1 has the same text as other turns of a chat; .*--match id"):
        match([whole, flat])
    for sets in ([whole, flat], [flat, whole]):
        assert match(sets, by="id").prompts[0].chat == (("system", "s"), ("user", "q"))


def test_repeated_prompts_are_told(caplog: pytest.LogCaptureFixture) -> None:
    one = response_set("a", "x", "y", ids=False)
    match([ResponseSet("a", tuple(replace(answers, prompt="again") for answers in one.answers))])
    assert "1 prompts occur earlier in the same file" in caplog.text


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
