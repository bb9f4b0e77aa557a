"""Difficulties of prompts from a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raypref.errors import DataError
from raypref.evaluation.difficulties import read_difficulties
from raypref.evaluation.matching import Matched, match
from raypref.evaluation.response_files import ResponseSet
from raypref.evaluation.response_formats import Answers


def a_set(name: str, *prompts: str) -> ResponseSet:
    return ResponseSet(name, tuple(Answers(f"{name}:{k}", f"id-{prompt}", prompt, ("yes",)) for k, prompt in enumerate(prompts)))


BASELINE = a_set("base", "a", "b", "c")


def matched() -> Matched:
    """The first set has another order than the baseline: rows are counted in the baseline's file."""
    return match([a_set("mine", "c", "a", "b"), BASELINE])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("instruction_difficulty.csv", "index,instruction_difficulty\n0,1.5\n1,-2.0\n2,0.25\n"),
        ("unnamed.csv", "\ufeff,instruction_difficulty\r\n2,0.25\r\n0,1.5\r\n1,-2.0\r\n"),
        ("prompts.csv", 'instruction,difficulty\n"a",1.5\n"b",-2\nc,0.25\nd,7\n'),
        ("ids.jsonl", "".join(json.dumps({"id": f"id-{p}", "difficulty": d}) + "\n" for p, d in zip("abc", (1.5, -2, 0.25), strict=True))),
        ("list.json", json.dumps([{"prompt": p, "difficulty": d} for p, d in zip("abc", (1.5, -2, 0.25), strict=True)])),
    ],
)
def test_every_layout_gives_each_prompt_its_number(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    np.testing.assert_array_equal(read_difficulties(tmp_path / name).of(matched(), BASELINE), [0.25, 1.5, -2.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,difficulty\n0,1\n1,2\n", "index goes over 2 rows, but 'base', whose rows it counts, has 3"),
        ("index,difficulty\n0,1\n1,2\n2,3\n3,4\n", "index goes over 4 rows"),
        ("index,difficulty\n1,1\n2,2\n3,3\n", "index goes over 3 rows, but 'base', whose rows it counts, has 3"),
        ("prompt,difficulty\na,1\nb,2\n", "no difficulty of the prompt of base:2, and of 1 prompts in all"),
        ("prompt,difficulty\na,1\na,2\n", r"d\.csv:3: prompt 'a' has the difficulty 2\.0, and 1\.0 before"),
        ("prompt,difficulty\na,high\n", r"d\.csv:2: difficulty: 'high'; expected a finite number"),
        ("prompt,difficulty\na,nan\n", "expected a finite number"),
        ("prompt,difficulty\na,1e999\n", "expected a finite number"),
        ("prompt,difficulty\na,\n", "expected a finite number"),
        ("prompt,difficulty\na\n", r"d\.csv:2: 1 cells, but 2 columns"),
        ("prompt,difficulty,difficulty\na,1,2\n", r"d\.csv:1: the first line must name each column, once"),
        ("prompt,hardness\na,1\n", r"d\.csv:2: has the fields prompt, hardness; expected one of difficulty, instruction_difficulty"),
        ("question,difficulty\na,1\n", "expected one of prompt, instruction, id, index"),
        ("prompt,difficulty\n", "the file is empty"),
        ("", "the file is empty"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_difficulties(tmp_path / "d.csv").of(matched(), BASELINE)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_difficulties(tmp_path / "none.csv")
    (tmp_path / "d.csv").write_bytes(b"prompt,difficulty\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"d\.csv:2: not UTF-8"):
        read_difficulties(tmp_path / "d.csv")


@pytest.mark.parametrize("record", [{"id": True, "difficulty": 1}, {"id": 1, "difficulty": True}, {"id": 1, "difficulty": 10**400}])
def test_what_is_no_id_or_no_number(record: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=r"d\.jsonl:1: (id|difficulty): .*; expected (the prompt's id|a finite number)"):
        read_difficulties(tmp_path / "d.jsonl")
