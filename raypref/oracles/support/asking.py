"""A file of questions put to a judge's endpoint, for ``raypref ask``: answers are written as they come, and kept after a failure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from raypref.errors import DataError, OracleError
from raypref.oracles.support.endpoint import Endpoint


@runtime_checkable
class HasEndpoint(Protocol):
    """An oracle that asks a chat endpoint."""

    concurrency: int

    def opened(self) -> Endpoint:
        """The endpoint, tried with one short request."""
        ...


@dataclass(frozen=True, slots=True)
class FreeQuestion:
    """A question that is put as it is."""

    id: str
    text: str


def read_questions(path: Path) -> list[FreeQuestion]:
    """The questions of a JSON Lines file, ``{"id", "question"}``.

    Raises:
        DataError: naming the line that is not one, or whose id occurs before; or there is none.
    """
    questions: dict[str, FreeQuestion] = {}
    for place, record in _records(path, _read_text(path).split("\n") if path.is_file() else None):
        name, text = record.get("id"), record.get("question")
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            here = ", ".join(f"{key} ({type(value).__name__})" for key, value in record.items())
            raise DataError(f"{place}: expected 'id' and 'question', both texts (str), the question not empty; fields here: {here}")
        if name in questions:
            raise DataError(f"{place}: the id {name!r} occurs twice")
        questions[name] = FreeQuestion(name, text)
    if not questions:
        raise DataError(f"{path}: no questions in this file")
    return list(questions.values())


def answered_before(path: Path, questions: Sequence[FreeQuestion]) -> set[str]:
    """The ids that have an answer in the file already. A last line that was torn is removed.

    Raises:
        DataError: the file holds something else than answers to these questions.
    """
    if not path.exists():
        return set()
    content = _read_text(path)
    whole = content[: content.rfind("\n") + 1]
    known, answered = {question.id for question in questions}, set[str]()
    for place, record in _records(path, whole.split("\n")):
        name = record.get("id")
        if name not in known or not isinstance(record.get("answer"), str):
            raise DataError(f"{place}: not an answer to one of the {len(known)} questions (id {name!r}); give another --output")
        answered.add(str(name))
    if whole != content:
        path.write_text(whole, encoding="utf-8")
    return answered


def ask_all(oracle: HasEndpoint, questions: Sequence[FreeQuestion], output: Path) -> None:
    """Ask, and append each answer to ``output``; those that are there are not asked for again.

    Raises:
        ConfigError: the endpoint refuses the key, the model or the request.
        OracleError: the budget is spent, the endpoint has stopped answering, or some questions got no answer: a request failed, or the
            reply was cut short. What was answered is in the file.
    """
    done = answered_before(output, questions)
    todo = [question for question in questions if question.id not in done]
    if not todo:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    endpoint = oracle.opened()
    failed = 0
    try:
        with output.open("a", encoding="utf-8") as file:
            for start in range(0, len(todo), oracle.concurrency):
                part = todo[start : start + oracle.concurrency]
                for question, reply in zip(part, endpoint.ask([(("user", question.text),) for question in part]), strict=True):
                    if reply.text:
                        file.write(json.dumps({"id": question.id, "answer": reply.text}, ensure_ascii=False) + "\n")
                    failed += not reply.text
                file.flush()
    finally:
        endpoint.close()
    if failed:
        raise OracleError(
            f"{failed} of {len(todo)} questions got no answer: the request failed, or the reply was cut short (oracle.max_tokens); the "
            f"others are in {output}, and the same command asks for these again"
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 text, so that it cannot be JSON Lines: {error}") from error


def _records(path: Path, lines: Iterable[str] | None) -> Iterable[tuple[str, dict[str, object]]]:
    if lines is None:
        raise DataError(f"{path}: no such file")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: no JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected an object, got {type(record).__name__}")
        yield f"{path}:{number}", record
