"""A file of questions put to a judge's endpoint, for ``raypref ask``: answers are written as they come, and kept after a failure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from raypref.errors import DataError, OracleError
from raypref.oracles.base import Chat
from raypref.oracles.support.answer_file import answered, read_lines
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

    def answer(self, replies: Sequence[str]) -> dict[str, str]:
        """The answer as the file has it."""
        return {"id": self.id, "answer": replies[0]}


def read_questions(path: Path) -> list[FreeQuestion]:
    """The questions of a JSON Lines file, ``{"id", "question"}``.

    Raises:
        DataError: naming the line that is not one, or whose id occurs before; or there is none.
    """
    questions: dict[str, FreeQuestion] = {}
    for place, record in read_lines(path):
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
    """The ids that have an answer in the file already.

    Raises:
        DataError: the file holds something else than answers to these questions.
    """
    known, found = {question.id for question in questions}, set[str]()
    for place, record in read_lines(path, answers=True):
        name = record.get("id")
        if name not in known or not isinstance(record.get("answer"), str):
            raise DataError(f"{place}: not an answer to one of the {len(known)} questions (id {name!r}); give another --output")
        found.add(str(name))
    return found


def ask_all(oracle: HasEndpoint, questions: Sequence[FreeQuestion], output: Path) -> None:
    """Ask, and append each answer to ``output``; those that are there are not asked for again.

    Raises:
        ConfigError: the endpoint refuses the key, the model or the request.
        OracleError: the budget is spent, the endpoint has stopped answering, or some questions got no answer: a request failed, or the
            reply was cut short. What was answered is in the file.
        RunFailed: the file cannot be written.
    """
    done = answered_before(output, questions)
    todo = [([(("user", question.text),)], question.answer) for question in questions if question.id not in done]
    if not todo:
        return
    with closing(oracle.opened()) as endpoint:

        def ask(chats: Sequence[Chat]) -> list[str | None]:
            return [reply.text or None for reply in endpoint.ask(chats)]

        failed = len(todo) - sum(map(len, answered(output, todo, ask, oracle.concurrency)))
    if failed:
        raise OracleError(
            f"{failed} of {len(todo)} questions got no answer: the request failed, or the reply was cut short (oracle.max_tokens); the "
            f"others are in {output}, and the same command asks for these again"
        )
