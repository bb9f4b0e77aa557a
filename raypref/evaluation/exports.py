"""Responses in the file formats of AlpacaEval and Arena-Hard, whose own judges can then be run on them.

AlpacaEval and Arena-Hard v2 have one response a prompt; v0.1 takes them all. Token counts are written where they are known, and are the
policy's tokens: Arena-Hard counts tiktoken's. Its style control, and v0.1's ``show_result.py`` in any case, need the counts;
``utils/add_markdown_info.py`` of lmarena/arena-hard-auto replaces ``metadata`` by its own. Arena-Hard takes a model's name from the file's.
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
    """One JSON object a line with id, prompt, responses and, where they are known, tokens: what ``read_responses`` calls plain.

    Raises:
        DataError: a prompt has no text.
    """
    rows = []
    for own in answered.answers:
        known = {"id": own.id, "tokens": None if own.tokens is None else list(own.tokens)}
        asked = [{"role": role, "content": content} for role, content in own.chat] or _prompt(own)
        row = {"prompt": asked, "responses": list(own.responses)}
        rows.append(row | {name: value for name, value in known.items() if value is not None})
    _write_lines(path, rows)


def write_alpaca_eval(path: Path, answered: ResponseSet, *, response: int = 0) -> None:
    """``instruction``, ``output`` and ``generator``: what ``alpaca_eval --model_outputs`` takes.

    Args:
        path: ``.json``; replaced as a whole.
        answered: the policy's responses, each prompt with its text.
        response: which one of each prompt.

    Raises:
        DataError: a prompt has no text, or not so many responses.
    """
    chosen = answered.picked([response] * len(answered.answers), answered.name)
    items = [{"instruction": _prompt(own), "output": own.responses[0], "generator": answered.name} for own in chosen.answers]
    _write(path, json.dumps(items, ensure_ascii=False, indent=2) + "\n")


def write_arena_hard_v01(path: Path, answered: ResponseSet) -> None:
    """``model_answer/<model>.jsonl`` of v0.1: all responses of a question as its ``choices``, of which its judge reads the first.

    Args:
        path: ``.jsonl``, named after the model; replaced as a whole.
        answered: the policy's responses, each prompt with its question's id.

    Raises:
        DataError: a prompt has no id.
    """
    rows = []
    for own in answered.answers:
        counts = own.tokens or (None,) * len(own.responses)
        turns = [{"content": text} | _count(count) for text, count in zip(own.responses, counts, strict=True)]
        row = {
            "question_id": _id(own),
            "answer_id": _answer_id(answered.name, own),
            "model_id": answered.name,
            "choices": [{"index": index, "turns": [turn]} for index, turn in enumerate(turns)],
            "tstamp": time.time(),
        }
        rows.append(row | ({"conv_metadata": _count(counts[0])} if len(counts) == 1 and own.tokens else {}))
    _write_lines(path, rows)


def write_arena_hard_v2(path: Path, answered: ResponseSet, *, response: int = 0) -> None:
    """``model_answer/<model>.jsonl`` since v2: the conversation, which ends with ``{"answer": text}``.

    Args:
        path: ``.jsonl``, named after the model; replaced as a whole.
        answered: the policy's responses, each prompt with its question's id (``uid``) and text.
        response: which one of each prompt.

    Raises:
        DataError: a prompt has no id or no text, or not so many responses.
    """
    chosen = answered.picked([response] * len(answered.answers), answered.name)
    rows = []
    for own in chosen.answers:
        asked = own.chat or (("user", _prompt(own)),)
        answer = {"role": "assistant", "content": {"answer": own.responses[0]}}
        rows.append(
            {
                "uid": _id(own),
                "ans_id": _answer_id(answered.name, own),
                "model": answered.name,
                "messages": [*({"role": role, "content": content} for role, content in asked), answer],
                "tstamp": time.time(),
                "metadata": _count(own.tokens[0] if own.tokens else None),
            }
        )
    _write_lines(path, rows)


def _prompt(answers: Answers) -> str:
    if answers.prompt is None:
        raise DataError(f"{answers.place}: no prompt here, only the id {answers.id!r}; give the file with the questions")
    return answers.prompt


def _id(answers: Answers) -> str:
    if answers.id is None:
        raise DataError(f"{answers.place}: no id; Arena-Hard finds the question by it")
    return answers.id


def _answer_id(name: str, answers: Answers) -> str:
    """The same for the same policy and question."""
    return hashlib.blake2b(f"{name}/{answers.id}".encode(), digest_size=11).hexdigest()


def _count(tokens: int | None) -> dict[str, int]:
    return {} if tokens is None else {"token_len": tokens}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    """The file appears when it is whole."""
    partial = path.with_name(path.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)
