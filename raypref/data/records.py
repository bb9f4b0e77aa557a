"""Where files, hub data sets and Python objects become records, each with the place that it came from.

All data of a run enters through ``read_source``: what the config names or the caller passes becomes records, or is refused.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypref.data.chats import shortened
from raypref.data.config import DataConfig
from raypref.data.files import SUFFIXES, OnBad, Row, raise_it, read_file
from raypref.data.folders import chosen_split, read_folder, rows_of_dataset
from raypref.data.objects import DEEPEST, path_of_object, plain_value, rows_of_objects
from raypref.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_PLACES_SHOWN = 3
_FIELDS_SHOWN = 30
_LARGEST_ID_BITS = 4096
"""Of an id that is a number; Python writes no longer numbers than 4,300 digits."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the data gives it."""

    values: Mapping[str, Any]
    place: str
    """``file:line``, or its equivalent; every message about the record begins with it."""


@dataclass(slots=True)
class BadRecords:
    """What happens to records that cannot be used (``data.on_bad_record``): the first one is raised, or all are left out and counted."""

    skip: bool
    count: int = 0
    first: list[str] = field(default_factory=list)
    """What was wrong with the first ones, each with its place."""

    def add(self, error: DataError) -> None:
        """Count a record that is left out.

        Raises:
            DataError: the error itself, unless bad records are skipped.
        """
        if not self.skip:
            raise error
        self.count += 1
        if len(self.first) < _PLACES_SHOWN:
            self.first.append(str(error))

    def report(self, key: str) -> None:
        """Log how many records were left out, and what was wrong with the first ones."""
        if self.count:
            what = "1 record" if self.count == 1 else f"{self.count} records"
            logger.warning("%s: %s skipped (data.on_bad_record=skip); the first: %s", key, what, "; ".join(self.first))


def read_source(path: str | None, objects: Any, config: DataConfig, bad: BadRecords, *, key: str = "data.path") -> Iterator[Record]:
    """The records of a run's data: of the objects passed, otherwise of the path that the config names.

    Args:
        path: as in ``data.path``.
        objects: passed by the caller in its place; None: nothing was.
        config: the data section.
        bad: takes what is wrong with a record.
        key: of the path, for messages.

    Raises:
        ConfigError: there is neither.
        DataError: the data cannot be read, or there is none.
    """
    held_out = key == "data.held_out"
    split = config.held_out_split if held_out and config.held_out_split is not None else config.split
    if objects is not None and (given := path_of_object(objects)) is None:
        yield from wrap_objects(objects, config.prompt_field, split, bad.add)
        return
    chosen = path if objects is None else given
    if chosen is None:
        kind = "prompts" if held_out else config.type
        raise ConfigError(f"{key}: required, unless {kind} are passed to run()")
    record = None
    for record in read_records(chosen, split, subset=config.subset, on_bad=bad.add):
        yield record
    if record is None:
        file = Path(os.path.expanduser(chosen))
        nothing = "the file is empty" if file.is_file() and not file.stat().st_size else "no usable record in it"
        raise DataError(f"{chosen}: {nothing}")


def listed(objects: Any, config: DataConfig) -> Any:
    """Objects that a caller passes, as a list of records; None and a path as they are.

    For callers that must know whether there are any: a data frame has no truth value, and a generator can be read once.

    Raises:
        DataError: the objects are not plainly records.
    """
    if objects is None or path_of_object(objects) is not None:
        return objects
    if isinstance(objects, list | tuple) and not objects:
        return []
    return list(wrap_objects(objects, config.prompt_field, config.held_out_split or config.split))


def read_records(path: str, split: str, *, subset: str | None = None, on_bad: OnBad = raise_it) -> Iterator[Record]:
    """Records of a data file, of a directory (as ``datasets`` reads it), or of a ``datasets`` data set.

    Args:
        path: as in ``data.path``.
        split: the split of a directory or a hub data set; empty: the only one. A single file has none: a name is not used, and a part
            of a split, such as ``train[:10]``, is refused.
        subset: as in ``data.subset``.
        on_bad: takes what is wrong with a row; raises it by default.

    Raises:
        DataError: the path does not exist or is damaged, or a line is broken; the message names file and line.
    """
    location = Path(os.path.expanduser(path))
    try:
        is_folder, is_file = location.is_dir(), location.is_file()
    except OSError as error:  # too long for a path, or in a folder that may not be read
        raise DataError(f"{shortened(path)}: not readable: {error.strerror}") from error
    if is_folder:
        rows = read_folder(location, split, subset, on_bad)
    elif is_file:
        _refuse_parts(path, split, subset)
        rows = read_file(location, on_bad)
    elif any(suffix in (*SUFFIXES, ".txt") for suffix in location.suffixes) or path.startswith((".", "/", "~")):
        raise DataError(f"{path}: no such file or directory (looked in {Path.cwd()})")
    else:
        rows = _read_hub(path, split, subset)
    for values, place in rows:
        yield Record(values, place)


def _refuse_parts(path: str, split: str, subset: str | None) -> None:
    """Refuse what a single file does not have; the name of a split alone is no part of a file."""
    if subset is not None:
        raise DataError(f"{path}: a single file has no subsets, but data.subset is {subset!r}; remove it, or name a directory")
    if any(sign in split for sign in "[+"):
        raise DataError(f"{path}: a single file is read as a whole, but data.split is {split!r}; give a file of the records that are meant")


def wrap_objects(items: Any, field: str, split: str = "", on_bad: OnBad = raise_it) -> Iterator[Record]:
    """Records from Python objects: mappings as they are, anything else (a text, a list of messages) as the value of ``field``.

    A ``Record`` stays what it is, and keeps its place.

    Args:
        items: see ``raypref.data.objects``.
        field: the prompt's.
        split: of a ``DatasetDict``.
        on_bad: takes what is wrong with an item; raises it by default.

    Raises:
        DataError: the items cannot be read as records, or there is none.
    """
    number = -1
    for number, item in enumerate(rows_of_objects(items, split)):
        place = f"record {number} of those passed to run()"
        try:
            values = None if isinstance(item, Record) else plain_value(item if isinstance(item, Mapping) else {field: item}, place)
        except DataError as error:
            on_bad(error)
            continue
        yield item if values is None else Record(values, place)
    if number < 0:
        raise DataError("the data passed: it holds no record")


def value_of(record: Record, name: str) -> Any:
    """A field's value, or None where the record has none.

    Raises:
        DataError: a text in it is not valid Unicode, or holds a NUL.
    """
    value = record.values.get(name)
    if value is not None:
        check_texts(record, name, value)
    return value


def field_of(record: Record, name: str, key: str) -> Any:
    """A field's value.

    Raises:
        DataError: the record has no such field; the message names its fields, and the config key that chooses another field. Or a text
            in it is not valid Unicode, or holds a NUL.
    """
    value = value_of(record, name)
    if value is None:
        what = f"the field {name!r} has no value" if name in record.values else f"no field {name!r}"
        raise DataError(f"{record.place}: {what}; fields here: {fields_of(record)}; see {key}")
    return value


def name_record(record: Record, number: int, config: DataConfig, names: dict[str, str]) -> str:
    """The record's id, or its number from 0 where it has none; also entered in ``names`` (id -> place).

    Raises:
        DataError: another record has the same id, or the id is neither a text nor a number.
    """
    given = value_of(record, config.id_field)
    name = str(number) if given is None else id_text(given)
    if name is None:
        raise DataError(f"{record.place}: the id must be a text or a number, got {shortened(given)} (field: data.id_field)")
    if given is None and name in names:
        name = f"row {number}"  # the data has this number as an id of another record
    if name in names:
        raise DataError(f"{record.place}: id {name!r} is also that of {names[name]}; ids must differ (field: data.id_field)")
    names[name] = record.place
    return name


def id_text(given: Any) -> str | None:
    """An id as text: 7 and 7.0, as a column with gaps has it, are the same id. None where it is neither a text nor a number."""
    if isinstance(given, float):
        given = int(given) if given.is_integer() else given if math.isfinite(given) else None
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return None
    return None if isinstance(given, int) and given.bit_length() > _LARGEST_ID_BITS else str(given)


def fields_of(record: Record) -> str:
    """The names of a record's fields, for a message."""
    names = [str(name).encode("utf-8", "backslashreplace").decode() for name in record.values]
    return ", ".join(names[:_FIELDS_SHOWN]) + (", ..." if len(names) > _FIELDS_SHOWN else "")


def check_texts(record: Record, name: str, value: Any) -> None:
    """Refuse a value with a text that is not valid. It is walked without recursion: it may be nested more deeply than functions are called.

    Raises:
        DataError: a text in it is not valid Unicode, or holds a NUL; or it is nested too deeply.
    """
    if isinstance(value, str) and value.isascii() and "\0" not in value:  # most values of a large file
        return
    todo: list[tuple[int, Any]] = [(0, value)]
    while todo:
        depth, part = todo.pop()
        if isinstance(part, str):
            if (wrong := _wrong_text(part)) is not None:
                raise DataError(f"{record.place}: field {name!r} holds {wrong}: {shortened(part)}; remove it")
        elif isinstance(part, Mapping | list | tuple):
            if depth > DEEPEST:
                raise DataError(f"{record.place}: field {name!r} is nested more than {DEEPEST} levels deep")
            items = [*part, *part.values()] if isinstance(part, Mapping) else part
            todo.extend((depth + 1, item) for item in items)


def _wrong_text(text: str) -> str | None:
    """What makes a text unusable, in words."""
    if "\0" in text:
        return f"a NUL character at position {text.index(chr(0))}"
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"invalid Unicode (half a surrogate pair) at position {error.start}"
    return None


def _read_hub(name: str, split: str, subset: str | None) -> Iterator[Row]:
    import datasets
    import datasets.exceptions
    import pyarrow

    failures = (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, RuntimeError)
    try:
        rows = datasets.load_dataset(name, subset, split=split or None)
    except failures as error:
        raise DataError(
            f"data.path: {name!r} is not a file or directory here (looked in {Path.cwd()}), and as a data set with split {split!r} "
            f"it cannot be loaded: {error}"
        ) from error
    if isinstance(rows, datasets.DatasetDict):
        rows = rows[chosen_split(split, rows, name)]
    yield from rows_of_dataset(rows, f"{name}, split {split}")
