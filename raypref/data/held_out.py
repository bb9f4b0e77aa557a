"""Held-out records: which they are, and whether they hold answers, on which the learner's loss can be measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from raypref.data.config import DataConfig
from raypref.data.layouts import fields_by_layout
from raypref.data.records import BadRecords, Record, read_source
from raypref.errors import DataError

T = TypeVar("T")


def set_apart(items: Sequence[T], count: int, kind: str) -> tuple[list[T], list[T]]:
    """The items to train on, and the last ``count`` for evaluation.

    Args:
        items: prompts or records, in the data's order.
        count: ``data.held_out_prompts``.
        kind: what the items are, for the message.

    Raises:
        DataError: nothing is left to train on.
    """
    if count and count >= len(items):
        raise DataError(f"data.held_out_prompts: {count} are to be set apart from {len(items)} {kind}, which leaves none to train on")
    return list(items[: len(items) - count]), list(items[len(items) - count :])


def read_held_out(config: DataConfig, objects: Any, bad: BadRecords) -> list[Record] | None:
    """The records of ``data.held_out``, or of the objects passed in its place; None where there is neither.

    Args:
        config: the data section.
        objects: passed by the caller; an empty list means that nothing is held out.
        bad: takes what is wrong with a record.

    Raises:
        DataError: the data cannot be read, or there is none.
    """
    if objects is None and config.held_out is None:
        return None
    if isinstance(objects, list) and not objects:
        return []
    return list(read_source(config.held_out, objects, config, bad, key="data.held_out"))


def hold_answers(records: Iterable[Record], config: DataConfig) -> bool:
    """Whether one of the records has the fields of ``data.path`` with answers. All of them must have them then; otherwise all are prompts.

    Args:
        records: the held-out ones.
        config: the data section; its ``type`` says what answers are.
    """
    if config.type == "demonstrations":
        layouts: list[tuple[str, ...]] = [(config.response_field,)]
    else:
        layouts = list(fields_by_layout(config).values())
    return any(all(record.values.get(name) is not None for name in fields) for record in records for fields in layouts)
