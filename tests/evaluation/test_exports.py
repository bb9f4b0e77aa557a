"""Responses in other tools' formats, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raypref.errors import DataError
from raypref.evaluation.exports import write_alpaca_eval, write_arena_hard_v01, write_arena_hard_v2, write_responses
from raypref.evaluation.response_files import ResponseSet, read_responses
from tests.evaluation.response_sets import response_set

SET = response_set("mine", ("x", "yz"), ("v", "wörd"), tokens=True)


def _read(path: Path) -> list[tuple[str | None, str | None, tuple[str, ...], tuple[int, ...] | None]]:
    return [(one.id, one.prompt, one.responses, one.tokens) for one in read_responses(path).answers]


def test_alpaca_eval_there_and_back(tmp_path: Path) -> None:
    write_alpaca_eval(tmp_path / "outputs.json", SET)
    rows = json.loads((tmp_path / "outputs.json").read_text())
    assert rows[1] == {"instruction": "question 1", "output": "v", "generator": "mine"}
    assert read_responses(tmp_path / "outputs.json").name == "mine"
    write_alpaca_eval(tmp_path / "outputs.json", SET, response=1)
    assert _read(tmp_path / "outputs.json") == [(None, "question 0", ("yz",), None), (None, "question 1", ("wörd",), None)]
    assert [path.name for path in tmp_path.iterdir()] == ["outputs.json"]


def test_arena_hard_v01_there_and_back(tmp_path: Path) -> None:
    write_arena_hard_v01(tmp_path / "mine.jsonl", SET)
    row = json.loads((tmp_path / "mine.jsonl").read_text().splitlines()[1])
    assert row["choices"][1] == {"index": 1, "turns": [{"content": "wörd", "token_len": 4}]}
    assert (row["question_id"], row["model_id"]) == ("q1", "mine")
    assert "conv_metadata" not in row
    assert _read(tmp_path / "mine.jsonl") == [("q0", None, ("x", "yz"), (1, 2)), ("q1", None, ("v", "wörd"), (1, 4))]


def test_arena_hard_v01_has_a_length_for_the_conversation_where_there_is_one(tmp_path: Path) -> None:
    write_arena_hard_v01(tmp_path / "mine.jsonl", response_set("mine", "abc", tokens=True))
    row = json.loads((tmp_path / "mine.jsonl").read_text())
    assert row["conv_metadata"] == {"token_len": 3}


def test_arena_hard_v2_there_and_back(tmp_path: Path) -> None:
    chat = (("system", "Be brief."), ("user", "Why?"))
    answered = ResponseSet("mine", (replace(SET.answers[0], chat=chat, prompt="system: Be brief.\n\nuser: Why?"), SET.answers[1]))
    write_arena_hard_v2(tmp_path / "mine.jsonl", answered, response=1)
    row = json.loads((tmp_path / "mine.jsonl").read_text().splitlines()[0])
    assert row["messages"][-1] == {"role": "assistant", "content": {"answer": "yz"}}
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    first, second = read_responses(tmp_path / "mine.jsonl").answers
    assert (first.id, first.prompt, first.chat, first.responses, first.tokens) == ("q0", answered.answers[0].prompt, chat, ("yz",), (2,))
    assert (second.prompt, second.responses) == ("question 1", ("wörd",))


def test_the_best_of_n_alone(tmp_path: Path) -> None:
    write_alpaca_eval(tmp_path / "outputs.json", SET.picked([1, 0], "best"))
    assert [(row["output"], row["generator"]) for row in json.loads((tmp_path / "outputs.json").read_text())] == [
        ("yz", "best"),
        ("v", "best"),
    ]


def test_without_lengths(tmp_path: Path) -> None:
    write_arena_hard_v01(tmp_path / "mine.jsonl", response_set("mine", "x"))
    write_arena_hard_v2(tmp_path / "other.jsonl", response_set("mine", "x"))
    assert _read(tmp_path / "mine.jsonl")[0][3] is None
    assert _read(tmp_path / "other.jsonl")[0][3] is None


@pytest.mark.parametrize("write", [write_arena_hard_v01, write_arena_hard_v2])
def test_arena_hard_needs_ids(tmp_path: Path, write: Callable[[Path, ResponseSet], None]) -> None:
    with pytest.raises(DataError, match="mine:1: no id, by which Arena-Hard finds the question"):
        write(tmp_path / "mine.jsonl", response_set("mine", "x", ids=False))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_alpaca_eval, write_arena_hard_v2])
def test_what_holds_prompts_needs_them(tmp_path: Path, write: Callable[[Path, ResponseSet], None]) -> None:
    bare = ResponseSet("mine", (replace(SET.answers[0], prompt=None),))
    with pytest.raises(DataError, match="mine:1: the file has the id 'q0' but no prompt"):
        write(tmp_path / "mine.jsonl", bare)
    with pytest.raises(DataError, match="mine:1: no response 2; there are 2, counted from 0"):
        write(tmp_path / "mine.jsonl", SET, response=2)


def test_plain_responses_there_and_back(tmp_path: Path) -> None:
    write_responses(tmp_path / "mine.jsonl", SET)
    assert _read(tmp_path / "mine.jsonl") == [("q0", "question 0", ("x", "yz"), (1, 2)), ("q1", "question 1", ("v", "wörd"), (1, 4))]
