"""MT-Bench's files: questions of two turns, answers, reference answers and prompts for the judge, in FastChat's format.

Its scripts ``gen_judgment.py`` and ``show_result.py`` read what is
written here, and the other way round.

    questions    {"question_id", "category", "turns": [text, text], "reference"?}
    answers      {"question_id", "answer_id", "model_id", "choices": [{"index", "turns": [text, text]}], "tstamp"}
    prompts      {"name", "type", "system_prompt", "prompt_template", "output_format"}
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raypref.data.chats import shortened
from raypref.data.records import Record, id_text
from raypref.errors import DataError
from raypref.evaluation.mt_bench.questions import Answers, JudgePrompt, Mode, Question
from raypref.evaluation.response_files import records_of
from raypref.output.whole_file import write_whole


def read_questions(path: Path) -> list[Question]:
    """Questions, in the file's order.

    Raises:
        DataError: naming the place: a field is missing or has another form, or an id occurs twice.
    """
    questions = [_question(record) for record in records_of(path)]
    places: dict[int | str, str] = {}
    for question in questions:
        if (first := places.setdefault(question.id, question.place)) != question.place:
            raise DataError(f"{question.place}: question_id {question.id} is also that of {first}")
    if not questions:
        raise DataError(f"{path}: no questions in this file")
    return questions


def read_answers(path: Path, questions: Sequence[Question] | None = None) -> Answers:
    """The first choice of each question in a file of answers, or of reference answers.

    Args:
        path: the file.
        questions: which of them must be answered in full; default: none.

    Raises:
        DataError: naming the place: a record has another form, an id occurs twice, or a question has no answer or too few turns.
    """
    answers: dict[int | str, tuple[str, ...]] = {}
    for record in records_of(path):
        name = _id(record)
        if name in answers:
            raise DataError(f"{record.place}: question_id {name} occurs twice in this file")
        choices = record.values.get("choices")
        choice = choices[0] if isinstance(choices, Sequence) and not isinstance(choices, str) and choices else None
        answers[name] = _texts(record, choice.get("turns") if isinstance(choice, Mapping) else None, "choices[0].turns")
    for question in questions or ():
        turns = answers.get(question.id, ())
        if len(turns) < len(question.turns):
            raise DataError(f"{path}: question {question.id} has {len(turns)} of {len(question.turns)} answers")
    return answers


def write_answers(path: Path, model: str, answers: Mapping[int | str, Sequence[Sequence[str]]]) -> None:
    """Write answers so that FastChat reads them; the file appears when it is complete.

    Args:
        path: replaced. FastChat takes the file's name without ``.jsonl`` as the model's.
        model: the model's name.
        answers: question_id -> for each choice, its turns.
    """
    now = time.time()
    lines = []
    for name, choices in answers.items():
        record = {
            "question_id": name,
            "answer_id": hashlib.blake2b(json.dumps([model, name, choices]).encode(), digest_size=11).hexdigest(),
            "model_id": model,
            "choices": [{"index": index, "turns": list(turns)} for index, turns in enumerate(choices)],
            "tstamp": now,
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(lines))


def read_prompts(path: Path, mode: Mode) -> dict[tuple[bool, bool], JudgePrompt]:
    """The judge's prompts of one mode: (with a reference, both turns) -> prompt.

    Raises:
        DataError: the file does not have one of the four, or its form is another.
    """
    by_name = {str(record.values.get("name")): record for record in records_of(path)}
    plain, reference = ("single-v1", "single-math-v1") if mode == "single" else ("pair-v2", "pair-math-v1")
    prompts = {}
    for with_reference, both_turns in ((False, False), (False, True), (True, False), (True, True)):
        name = (reference if with_reference else plain) + ("-multi-turn" if both_turns else "")
        if (record := by_name.get(name)) is None:
            raise DataError(f"{path}: no prompt named {name!r}; prompts here: {', '.join(sorted(by_name))}")
        system, template = (record.values.get(key) for key in ("system_prompt", "prompt_template"))
        if not isinstance(system, str) or not isinstance(template, str):
            raise DataError(f"{record.place}: 'system_prompt' and 'prompt_template' must be texts")
        prompts[with_reference, both_turns] = JudgePrompt(name, system, template)
    return prompts


def _question(record: Record) -> Question:
    category = record.values.get("category")
    if not isinstance(category, str):
        raise DataError(
            f"{record.place}: 'category' must be a text, got {shortened(category)}; a question has question_id, category, turns"
        )
    turns = _texts(record, record.values.get("turns"), "turns")
    if not turns or not all(text.strip() for text in turns):
        raise DataError(f"{record.place}: 'turns' must hold texts that are not empty")
    return Question(_id(record), category, turns, record.place)


def _id(record: Record) -> int | str:
    name: Any = record.values.get("question_id")
    if id_text(name) is None:
        raise DataError(f"{record.place}: 'question_id' must be a text or a number, got {shortened(name)}")
    return name if isinstance(name, int) else str(name)


def _texts(record: Record, value: Any, field: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{record.place}: {field!r} must be a list of texts, got {shortened(value)}")
    return tuple(value)
