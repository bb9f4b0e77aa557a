"""Sets of responses, read from files of several formats.

| name | file | fields |
| --- | --- | --- |
| generate | JSONL of ``raypref generate`` | prompt, responses, revisions, tokens, finish_reasons, and id or content_id |
| rollouts | Parquet files of a run's ``rollouts/`` | prompt, chat, responses, response_token_ids, finish_reasons |
| alpaca_eval | AlpacaEval's outputs, a JSON list | instruction, output, and generator, input |
| arena_hard_v01 | Arena-Hard's answers v0.1 and FastChat's, JSONL | question_id, choices[].turns[].content, and model_id, token_len |
| arena_hard | Arena-Hard's answers since v2, JSONL | uid, messages, and model, metadata.token_len |
| responses | JSONL, JSON list, Parquet | prompt (a text or chat messages), responses, and id, tokens |
| response | JSONL, JSON list, Parquet | prompt (a text or chat messages), response, and id, tokens |

All records of a file have the format of the first one. A record that fits two formats is refused, unless both read the same prompt and the
same responses from it; ``layout`` (``--format``) decides between them. The questions of arena_hard_v01 are in another file.
``raypref.evaluation.exports`` writes the formats of AlpacaEval and Arena-Hard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raypref.data.identity import Turns
from raypref.data.record_prompts import PARTS
from raypref.data.records import Record, field_of, read_records
from raypref.errors import DataError
from raypref.evaluation.response_formats import FORMATS, Answers, Asked, Format, formats_of, question_of


@dataclass(frozen=True, slots=True)
class ResponseSet:
    """The responses of one policy."""

    name: str
    answers: tuple[Answers, ...]

    def picked(self, indices: Sequence[int], name: str) -> ResponseSet:
        """The set with one response of each prompt, such as the best of n.

        Args:
            indices: (prompts,) of the responses.
            name: of the new set.
        """
        chosen = zip(self.answers, indices, strict=True)
        return ResponseSet(name, tuple(_only(answers, index) for answers, index in chosen))


def read_responses(
    path: Path,
    name: str | None = None,
    *,
    questions: Mapping[str, Asked] | None = None,
    column: str | None = None,
    layout: str | None = None,
) -> ResponseSet:
    """A policy's responses, or references.

    Args:
        path: file in one of the formats above.
        name: of the policy; default: the name that the file gives, otherwise the file's own name without its suffix.
        questions: id -> prompt (``read_questions``), for a file without prompts.
        column: read a file with prompts whose responses are in this field, such as ``reference``; its other responses are not read.
        layout: the name of the format that is taken where records fit it and another one.

    Raises:
        DataError: naming the place: a record has no known format, not that of the first one, or two; a response is missing, an id occurs
            twice, an id is not among the questions, or the file has the outputs of several policies.
    """
    answered: list[Answers] = []
    policies: dict[str, str] = {}
    places: dict[str, str] = {}
    first: Format | None = None
    for source in records_of(path):
        record = source if column is None else _from_column(source, column)
        first = first or _format_of(record, layout)
        answers = _read(record, first, decided=layout == first.name)
        if answers.id is not None and places.setdefault(answers.id, record.place) != record.place:
            raise DataError(f"{record.place}: id {answers.id!r} is also that of {places[answers.id]}; ids must differ")
        if answers.policy is not None:
            policies.setdefault(answers.policy, record.place)
        answered.append(_with_prompt(answers, questions))
    if not answered:
        raise DataError(f"{path}: no responses in this file")
    if len(policies) > 1:
        (one, place), (another, other) = list(policies.items())[:2]
        raise DataError(f"{other}: a response of {another!r}, but {place} has one of {one!r}; give each policy its own file")
    return ResponseSet(name or next(iter(policies), path.stem), tuple(answered))


def read_rounds(path: Path) -> list[ResponseSet]:
    """The answers after 0, 1, ... N revisions, from a file of ``raypref generate --revisions N``.

    Returns:
        (N + 1,) sets, named ``0 revisions`` and so on.

    Raises:
        DataError: naming the place of a record whose revisions are missing, malformed, or not as many as in the first record.
    """
    rounds: list[list[Answers]] = []
    for record in records_of(path):
        chains, counts = _chains(record, "revisions", str), _chains(record, "tokens", int)
        lengths = {len(chain) for chain in (*chains, *counts)}
        if len(chains) != len(counts) or len(lengths) != 1 or (rounds and lengths != {len(rounds)}):
            raise DataError(f"{record.place}: 'revisions' and 'tokens' must list as many answers for each response as in the first record")
        rounds = rounds or [[] for _ in chains[0]]
        answers = _format_of(record, "generate").read(record)
        for number, answered in enumerate(rounds):
            texts, tokens = (tuple(chain[number] for chain in column) for column in (chains, counts))
            answered.append(replace(answers, responses=texts, tokens=tokens, finish_reasons=None))
    if not rounds:
        raise DataError(f"{path}: no responses in this file")
    return [ResponseSet(f"{number} revisions", tuple(answered)) for number, answered in enumerate(rounds)]


def read_questions(path: Path) -> dict[str, Asked]:
    """id -> prompt, from Arena-Hard's ``question.jsonl``, either version, or of a file with id and prompt.

    Raises:
        DataError: naming the place of a record without id or prompt, or of an id that occurs twice.
    """
    prompts: dict[str, Asked] = {}
    for record in records_of(path):
        name, prompt = question_of(record)
        if name in prompts:
            raise DataError(f"{record.place}: id {name!r} is there twice")
        prompts[name] = prompt
    return prompts


def records_of(path: Path) -> Iterator[Record]:
    """Records of a data file: JSON lines, a JSON list, Parquet, CSV.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or directory (looked in {Path.cwd()})")
    return read_records(str(path), split="")


def _from_column(record: Record, column: str) -> Record:
    """A record of id, prompt and the responses in ``column``, one or a list."""
    given = field_of(record, column, "--column")
    kept = {key: record.values[key] for key in ("id", "prompt", "tools", *PARTS) if key in record.values}
    return Record(kept | {"responses": [given] if isinstance(given, str) else given}, record.place)


def _chains(record: Record, field: str, kind: type) -> list[tuple[Any, ...]]:
    """A field with a list for each response: its answers before and after each revision, or their lengths."""
    chains = field_of(record, field, "raypref generate --revisions")
    if not isinstance(chains, list) or not all(isinstance(one, list) and all(isinstance(item, kind) for item in one) for one in chains):
        what = "texts" if kind is str else "counts"
        raise DataError(f"{record.place}: {field!r} must hold a list of {what} for each response, got {chains!r}")
    return [tuple(one) for one in chains]


def _format_of(record: Record, layout: str | None) -> Format:
    """The format of a file by its first record: ``layout`` if the record fits it, otherwise the first one that it fits."""
    fitting = formats_of(record)
    if not fitting:
        known = "; ".join(map(str, FORMATS))
        raise DataError(
            f"{record.place}: no known format of responses; fields here: {', '.join(map(str, record.values))}; expected {known}"
        )
    return next((each for each in FORMATS if each.name == layout and each.fits(record)), fitting[0])


def _read(record: Record, layout: Format, *, decided: bool) -> Answers:
    """A record in the format of its file.

    Args:
        decided: whether the format was chosen by name; otherwise a record that reads differently in another format is refused.
    """
    if missing := set(layout.fields) - record.values.keys():
        raise DataError(f"{record.place}: no field {', '.join(sorted(missing))}, which the file's first record has")
    others = [] if decided else [each for each in formats_of(record) if each is not layout]
    if not others:
        return layout.read(record)
    readings = [_reading(record, each) for each in (layout, *others)]
    for other, reading in zip(others, readings[1:], strict=True):
        if reading is None or reading != readings[0]:
            raise DataError(
                f"{record.place}: fits two formats of responses, {layout} and {other}, and they do not give the same prompt and responses; "
                f"say which one is meant: --format {layout.name}, or --format {other.name}"
            )
    return layout.read(record)


def _reading(record: Record, layout: Format) -> tuple[Turns | None, tuple[str, ...]] | None:
    """The prompt and the responses that a format gives; None where the record is not valid in it."""
    try:
        answers = layout.read(record)
    except DataError:
        return None
    return answers.turns, answers.responses


def _with_prompt(answers: Answers, questions: Mapping[str, Asked] | None) -> Answers:
    """With the prompt from the file of questions, where the record has none."""
    if questions is None or answers.prompt is not None:
        return answers
    if answers.id is None or answers.id not in questions:
        raise DataError(f"{answers.place}: id {answers.id!r} is not among the {len(questions)} questions given")
    asked = questions[answers.id]
    return replace(answers, prompt=asked.text, chat=asked.chat)


def _only(answers: Answers, index: int) -> Answers:
    part = slice(index, index + 1)
    if not 0 <= index < len(answers.responses):
        raise DataError(f"{answers.place}: no response {index}; there are {len(answers.responses)}, counted from 0")
    return replace(
        answers,
        responses=answers.responses[part],
        tokens=None if answers.tokens is None else answers.tokens[part],
        finish_reasons=None if answers.finish_reasons is None else answers.finish_reasons[part],
    )
