"""What the journal holds of an iteration that was interrupted, so that none of it is sampled or judged again.

``gather`` collects it when a run is resumed, before any actor starts; ``RecordedGroups`` gives it out. A group is found by its origin (a
hash of the settings, the weights, the prompt and the seed), so a group of other settings or of another policy is never taken.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raypref.judging.transcript import Transcript
from raypref.output.journal import schema, write_part
from raypref.output.numbered import by_number, iteration_name, number_in
from raypref.output.record_stream import RecordReader, checksum_of, is_whole
from raypref.types import Response, Rollout, SampleRequest

logger = logging.getLogger(__name__)

_FILE = "recorded.arrow"


def gather(rollouts: Path, iteration: int) -> int:
    """Collect the groups of the iterations after ``iteration`` from streams and sealed parts, which are removed then.

    Groups of finished iterations that were in no sealed part yet get one, ``iteration_0003-recovered-00.parquet``. A group that was written
    twice counts once. Repeated after a crash in the middle it gives the same.

    Args:
        rollouts: the run's journal. No writer may have it open.
        iteration: how many iterations are finished.

    Returns:
        How many groups there are.
    """
    import pyarrow as pa

    hidden, problems = rollouts / ".open", list[str]()
    streams = sorted(path for path in hidden.glob("*") if path.suffix in {".arrows", ".sealing"})
    parts = [path for path in by_number(rollouts.glob("iteration_*.parquet")) if (number_in(path.name) or 0) > iteration]
    if not (streams or parts or (hidden / _FILE).exists()):
        return 0
    _seal_finished(rollouts, iteration, [*streams, *parts])
    origins: set[str] = set()
    partial = hidden / f"{_FILE}.partial"
    hidden.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file, pa.ipc.new_file(file, schema()) as writer:
        for record in _records(hidden / _FILE, streams, parts, problems):
            origin, number = record["origin"][0].as_py(), record["iteration"][0].as_py()
            if origin and number > iteration and origin not in origins:
                origins.add(origin)
                writer.write_batch(record, custom_metadata=checksum_of(record))
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.rename(hidden / _FILE)
    for path in (*streams, *parts):
        path.unlink()
    for problem in problems:
        logger.warning("%s", problem)
    return len(origins)


def _seal_finished(rollouts: Path, iteration: int, sources: Sequence[Path]) -> None:
    """Write what the sources hold of finished iterations into a sealed part: a journal is sealed where a checkpoint is due, and the run may
    be continued from one that was saved in between.

    Args:
        rollouts: the run's journal.
        iteration: how many iterations are finished.
        sources: streams, and parts of later iterations. A stream whose part is there holds what that part holds.
    """
    name = f"{iteration_name(iteration)}-recovered-00"
    earlier = rollouts / f"{name}.parquet"
    unsealed = [path for path in sources if path.suffix != ".sealing" or not (rollouts / f"{path.stem}.parquet").exists()]

    def finished(paths: Sequence[Path]) -> Iterator[Any]:
        seen: set[str] = set()
        for record in _of_files(paths, []):  # gathering names what is damaged
            origin = record["origin"][0].as_py()
            if record["iteration"][0].as_py() <= iteration and origin not in seen:
                seen.update([origin] if origin else [])
                yield record

    if next(finished(unsealed), None) is not None:
        partial = rollouts / ".open" / f"{name}.partial"
        write_part(partial, finished([*([earlier] if earlier.exists() else []), *unsealed]))
        partial.rename(earlier)


def _records(earlier: Path, streams: Sequence[Path], parts: Sequence[Path], problems: list[str]) -> Iterator[Any]:
    """Record batches of one record from every source; what cannot be read is added to ``problems``."""
    import pyarrow as pa

    if earlier.exists():
        try:
            with pa.OSFile(str(earlier)) as file, pa.ipc.open_file(file) as reader:
                yield from (batch for _, batch in _whole(reader, earlier, problems))
        except (pa.ArrowException, OSError, ValueError) as error:
            problems.append(f"{earlier} cannot be read: {error}; its groups are sampled again")
    yield from _of_files([*streams, *parts], problems)


def _of_files(paths: Sequence[Path], problems: list[str]) -> Iterator[Any]:
    """Record batches of one record from streams and sealed parts; what cannot be read is added to ``problems``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        if path.suffix != ".parquet":
            yield from RecordReader(path, schema(), problems)
            continue
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as part:
                if not part.schema_arrow.equals(schema()):
                    problems.append(f"{path}: written by another version; its groups are sampled again")
                    continue
                for batch in part.iter_batches(batch_size=64):
                    yield from (batch.slice(k, 1) for k in range(batch.num_rows))
        except (pa.ArrowException, OSError, ValueError) as error:
            problems.append(f"{path} cannot be read: {error}; its groups are sampled again")


def _whole(reader: Any, path: Path, problems: list[str]) -> Iterator[tuple[int, Any]]:
    """Number and batch of each record in the gathered file that is as ``gather`` wrote it; the others are added to ``problems``."""
    import pyarrow as pa

    if not reader.schema.equals(schema()):
        problems.append(f"{path}: damaged, or written by another version; its groups are sampled again")
        return
    for k in range(reader.num_record_batches):
        try:
            batch, metadata = reader.get_batch_with_custom_metadata(k)
            whole = is_whole(batch, metadata)
        except (pa.ArrowException, OSError, ValueError, MemoryError):  # pyarrow raises any of them where a record is damaged
            whole = False
        if whole:
            yield k, batch
        else:
            problems.append(f"{path}: record {k + 1} is damaged; its group is sampled again")


def journalled(rollouts: Path, problems: list[str], iteration: int | None = None, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Record batches of every group in the journal, sealed, open or gathered, also while a run writes it. Nothing is changed.

    A group may come twice, from two sources.

    Args:
        rollouts: the run's journal; it may not exist.
        problems: what cannot be read is added here, one line each.
        iteration: parts of the files without a group of this iteration are left out; groups of others may come all the same.
        columns: what is read of a sealed part; default: everything.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    hidden = rollouts / ".open"
    for path in by_number(rollouts.glob("iteration_*.parquet")):
        if iteration is not None and (number_in(path.name) or 0) < iteration:
            continue  # a part has groups of its own iteration and of earlier ones
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as part:
                wanted = [number for number in range(part.num_row_groups) if iteration is None or _holds(part.metadata, number, iteration)]
                yield from part.iter_batches(batch_size=64, row_groups=wanted, columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError, ValueError) as error:
            problems.append(f"{path} cannot be read: {error}; its groups are left out")
    streams = sorted(path for path in hidden.glob("*") if path.suffix in {".arrows", ".sealing"} and path.stat().st_size)
    yield from _records(hidden / _FILE, streams, (), problems)


def _holds(metadata: Any, row_group: int, iteration: int) -> bool:
    """Whether a part of a Parquet file may have groups of an iteration, by the statistics of the column."""
    columns = metadata.row_group(row_group)
    place = next(place for place in range(metadata.num_columns) if columns.column(place).path_in_schema == "iteration")
    statistics = columns.column(place).statistics
    return statistics is None or not statistics.has_min_max or statistics.min <= iteration <= statistics.max


def written_by(rollouts: Path, writer: str, origin: str) -> tuple[Transcript, str] | None:
    """What a writer's open stream holds of a group: what the oracle was asked and answered, and its name; None where it has no such group.

    The writer may have been killed, and another one may continue its stream meanwhile.
    """
    path = rollouts / ".open" / f"{writer}.arrows"
    if origin and path.exists():
        for record in RecordReader(path, schema(), []):
            if record["origin"][0].as_py() == origin:
                return Transcript.from_json(record["transcript"][0].as_py()), record["oracle"][0].as_py()
    return None


class RecordedGroups:
    """The gathered groups, by origin. Only the origins are held in memory."""

    def __init__(self, rollouts: Path) -> None:
        """
        Args:
            rollouts: the run's journal; it may hold no gathered groups.
        """
        import pyarrow as pa

        self._path = rollouts / ".open" / _FILE
        self._reader: Any = None
        self._place: dict[str, int] = {}
        self._last = 0
        if self._path.exists():
            self._reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
            problems: list[str] = []
            for k, batch in _whole(self._reader, self._path, problems):
                self._place[batch["origin"][0].as_py()] = k
                self._last = max(self._last, batch["iteration"][0].as_py())
            for problem in problems:
                logger.warning("%s", problem)

    @property
    def origins(self) -> frozenset[str]:
        """Of all groups."""
        return frozenset(self._place)

    def __contains__(self, origin: str) -> bool:
        return origin in self._place

    def rollout(self, request: SampleRequest) -> Rollout:
        """The recorded answer to a request.

        Raises:
            KeyError: there is none.
        """
        row = self._row(request.origin)
        columns = zip(row["response_token_ids"], row["logprobs"], row["responses"], row["finish_reasons"], strict=True)
        responses = tuple(
            Response(np.array(ids, dtype=np.int32), np.array(logprobs, dtype=np.float32), text, reason)
            for ids, logprobs, text, reason in columns
        )
        return Rollout(request.prompt, responses, request.policy_version, request.origin)

    def transcript(self, origin: str) -> tuple[Transcript, str]:
        """What the oracle was asked about a group and what it answered; and the oracle's name.

        Raises:
            KeyError: the group is not there.
        """
        row = self._row(origin)
        return Transcript.from_json(row["transcript"]), row["oracle"]

    def forget(self, iteration: int) -> None:
        """Remove the groups once the iteration that they belong to is sealed, which has them too."""
        if self._reader is not None and iteration >= self._last:
            self._path.unlink(missing_ok=True)  # readers that have it open keep it
            self._reader, self._place = None, {}

    def _row(self, origin: str) -> dict[str, Any]:
        place = self._place[origin]
        row: dict[str, Any] = self._reader.get_batch(place).to_pylist()[0]
        return row
