"""The journal: sampled and judged groups, on disk.

Each writer appends to its own Arrow stream, ``.open/<writer>.arrows``. A group is on disk as soon as ``append`` returns. A killed writer
leaves a readable stream, of which at most the last record is cut off. ``seal`` turns the stream into a Parquet file,
``iteration_0003-<writer>-00.parquet``. ``datasets.load_dataset(directory)`` reads all of these files, since it skips hidden directories.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from raypref.output.numbered import by_number, iteration_name, number_in
from raypref.types import Judged, Rollout


def _schema() -> Any:
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
        }
    )


def row_of(rollout: Rollout, judged: Judged) -> dict[str, Any]:
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
    }


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
        self._rows = 0
        self._stream: Any = None
        if self._path.exists():
            self._open(read_stream(self._path))

    def append(self, rollout: Rollout, judged: Judged) -> None:
        """Write a judged group to disk."""
        import pyarrow as pa

        if self._stream is None:
            self._open([])
        self._stream.write_batch(pa.RecordBatch.from_pylist([row_of(rollout, judged)], schema=_schema()))
        self._file.flush()
        self._rows += 1

    def seal(self, iteration: int) -> Path | None:
        """Write the groups since the last seal into a Parquet file, and begin a new stream.

        Args:
            iteration: number of the iteration, from 1; part of the file's name.

        Returns:
            The file; None if there are no groups.
        """
        if not self._rows:
            return None
        self.close()
        earlier = [_part_number(part) for part in self._parts(self.directory, ".parquet") if number_in(part.name) == iteration]
        name = f"{iteration_name(iteration)}-{self.writer}-{max(earlier, default=-1) + 1:02d}.sealing"
        sealing = self._path.with_name(name)
        self._path.rename(sealing)
        self._open([])
        return self._write_part(sealing)

    def _write_part(self, sealing: Path) -> Path:
        """Write the Parquet file that a ``.sealing`` stream is named after. Repeated after a crash, it gives the same file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.directory / sealing.with_suffix(".parquet").name
        partial = sealing.with_suffix(".partial")
        pq.write_table(pa.Table.from_batches(read_stream(sealing), schema=_schema()), partial)
        partial.rename(path)
        sealing.unlink()
        return path

    def close(self) -> None:
        """End the stream. It stays on disk, and the next writer of this name continues it."""
        if self._stream is not None:
            self._stream.close()
            self._file.close()

    def _parts(self, directory: Path, suffix: str) -> list[Path]:
        """This writer's parts in a directory, in the order of their iterations."""
        name = re.compile(rf"iteration_\d+-{re.escape(self.writer)}-\d+{re.escape(suffix)}")
        return by_number(path for path in directory.glob(f"iteration_*{suffix}") if name.fullmatch(path.name))

    def _open(self, batches: list[Any]) -> None:
        """Begin a stream that holds ``batches``. It replaces the old stream only when it is complete."""
        import pyarrow as pa

        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        self._file = new.open("wb")
        self._stream = pa.ipc.new_stream(self._file, _schema())
        for batch in batches:
            self._stream.write_batch(batch)
        self._file.flush()
        new.rename(self._path)
        self._rows = sum(batch.num_rows for batch in batches)


def _part_number(part: Path) -> int:
    """2 for ``iteration_0003-oracle-0-02.parquet``."""
    return int(part.stem.rpartition("-")[2])


def read_stream(path: Path) -> list[Any]:
    """The complete record batches of a stream; the writer may have been killed."""
    import pyarrow as pa

    batches = []
    with path.open("rb") as file:
        try:
            for batch in pa.ipc.open_stream(file):
                batches.append(batch)
        except (pa.ArrowInvalid, OSError):  # pyarrow raises either if the last record is cut off
            pass
    return batches
