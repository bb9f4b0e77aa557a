"""A file of records that a killed writer leaves readable: an Arrow stream, one record per batch, each with a checksum.

At most the last record is cut off. Damage is found and reported; a reader never gets a record that differs from what was written.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FLUSH_S = 2.0
"""After a power cut the records of at most this many seconds are missing. A killed process loses none."""
_CHECKSUM = "crc32"


class RecordWriter:
    """Appends records to a new file."""

    def __init__(self, path: Path, schema: Any, batches: Sequence[Any] = ()) -> None:
        """
        Args:
            path: replaced when the new file is complete with ``batches``.
            schema: pyarrow's, of a record.
            batches: what the file begins with.
        """
        import pyarrow as pa

        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        self._schema = schema
        self._file = new.open("wb")
        self._stream = pa.ipc.new_stream(self._file, schema)
        self._flushed = time.monotonic()
        self.records = 0
        """In the file."""
        for batch in batches:
            self._write(batch)
        self._file.flush()
        if batches:  # else there is nothing in the new file that would be missed after a power cut
            self.sync()
        new.rename(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record; it has reached the operating system when this returns, and the disk after ``FLUSH_S`` seconds at most."""
        import pyarrow as pa

        self._write(pa.RecordBatch.from_pylist([record], schema=self._schema))
        self._file.flush()
        if time.monotonic() - self._flushed >= FLUSH_S:
            self.sync()

    def sync(self) -> None:
        """Return when all records are on the disk."""
        os.fsync(self._file.fileno())
        self._flushed = time.monotonic()

    def close(self) -> None:
        """End the stream."""
        self._stream.close()
        self._file.flush()
        self.sync()
        self._file.close()

    def _write(self, batch: Any) -> None:
        self._stream.write_batch(batch, custom_metadata=checksum_of(batch))
        self.records += batch.num_rows


class RecordReader:
    """Reads the records of a file, one at a time."""

    def __init__(self, path: Path, schema: Any, problems: list[str]) -> None:
        """
        Args:
            path: a file that a ``RecordWriter`` wrote, or still writes.
            schema: of its records. Nothing is read from a file with another one.
            problems: what is found to be damaged is added here, one line each. Damaged records are left out.
        """
        self._path = path
        self._schema = schema
        self._problems = problems

    def __iter__(self) -> Iterator[Any]:
        """Record batches of one record."""
        import pyarrow as pa

        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            good, number = 0, 0
            try:
                reader = pa.ipc.open_stream(file)
                if not reader.schema.equals(self._schema):
                    self._problems.append(f"{self._path}: damaged, or of another version: it has other columns; it is left out")
                    return
                while True:
                    good = file.tell()
                    batch, metadata = reader.read_next_batch_with_custom_metadata()
                    number += 1
                    if is_whole(batch, metadata):
                        yield batch
                    else:
                        self._problems.append(f"{self._path}: record {number} is damaged (before byte {file.tell():,}); it is left out")
            except StopIteration:
                return
            except (pa.ArrowException, OSError, ValueError, MemoryError) as error:  # pyarrow raises any of them where a record is cut off
                if good < size:
                    self._problems.append(
                        f"{self._path}: after {number} records, the {size - good:,} bytes from byte {good:,} on are cut off or damaged "
                        f"({error}); they are left out"
                    )


def checksum_of(batch: Any) -> dict[str, str]:
    """What is stored beside a record batch, for ``is_whole``."""
    return {_CHECKSUM: str(_checksum(batch))}


def is_whole(batch: Any, metadata: Any) -> bool:
    """Whether a batch that was read is the one that was written with this metadata."""
    import pyarrow as pa

    if metadata is None or _CHECKSUM not in metadata:
        return False
    try:
        batch.validate(full=True)
        return bool(metadata[_CHECKSUM] == str(_checksum(batch)).encode())
    except (pa.ArrowException, KeyError, ValueError):
        return False


def _checksum(batch: Any) -> int:
    return zlib.crc32(memoryview(batch.serialize()))
