"""MT-Bench's judge: answers graded one by one, or compared in both orders; each judgment is on disk as soon as it is there.

Source: lm-sys/FastChat ``fastchat/llm_judge/gen_judgment.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raypref.errors import DataError, OracleError
from raypref.evaluation.mt_bench.judgments import Grading, check_judgment, key_of, texts_of
from raypref.evaluation.mt_bench.questions import Answers, JudgePrompt, Question
from raypref.oracles.support.answer_file import Ask, answered, read_lines


def gradings(
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    prompts: Mapping[tuple[bool, bool], JudgePrompt],
    references: Answers,
    against: str | None = None,
) -> list[Grading]:
    """All judgments of a benchmark, by turn, then by question, then by model.

    Args:
        questions: a question with one turn is graded once.
        answers: model -> its answers.
        prompts: from ``read_prompts``.
        references: for the questions that need one.
        against: grade pairs: every other model with this one. Default: each answer alone.

    Raises:
        DataError: a question that needs a reference answer has none.
    """
    missing = [question.id for question in questions if question.needs_reference and len(references.get(question.id, ())) < 1]
    if missing:
        raise DataError(f"--references: no reference answer for the questions {', '.join(map(str, missing))} (math, reasoning, coding)")
    found = []
    for turn in (1, 2):
        for question in questions:
            if len(question.turns) < turn:
                continue
            prompt = prompts[question.needs_reference, turn == 2]
            for name, given in answers.items():
                if against is None:
                    models: tuple[str, ...] = (name,)
                    texts: tuple[str, ...] = (_message(prompt, question, turn, {"": given[question.id]}, references),)
                elif name != against:
                    models, sides = (name, against), (given[question.id], answers[against][question.id])
                    orders = ({"_a": sides[0], "_b": sides[1]}, {"_a": sides[1], "_b": sides[0]})
                    texts = tuple(_message(prompt, question, turn, order, references) for order in orders)
                else:
                    continue
                found.append(Grading(question, turn, models, prompt, texts))
    return found


def grade(
    items: Sequence[Grading], ask: Ask, judge: str, path: Path, at_once: int, told: Callable[[int], None] = lambda done: None
) -> list[dict[str, Any]]:
    """Ask for every judgment that ``path`` does not hold yet, and append each to it.

    Args:
        items: from ``gradings``.
        ask: sends chats to the judge.
        judge: the judge's model, as the file names it.
        path: JSON lines; judgments of an earlier, interrupted call are not asked for again.
        at_once: judgments that are asked for together.
        told: called with the number of judgments that are there.

    Returns:
        The judgment of every item, in their order.

    Raises:
        DataError: the file holds something else than judgments, or a judgment of other answers under the same names.
        OracleError: requests failed; what was answered is in the file, and the same command asks for the rest.
        RunFailed: the file cannot be written.
    """
    known = {}
    for place, written in read_lines(path, answers=True):
        check_judgment(written, place)
        if written["judge"][0] == judge:
            known[key_of(written)] = written
    for item in items:
        if (record := known.get(item.key)) is not None and texts_of(record) != item.texts:
            raise DataError(
                f"{path}: the judgment of question {item.question.id}, turn {item.turn}, {' and '.join(item.models)} is of other answers; "
                f"remove the file, or give other names or another --output"
            )
    requests = [
        ([(("system", item.prompt.system), ("user", text)) for text in item.texts], partial(item.record, judge))
        for item in items
        if item.key not in known
    ]
    told(len(items) - len(requests))
    for records in answered(path, requests, ask, at_once):
        known |= {key_of(record): record for record in records}
        told(sum(item.key in known for item in items))
    if failed := sum(item.key not in known for item in items):
        raise OracleError(f"{failed} of {len(items)} judgments are missing, since requests failed; run the same command again for them")
    return [known[item.key] for item in items]


def _message(prompt: JudgePrompt, question: Question, turn: int, sides: Mapping[str, tuple[str, ...]], references: Answers) -> str:
    """The user's message: FastChat's template, in which the answers of a side are ``answer_a`` or ``answer_a_1`` and ``answer_a_2``."""
    reference = references.get(question.id, ()) if question.needs_reference else ()
    values = {f"ref_answer_{number}": text for number, text in enumerate(reference, start=1)}
    if turn == 1:
        values |= {"question": question.turns[0]} | {f"answer{side}": answers[0] for side, answers in sides.items()}
    else:
        values |= {f"question_{number}": text for number, text in enumerate(question.turns, start=1)}
        values |= {f"answer{side}_{number}": text for side, answers in sides.items() for number, text in enumerate(answers, start=1)}
    try:
        return prompt.template.format(**values)
    except KeyError as error:
        raise DataError(f"the judge's prompt {prompt.name}: it has the part {error}, which question {question.id} does not give") from None
