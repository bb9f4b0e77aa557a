"""Responses in the file formats of AlpacaEval and Arena-Hard, so that their own judges can be run on them.

AlpacaEval and Arena-Hard v2 have one response per prompt; v0.1 has all of them. Token counts are written where they are known. They count
the policy's tokens; Arena-Hard itself counts tiktoken's. Arena-Hard's style control needs the counts, and so does ``show_result.py`` of
v0.1; ``utils/add_markdown_info.py`` of lmarena/arena-hard-auto writes a new ``metadata``. Arena-Hard takes a model's name from the name of
the file.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from raypref.errors import DataError
from raypref.evaluation.response_files import ResponseSet
from raypref.evaluation.response_formats import Answers


def write_responses(path: Path, answered: ResponseSet) -> None:
    """One JSON object per line with id, prompt, responses and, where they are known, tokens: the plain format of ``read_responses``.

    Raises:
        DataError: a prompt has no text.
    """
    rows = []
    for answers in answered.answers:
        known = {"id": answers.id, "tokens": None if answers.tokens is None else list(answers.tokens)}
        prompt = [{"role": role, "content": content} for role, content in answers.chat] or _prompt(answers)
        row = {"prompt": prompt, "responses": list(answers.responses)}
        rows.append(row | {name: value for name, value in known.items() if value is not None})
    _write_lines(path, rows)


def write_alpaca_eval(path: Path, answered: ResponseSet, *, response: int = 0) -> None:
    """A list of ``instruction``, ``output`` and ``generator``, as ``alpaca_eval --model_outputs`` reads it.

    Args:
        path: ``.json``; replaced.
        answered: the policy's responses, each prompt with its text.
        response: index of the response that is written, for each prompt.

    Raises:
        DataError: a prompt has no text, or no response of that index.
    """
    chosen = answered.picked([response] * len(answered.answers), answered.name)
    items = [{"instruction": _prompt(one), "output": one.responses[0], "generator": answered.name} for one in chosen.answers]
    _write(path, json.dumps(items, ensure_ascii=False, indent=2) + "\n")


def write_arena_hard_v01(path: Path, answered: ResponseSet) -> None:
    """``model_answer/<model>.jsonl`` of v0.1: all responses of a question as its ``choices``, of which its judge reads the first.

    Args:
        path: ``.jsonl``, named after the model; replaced.
        answered: the policy's responses, each prompt with its question's id.

    Raises:
        DataError: a prompt has no id.
    """
    rows = []
    for answers in answered.answers:
        counts = answers.tokens or (None,) * len(answers.responses)
        turns = [{"content": text} | _count(count) for text, count in zip(answers.responses, counts, strict=True)]
        row = {
            "question_id": _id(answers),
            "answer_id": _answer_id(answered.name, answers),
            "model_id": answered.name,
            "choices": [{"index": index, "turns": [turn]} for index, turn in enumerate(turns)],
            "tstamp": time.time(),
        }
        rows.append(row | ({"conv_metadata": _count(counts[0])} if len(counts) == 1 and answers.tokens else {}))
    _write_lines(path, rows)


def write_arena_hard_v2(path: Path, answered: ResponseSet, *, response: int = 0) -> None:
    """``model_answer/<model>.jsonl`` since v2: the conversation, which ends with ``{"answer": text}``.

    Args:
        path: ``.jsonl``, named after the model; replaced.
        answered: the policy's responses, each prompt with its question's id (``uid``) and text.
        response: index of the response that is written, for each prompt.

    Raises:
        DataError: a prompt has no id, no text, or no response of that index.
    """
    chosen = answered.picked([response] * len(answered.answers), answered.name)
    rows = []
    for answers in chosen.answers:
        turns = answers.chat or (("user", _prompt(answers)),)
        answer = {"role": "assistant", "content": {"answer": answers.responses[0]}}
        rows.append(
            {
                "uid": _id(answers),
                "ans_id": _answer_id(answered.name, answers),
                "model": answered.name,
                "messages": [*({"role": role, "content": content} for role, content in turns), answer],
                "tstamp": time.time(),
                "metadata": _count(answers.tokens[0] if answers.tokens else None),
            }
        )
    _write_lines(path, rows)


def _prompt(answers: Answers) -> str:
    if answers.prompt is None:
        raise DataError(f"{answers.place}: the file has the id {answers.id!r} but no prompt; give the file with the questions")
    return answers.prompt


def _id(answers: Answers) -> str:
    if answers.id is None:
        raise DataError(f"{answers.place}: no id, by which Arena-Hard finds the question")
    return answers.id


def _answer_id(name: str, answers: Answers) -> str:
    """A hash of the policy's name and the question's id."""
    return hashlib.blake2b(f"{name}/{answers.id}".encode(), digest_size=11).hexdigest()


def _count(tokens: int | None) -> dict[str, int]:
    return {} if tokens is None else {"token_len": tokens}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    """The file appears under its name only when it is complete."""
    partial = path.with_name(path.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)
