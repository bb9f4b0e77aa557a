"""Checks of what a record says about its answers: texts, numbers, places in a list, truth values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.data.chats import refuse_written_chat, shortened
from raypref.data.records import Record
from raypref.errors import DataError

_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
_LONGEST_NUMBER = 40
"""Characters of a number that is given as text."""


def answer_texts(answers: Sequence[Any], record: Record, name: str) -> tuple[str, ...]:
    """The answers themselves.

    Raises:
        DataError: an answer is no text, or is empty.
    """
    for answer in answers:
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(f"{record.place}: an answer (field {name}) must be a text that is not empty, got {shortened(answer)}")
        refuse_written_chat(answer, record.place, f"an answer (field {name})")
    return tuple(answers)


def numbers(scores: Sequence[Any], record: Record, name: str) -> NDArray[np.float64]:
    """Scores: finite numbers, or such numbers as texts (a CSV file has no others).

    Raises:
        DataError: one is neither.
    """
    found = [_number(score) for score in scores]
    if None in found:
        wrong = scores[found.index(None)]
        raise DataError(f"{record.place}: a score (field {name!r}) must be a finite number, got {shortened(wrong)}")
    return np.array(found, dtype=np.float64)


def index_of(value: Any, record: Record, name: str, low: int, high: int, meaning: str = "") -> int:
    """A whole number from ``low`` to ``high``; 1.0 counts as 1, as a Parquet column with gaps has it.

    Args:
        value: what the record holds.
        record: for its place.
        name: of the field.
        low: smallest value.
        high: largest value.
        meaning: of the values, for the message; default: places in the list of answers.

    Raises:
        DataError: it is none.
    """
    number = whole(value)
    if number is None or not low <= number <= high:
        wanted = f"{low} {meaning}" if meaning else f"the number of an answer, {low} to {high}"
        raise DataError(f"{record.place}: {name!r} must be {wanted}, got {shortened(value)}")
    return number


def whole(value: Any) -> int | None:
    """A whole number, also as a float or as text; None for anything else."""
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def truth_of(value: Any, record: Record, name: str) -> bool:
    """True or false, also as 1 and 0 (1.0 and 0.0 in a Parquet column with gaps) or as text.

    Raises:
        DataError: it is none of these.
    """
    truth = _TRUTHS.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None
    if truth is None:
        raise DataError(f"{record.place}: {name!r} must be true (desirable) or false, got {shortened(value)}")
    return truth


def _number(value: Any) -> float | None:
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER and value.isascii() and "_" not in value:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
