"""The journal: sampled and judged groups, on disk.

Each writer appends to its own stream, ``.open/<writer>.arrows`` (``raypref.output.record_stream``), which a killed writer leaves readable.
``seal`` turns the stream into a Parquet file, ``iteration_0003-<writer>-00.parquet``, with the groups of this iteration and of those
since the last seal. ``datasets.load_dataset(directory)`` reads all of
these files, since it skips hidden directories. A run that is resumed reads the groups of its open iteration back
(``raypref.output.recorded``).
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raypref.judging.transcript import Transcript
from raypref.output.numbered import by_number, iteration_name, number_in
from raypref.output.record_stream import RecordReader, RecordWriter
from raypref.types import Judged, Rollout

logger = logging.getLogger(__name__)

_ROW_GROUP = 256
"""Groups that ``seal`` holds in memory at a time."""


def schema() -> Any:
    """Of a journalled group; ``raypref.output.columns`` describes its columns."""
    import pyarrow as pa

    return pa.schema(
        {
            "iteration": pa.int64(),
            "prompt_index": pa.int64(),
            "prompt_id": pa.string(),
            "prompt": pa.string(),
            "chat": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
            "prompt_token_ids": pa.list_(pa.int32()),
            "policy_version": pa.int64(),
            "responses": pa.list_(pa.string()),
            "response_token_ids": pa.list_(pa.list_(pa.int32())),
            "logprobs": pa.list_(pa.list_(pa.float32())),
            "finish_reasons": pa.list_(pa.string()),
            "oracle": pa.string(),
            "preference": pa.list_(pa.list_(pa.float64())),
            "asked": pa.list_(pa.list_(pa.bool_())),
            "picked": pa.list_(pa.list_(pa.int32())),
            "origin": pa.string(),
            "transcript": pa.string(),
        }
    )


def row_of(rollout: Rollout, judged: Judged, transcript: Transcript) -> dict[str, Any]:
    """A group as a row; ``raypref.output.columns`` describes its columns."""
    values = judged.matrix.values
    assert judged.matrix.asked is not None
    assert rollout.policy_version is not None, "given responses are not journalled"
    return {
        "iteration": rollout.policy_version + 1,
        "prompt_index": rollout.prompt.index,
        "prompt_id": rollout.prompt.id,
        "prompt": rollout.prompt.text,
        "chat": [{"role": role, "content": content} for role, content in rollout.prompt.chat],
        "prompt_token_ids": rollout.prompt.token_ids.tolist(),
        "policy_version": rollout.policy_version,
        "responses": [response.text for response in rollout.responses],
        "response_token_ids": [response.token_ids.tolist() for response in rollout.responses],
        "logprobs": [response.logprobs.tolist() for response in rollout.responses],
        "finish_reasons": [response.finish_reason for response in rollout.responses],
        "oracle": judged.matrix.oracle,
        "preference": [[None if value != value else value for value in row] for row in values.tolist()],
        "asked": judged.matrix.asked.tolist(),
        "picked": [list(pick) for pick in judged.picked],
        "origin": rollout.origin,
        "transcript": transcript.to_json(),
    }


def write_part(path: Path, records: Iterable[Any]) -> int:
    """Write records, as they come from a stream, into a Parquet file; how many there are. They are on the disk when this returns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    written, left = 0, iter(records)
    with pq.ParquetWriter(path, schema(), write_page_checksum=True) as parquet:
        while batches := list(itertools.islice(left, _ROW_GROUP)):
            parquet.write_table(pa.Table.from_batches(batches).combine_chunks())
            written += len(batches)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return written


class Journal:
    """One writer of the journal. It continues the stream that an earlier writer of the same name left open.

    Nothing is created before the first group: an oracle that only compares given responses leaves no directory behind.
    """

    def __init__(self, directory: Path, writer: str) -> None:
        """
        Args:
            directory: the run's ``rollouts/``, the same for all writers.
            writer: a name that no other running writer has, made of letters, digits, ``_``, ``.`` and ``-``.

        Raises:
            ValueError: the name has other characters.
        """
        if not re.fullmatch(r"[\w.-]+", writer):
            raise ValueError(f"journal writer {writer!r}: letters, digits, '_', '.' and '-' only")
        self.directory = directory
        self.writer = writer
        self._path = directory / ".open" / f"{writer}.arrows"
        for sealing in self._parts(self._path.parent, ".sealing"):
            self._write_part(sealing)
        self._stream: RecordWriter | None = None
        if self._path.exists():
            problems: list[str] = []
            self._stream = RecordWriter(self._path, schema(), list(RecordReader(self._path, schema(), problems)))
            for problem in problems:
                logger.warning("%s", problem)

    def append(self, rollout: Rollout, judged: Judged, transcript: Transcript) -> None:
        """Write a judged group to disk."""
        if self._stream is None:
            self._stream = RecordWriter(self._path, schema())
        self._stream.append(row_of(rollout, judged, transcript))

    def seal(self, iteration: int) -> Path | None:
        """Write the groups since the last seal into a Parquet file, and begin a new stream.

        Args:
            iteration: number of the iteration, from 1; part of the file's name.

        Returns:
            The file; None if there are no groups.
        """
        if self._stream is None or not self._stream.records:
            return None
        groups = self._stream.records
        self._stream.close()
        earlier = [_part_number(part) for part in self._parts(self.directory, ".parquet") if number_in(part.name) == iteration]
        name = f"{iteration_name(iteration)}-{self.writer}-{max(earlier, default=-1) + 1:02d}.sealing"
        sealing = self._path.with_name(name)
        self._path.rename(sealing)
        self._stream = RecordWriter(self._path, schema())
        return self._write_part(sealing, groups)

    def _write_part(self, sealing: Path, groups: int | None = None) -> Path:
        """Write the Parquet file that a ``.sealing`` stream is named after. Repeated after a crash, it gives the same file.

        Args:
            sealing: the stream.
            groups: how many it must hold; None: not known, after a crash.

        Raises:
            OSError: it holds others than were written.
        """
        path = self.directory / sealing.with_suffix(".parquet").name
        partial = sealing.with_suffix(".partial")
        problems: list[str] = []
        written = write_part(partial, RecordReader(sealing, schema(), problems))
        for problem in problems:
            logger.warning("%s", problem)
        if groups is not None and written != groups:
            raise OSError(errno.EIO, f"{written} of {groups} groups could be read back", str(sealing))
        partial.rename(path)
        sealing.unlink()
        return path

    def close(self) -> None:
        """End the stream. It stays on disk, and the next writer of this name continues it."""
        if self._stream is not None:
            self._stream.close()

    def _parts(self, directory: Path, suffix: str) -> list[Path]:
        """This writer's parts in a directory, in the order of their iterations."""
        name = re.compile(rf"iteration_\d+-{re.escape(self.writer)}-\d+{re.escape(suffix)}")
        return by_number(path for path in directory.glob(f"iteration_*{suffix}") if name.fullmatch(path.name))


def _part_number(part: Path) -> int:
    """2 for ``iteration_0003-oracle-0-02.parquet``."""
    return int(part.stem.rpartition("-")[2])
