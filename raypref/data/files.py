"""Rows of one data file: JSON lines, JSON, Parquet, CSV; each may be compressed, Parquet aside.

A row is (values, place). What is wrong with one row goes to ``on_bad``, which raises it or counts it; what is wrong with the file itself
(a damaged page, a truncated archive) is always raised. No other exception than ``DataError`` leaves this module.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from raypref.errors import DataError

Row = tuple[Mapping[str, Any], str]
OnBad = Callable[[DataError], None]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
_COMPRESSIONS: Mapping[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_HEAD = 4096
"""Bytes from which a file's form is recognised."""


def format_of(file: Path) -> str | None:
    """The suffix of ``SUFFIXES`` that says how the file is read; a suffix of a compression may follow it. None: not a data file."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
        return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES and suffixes[-1] != ".parquet" else None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def raise_it(error: DataError) -> None:
    """The ``on_bad`` that refuses the file with its first bad row."""
    raise error


def read_file(file: Path, on_bad: OnBad = raise_it) -> Iterator[Row]:
    """The rows of a data file.

    Raises:
        DataError: the file has none of the forms above, or is damaged; or ``on_bad`` raises because a row is.
    """
    form = format_of(file)
    if form is None:
        raise DataError(f"{file}: expected a {', '.join(SUFFIXES)} file, the text ones possibly with {', '.join(_COMPRESSIONS)} behind it")
    if form == ".parquet":
        yield from _read_parquet(file)
        return
    try:
        with _opened(file) as stream:
            head = stream.peek(_HEAD)[:_HEAD]
            _refuse_wide(head, file)
            if form in (".csv", ".tsv"):
                yield from _read_csv(file, stream, "," if form == ".csv" else "\t", on_bad)
            elif form == ".json" and _bare(head)[:1] == b"[":
                yield from _read_array(file, stream, on_bad)
            else:
                yield from _read_lines(file, stream, on_bad)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file}: not readable, perhaps damaged or cut off: {error}") from error


def refuse_double_names(names: Sequence[str], place: str) -> None:
    """Refuse a table in which two columns have one name: a row would hold one of them.

    Raises:
        DataError: naming the column.
    """
    double = next((name for k, name in enumerate(names) if name in names[:k]), None)
    if double is not None:
        raise DataError(f"{place}: two columns have the name {double!r}; rename one of them, or leave it out")


def _opened(file: Path) -> io.BufferedReader:
    opener = _COMPRESSIONS.get(file.suffix.lower())
    return io.BufferedReader(opener(file), 1 << 16) if opener else file.open("rb")


def _bare(head: bytes) -> bytes:
    return head.removeprefix(codecs.BOM_UTF8).lstrip()


def _refuse_wide(head: bytes, file: Path) -> None:
    name = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    if name is None and b"\0" in head[:100]:
        name = "UTF-16 text without a mark, or no text"
    if name is not None:
        raise DataError(f"{file}: {name}, but UTF-8 text is expected; save it as UTF-8")


def _read_lines(file: Path, stream: IO[bytes], on_bad: OnBad) -> Iterator[Row]:
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not (line := line.strip(b" \t\r\n")):
            continue
        place = f"{file}:{number}"
        try:
            row = _object(_parse(line, place, "one object per line"), place)
        except DataError as error:
            on_bad(error)
            continue
        yield row, place


def _read_array(file: Path, stream: IO[bytes], on_bad: OnBad) -> Iterator[Row]:
    items = _parse(stream.read().removeprefix(codecs.BOM_UTF8), str(file), "a list of objects, or one object per line")
    for number, item in enumerate(items):
        place = f"{file}, item {number}"
        try:
            row = _object(item, place)
        except DataError as error:
            on_bad(error)
            continue
        yield row, place


def _parse(text: bytes, place: str, expected: str) -> Any:
    """JSON, with every failure of the parser as an error with its place: ``file:line`` for a text of several lines."""
    try:
        return _DECODER.decode(text.decode("utf-8"))
    except json.JSONDecodeError as error:
        at = f"{place}:{error.lineno}" if b"\n" in text else place
        raise DataError(f"{at}: broken JSON: {error.msg} at column {error.colno}; expected {expected}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text: {error}") from error
    except RecursionError as error:
        raise DataError(f"{place}: broken JSON: lists or objects are nested too deeply; expected {expected}") from error
    except ValueError as error:  # a key that occurs twice, or a number of more digits than Python reads
        raise DataError(f"{place}: broken JSON: {error}; expected {expected}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} occurs twice in one object")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _object(values: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{place}: expected an object such as {{'prompt': ...}}, got {type(values).__name__}")
    return values


def _read_csv(file: Path, stream: IO[bytes], delimiter: str, on_bad: OnBad) -> Iterator[Row]:
    """Cells are texts; an empty cell counts as absent, as in pandas and datasets."""
    csv.field_size_limit(sys.maxsize)
    lines = (line.removeprefix(codecs.BOM_UTF8).decode() if k == 0 else line.decode() for k, line in enumerate(stream))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    for count in itertools.count():
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except UnicodeDecodeError as error:
            raise DataError(f"{file}:{reader.line_num + 1}: not UTF-8 text: {error}") from error
        except csv.Error as error:
            raise DataError(f"{file}:{number}: broken CSV: {error}") from error
        if cells is None:
            return
        if count == 0:
            header = cells
            if len(set(header)) != len(header) or not all(header[1:]):  # pandas writes its index without a name, in the first column
                raise DataError(f"{file}:1: the first line must name each column, once, got {header!r}")
        elif len(cells) not in (0, len(header)):
            on_bad(DataError(f"{file}:{number}: {len(cells)} cells, but {len(header)} columns in the first line"))
        elif cells:
            yield {name: cell or None for name, cell in zip(header, cells, strict=True)}, f"{file}:{number}"


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            refuse_double_names(opened.schema_arrow.names, str(file))
            for batch in opened.iter_batches(batch_size=4096):
                for values in batch.to_pylist():
                    number += 1
                    yield values, f"{file}, row {number}"
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not a readable Parquet file, after row {number}: {error}") from error
