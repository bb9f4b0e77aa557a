"""Frozen log-probs on disk, beside the groups that they belong to: a resumed run does not compute them again.

Each replica of the reference writes ``.open/<replica>.scores``; every replica reads what all of them wrote before it started. A record is
found again by a hash of its sequences and of the frozen policies. Sums over response tokens are kept, as examples hold them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.output.numbered import by_number, iteration_name, number_in
from raypref.output.record_stream import RecordReader, RecordWriter
from raypref.types import Example

logger = logging.getLogger(__name__)

_SEALED = 2
"""Intervals between checkpoints whose scores stay: while a checkpoint is being written the run would continue from the one before."""


def _schema() -> Any:
    """One record per group: a list for each of its examples, with one number per sequence; null where the loss does not read it."""
    import pyarrow as pa

    sums = pa.list_(pa.list_(pa.float64()))
    return pa.schema({"key": pa.string(), "reference": sums, "previous": sums})


class FrozenScores:
    """The scores that one replica reads and writes."""

    def __init__(self, rollouts: Path, writer: str) -> None:
        """
        Args:
            rollouts: the run's journal. Nothing is created before the first score.
            writer: the replica's name.
        """
        self._hidden = rollouts / ".open"
        self._path = self._hidden / f"{writer}.scores"
        self._stream: RecordWriter | None = None
        self._found: dict[str, tuple[Any, Any]] = {}
        self._kept: set[str] = set()
        """Which of them are in the file that this replica writes."""
        problems: list[str] = []
        for path in sorted(self._hidden.glob("*.scores")):
            for record in RecordReader(path, _schema(), problems):
                key = record["key"][0].as_py()
                self._found[key] = (record["reference"][0].as_py(), record["previous"][0].as_py())
                self._kept.update([key] if path == self._path else [])
        for problem in problems:
            logger.warning("%s", problem)

    def find(self, key: str, examples: Sequence[Example]) -> tuple[Example, ...] | None:
        """The examples with their log-probs, if they are on disk; see ``key_of``. They are written with those of this iteration: their file
        may be of an attempt whose files are replaced."""
        if key not in self._found:
            return None
        reference, previous = ([None] * len(examples) if sums is None else sums for sums in self._found[key])
        scored = tuple(
            replace(example, reference_logps=_array(first), previous_logps=_array(second))
            for example, first, second in zip(examples, reference, previous, strict=True)
        )
        if key not in self._kept:
            self.add(key, scored)
            self._kept.add(key)
        return scored

    def add(self, key: str, examples: Sequence[Example]) -> None:
        """Write the log-probs of examples that have been scored."""
        if self._stream is None:
            earlier = list(RecordReader(self._path, _schema(), [])) if self._path.exists() else []
            self._stream = RecordWriter(self._path, _schema(), earlier)
        sums = [[None if one is None else one.tolist() for one in slot] for slot in zip(*map(_slots, examples), strict=True)]
        reference, previous = (None if None in slot else slot for slot in sums)
        self._stream.append({"key": key, "reference": reference, "previous": previous})

    def seal(self, iteration: int) -> None:
        """Begin a new file, and remove those that no checkpoint needs any more.

        Args:
            iteration: number of the iteration that has ended, from 1.
        """
        writer = self._path.stem
        if self._path.exists():
            if self._stream is not None:
                self._stream.close()
                self._stream = None
            self._path.rename(self._path.with_name(f"{iteration_name(iteration)}-{writer}.scores"))
        sealed = by_number(self._hidden.glob(f"iteration_*-{writer}.scores"))
        for old in [path for path in sealed if (number_in(path.name) or 0) <= iteration][:-_SEALED]:  # later ones are of an attempt before
            old.unlink()
        self._kept.clear()

    def close(self) -> None:
        """End the file; the next writer of this name continues it."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def key_of(examples: Sequence[Example], policies: str) -> str | None:
    """A hash of the sequences and of the frozen policies; None for given data, which is in no journal.

    Args:
        examples: of one group.
        policies: what identifies pi_ref and pi_t.
    """
    if not examples or any(example.policy_version is None for example in examples):
        return None
    key = hashlib.blake2b(policies.encode(), digest_size=16)
    for example in examples:
        for ids in (*example.prompt_ids, *example.response_ids):
            key.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        key.update(b"|")
    return key.hexdigest()


def _slots(example: Example) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    return example.reference_logps, example.previous_logps


def _array(sums: Sequence[float] | None) -> NDArray[np.float64] | None:
    return None if sums is None else np.array(sums, dtype=np.float64)
