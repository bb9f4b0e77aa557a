"""The difficulty of prompts from a file, for length-controlled win rates.

| file | key | number |
| --- | --- | --- |
| AlpacaEval's instruction_difficulty.csv | index: the prompt's row in the baseline's file, from 0 | instruction_difficulty |
| CSV, JSONL, JSON list, Parquet | prompt (or instruction), or id | difficulty (or instruction_difficulty) |

A row number says nothing about which prompt is meant. So a file with ``index`` is accepted only if it has a number for each row of the
baseline's file and none beyond.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypref.data.chats import shortened
from raypref.data.records import id_text
from raypref.errors import DataError
from raypref.evaluation.logistic import Array
from raypref.evaluation.matching import Matched
from raypref.evaluation.response_files import ResponseSet, records_of

KEYS = ("prompt", "instruction", "id", "index")
"""Fields that name a prompt; the first one of these that is there counts."""
NUMBERS = ("difficulty", "instruction_difficulty")


@dataclass(frozen=True, slots=True)
class Difficulties:
    """Numbers by prompt."""

    path: Path
    key: str
    """What the keys are: ``prompt``, ``id`` or ``index``."""
    numbers: Mapping[str, float]

    def of(self, matched: Matched, baseline: ResponseSet) -> Array:
        """(N,) gamma of the matched prompts.

        Args:
            matched: all sets, the baseline among them.
            baseline: as it was read; the rows of its file are what ``index`` counts.

        Raises:
            DataError: a prompt has no number, or ``index`` does not fit the baseline's file.
        """
        row_of = {answers.place: str(row) for row, answers in enumerate(baseline.answers)}
        if self.key == "index" and set(self.numbers) != set(row_of.values()):
            raise DataError(
                f"{self.path}: index goes over {len(self.numbers)} rows, but {baseline.name!r}, whose rows it counts, has "
                f"{len(row_of)}; give a file with the same prompts, or name them by prompt or id in place of index"
            )
        place = matched.place(baseline.name)
        of_prompts: dict[str, list[str | None]] = {
            "prompt": [prompt.text for prompt in matched.prompts],
            "id": [answers.id for answers in matched.answers[place]],
            "index": [row_of[answers.place] for answers in matched.answers[place]],
        }
        names = of_prompts[self.key]
        missing = [number for number, name in enumerate(names) if name not in self.numbers]
        if missing:
            first = matched.answers[place][missing[0]].place
            raise DataError(f"{self.path}: no difficulty of the prompt of {first}, and of {len(missing)} prompts in all; give all of them")
        return np.array([self.numbers[str(name)] for name in names])


def read_difficulties(path: Path) -> Difficulties:
    """Read a file of difficulties.

    Raises:
        DataError: naming the place: the file has no such fields, a number is not finite, or a prompt occurs twice with other numbers.
    """
    numbers: dict[str, float] = {}
    key = number = None
    for place, values in _rows(path):
        key = key or _first(KEYS, values, place)
        number = number or _first(NUMBERS, values, place)
        name = given if isinstance(given := values.get(key), str) or key in ("prompt", "instruction") else id_text(given)
        if not isinstance(name, str):
            raise DataError(f"{place}: {key}: {shortened(given)}; expected the prompt's {key}")
        value = _number(values.get(number), f"{place}: {number}")
        name = name if key in ("prompt", "instruction") else name.strip()
        if numbers.setdefault(name, value) != value:
            raise DataError(f"{place}: {key} {name[:60]!r} has the difficulty {value}, and {numbers[name]} before; give one")
    if key is None:
        raise DataError(f"{path}: the file is empty; expected prompts with their difficulty")
    return Difficulties(path, "prompt" if key == "instruction" else key, numbers)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records; a column without a name is the index, as pandas writes it."""
    for record in records_of(path):
        yield record.place, {(name or "index"): value for name, value in record.values.items()}


def _first(wanted: tuple[str, ...], values: Mapping[str, Any], place: str) -> str:
    for name in wanted:
        if name in values:
            return name
    raise DataError(f"{place}: has the fields {', '.join(map(str, values))}; expected one of {', '.join(wanted)}")


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: {shortened(value)}; expected a finite number")
    return number
