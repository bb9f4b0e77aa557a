"""Data that is passed as Python objects: what is accepted, and what is refused with a word on what to pass instead.

| passed | read as |
| --- | --- |
| a list, a tuple, a generator of texts, chats or mappings | one record each |
| a ``datasets.Dataset``, a pandas or Polars DataFrame, a pyarrow Table | one record per row |
| a mapping of columns, all of the same length | one record per row |
| a ``datasets.DatasetDict``, a mapping of tables | the rows of ``data.split`` |
| a path that exists | as ``data.path`` |
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raypref.data.chats import shortened
from raypref.data.files import refuse_double_names
from raypref.data.folders import chosen_split
from raypref.errors import DataError

_LIST = "pass a list of texts, of chats (lists of messages), or of mappings"
DEEPEST = 64
"""Levels of nesting in a value; more than any chat or tool has."""


def rows_of_objects(data: Any, split: str) -> Iterator[Any]:
    """The records that were passed, one after the other: mappings, texts, chats, or whatever a list holds.

    Raises:
        DataError: the data cannot be read as a list of records.
    """
    if isinstance(data, Mapping):
        yield from _of_mapping(data, split)
    elif isinstance(data, io.IOBase):
        raise DataError(f"the data passed: got an open file, {shortened(data)}; pass its path, so that its suffix says how it is read")
    elif isinstance(data, str | bytes | bytearray | set | frozenset) or data is None:
        why = ", whose order is not the same from run to run" if isinstance(data, set | frozenset) else ""
        raise DataError(f"the data passed: got {type(data).__name__} {shortened(data)}{why}; {_LIST}; a file is named by an existing path")
    elif (table := _table_rows(data)) is not None:
        yield from table
    else:
        try:
            items = iter(data)
        except TypeError:
            raise DataError(f"the data passed: got {type(data).__name__} {shortened(data)}; {_LIST}") from None
        yield from items


def path_of_object(data: Any) -> str | None:
    """The path that was passed in place of records; None if it is no path that exists."""
    if not isinstance(data, str | Path) or data == "":  # an empty text would be the directory in which the run was started
        return None
    try:
        path = Path(data).expanduser()
        exists = path.exists()
    except (OSError, ValueError, RuntimeError):  # a text that is too long for a path, or has a NUL
        return None
    if isinstance(data, Path) and not exists:
        raise DataError(f"{data}: no such file or directory (looked in {Path.cwd()})")
    return str(path) if exists else None


def plain_value(value: Any, place: str, depth: int = 0) -> Any:
    """A value with Python's types in place of numpy's and pandas'; lists in place of arrays, None in place of pandas' NA.

    Raises:
        DataError: the value is nested too deeply, or contains itself.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > DEEPEST:
        raise DataError(f"{place}: a value is nested more than {DEEPEST} levels deep")
    if isinstance(value, Mapping):
        return {key: plain_value(item, place, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, place, depth + 1) for item in value]
    kind = type(value).__module__.partition(".")[0]
    if kind == "numpy" or kind == "torch":
        return plain_value(value.tolist(), place, depth + 1)
    return None if kind == "pandas" and type(value).__name__ in ("NAType", "NaTType") else value


def _of_mapping(data: Mapping[Any, Any], split: str) -> Iterator[Any]:
    if data and all(_table_rows(part) is not None for part in data.values()):
        yield from _table_rows(data[chosen_split(split, data, "the data passed")]) or ()
        return
    columns = {name: _column(values) for name, values in data.items()}
    lengths = {None if column is None else len(column) for column in columns.values()}
    if len(lengths) != 1 or None in lengths:
        raise DataError(
            f"the data passed: a mapping with the keys {shortened(list(data))}, which is neither columns of one length nor splits; a "
            f"single record is passed in a list: [{{...}}]"
        )
    known = {name: column for name, column in columns.items() if column is not None}
    for cells in zip(*known.values(), strict=True):
        yield dict(zip(known, cells, strict=True))


def _column(values: Any) -> Sequence[Any] | None:
    """A column of a table; None for what is one record's value, such as a text, a number, or a chat."""
    if type(values).__module__.partition(".")[0] in ("numpy", "pandas") and hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        return None
    is_chat = bool(values) and all(isinstance(item, Mapping) and "role" in item for item in values)
    return None if is_chat else values


def _table_rows(data: Any) -> Iterable[Any] | None:
    """The rows of a table of pandas, Polars, pyarrow or datasets; None for anything else."""
    kind = type(data).__module__.partition(".")[0]
    if kind == "pandas" and hasattr(data, "columns"):
        names = [str(name) for name in data.columns]
        refuse_double_names(names, "the data passed")
        return (dict(zip(names, map(_present, row), strict=True)) for row in data.itertuples(index=False, name=None))
    if kind == "polars" and hasattr(data, "iter_rows"):
        return iter(data.iter_rows(named=True))
    if kind == "pyarrow" and hasattr(data, "to_batches"):
        refuse_double_names(data.schema.names, "the data passed")
        return (row for batch in data.to_batches() for row in batch.to_pylist())
    if kind == "datasets" and hasattr(data, "with_format"):
        return iter(data.with_format(None))
    return None


def _present(cell: Any) -> Any:
    """None for the NaN with which pandas marks an empty cell."""
    return None if isinstance(cell, float) and math.isnan(cell) else cell
