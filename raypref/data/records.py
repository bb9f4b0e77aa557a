"""Where files, hub data sets and Python objects become records, each with the place that it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypref.data.config import DataConfig
from raypref.errors import DataError

SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the data gives it."""

    values: Mapping[str, Any]
    place: str
    """``file:line``, or its equivalent; every message about the record begins with it."""


def read_records(path: str, split: str) -> Iterator[Record]:
    """Records of a JSONL or Parquet file, of a directory of them (in the order of their names), or of a ``datasets`` data set.

    Args:
        path: as in ``data.path``.
        split: the split of a hub data set.

    Raises:
        DataError: the path does not exist, or a line is broken; the message names file and line.
    """
    location = Path(path)
    if location.is_dir():
        files = sorted(file for file in location.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise DataError(f"{path}: no {' or '.join(SUFFIXES)} file in this directory")
        for file in files:
            yield from _read_file(file)
    elif location.is_file():
        yield from _read_file(location)
    elif location.suffix in (*SUFFIXES, ".json", ".csv", ".txt") or path.startswith((".", "/", "~")):
        raise DataError(f"{path}: no such file or directory (looked in {Path.cwd()})")
    else:
        yield from _read_hub(path, split)


def wrap_objects(items: Iterable[Any], field: str) -> Iterator[Record]:
    """Records from Python objects: mappings as they are, anything else (a text, a list of messages) as the value of ``field``.

    A ``Record`` stays what it is, and keeps its place.
    """
    for number, item in enumerate(items):
        yield (
            item
            if isinstance(item, Record)
            else Record(item if isinstance(item, Mapping) else {field: item}, f"record {number} of those passed to run()")
        )


def field_of(record: Record, name: str, key: str) -> Any:
    """A field's value.

    Raises:
        DataError: the record has no such field; the message names its fields, and the config key that chooses another field.
    """
    if record.values.get(name) is None:
        raise DataError(f"{record.place}: no field {name!r}; fields here: {', '.join(map(str, record.values))}; see {key}")
    return record.values[name]


def name_record(record: Record, number: int, config: DataConfig, names: dict[str, str]) -> str:
    """The record's id, or its number from 0 where it has none; also entered in ``names`` (id -> place).

    Raises:
        DataError: another record has the same id.
    """
    given = record.values.get(config.id_field)
    name = str(number if given is None else given)
    if name in names:
        raise DataError(f"{record.place}: id {name!r} is also that of {names[name]}; ids must differ (field: data.id_field)")
    names[name] = record.place
    return name


def _read_file(file: Path) -> Iterator[Record]:
    if file.suffix == ".jsonl":
        return _read_jsonl(file)
    if file.suffix == ".parquet":
        return _read_parquet(file)
    raise DataError(f"{file}: expected a {' or '.join(SUFFIXES)} file")


def _read_jsonl(file: Path) -> Iterator[Record]:
    with file.open(encoding="utf-8", errors="strict") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield Record(_parse(line, f"{file}:{number}"), f"{file}:{number}")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 text: {error}") from error


def _parse(line: str, place: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: broken JSON: {error.msg} at column {error.colno}; expected one object per line") from error
    if not isinstance(values, dict):
        raise DataError(f"{place}: expected an object such as {{'prompt': ...}}, got {type(values).__name__}")
    return values


def _read_parquet(file: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            number = 0
            for batch in opened.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield Record(values, f"{file}, row {number}")
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file}: not a readable Parquet file: {error}") from error


def _read_hub(name: str, split: str) -> Iterator[Record]:
    import datasets
    import datasets.exceptions

    try:
        rows = datasets.load_dataset(name, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f"data.path: {name!r} is not a file or directory here (looked in {Path.cwd()}), and as a data set with split {split!r} "
            f"it cannot be loaded: {error}"
        ) from error
    for number, values in enumerate(rows):
        yield Record(values, f"{name}, split {split}, row {number}")
