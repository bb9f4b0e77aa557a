"""Verdicts on disk, found by their content and shared by the replicas of a run and by runs.

    <directory>/<oracle>/oracle.txt                       the identity of which the folder's name is a hash
    <directory>/<oracle>/<host>-<process>-<random>.jsonl  a segment: one verdict per line, appended by one writer

    {"crc": "9c1d42e7", "key": "0f3a...", "p": 0.75, "in_order": true}

The key is the head of SHA-256 over the oracle's identity, the prompt, its turns and the two responses in sorted order, each with its
length in front. ``p`` is P(first > second) as the oracle gave it; ``in_order`` says whether the first response is also the first in sorted
order. ``crc`` is the CRC-32 of the rest of the line.

The directory may be on a network file system. Neither locks nor appending by several writers can be relied on there, which rules out
SQLite and one common file. So each writer has a segment of its own, and opens and closes it for each batch, since closing is what makes a
write visible to other nodes. A line without its end is not read until it is complete; a damaged line is reported and left out. A verdict
that is missed costs one more question to the oracle and nothing else. Segments are never merged: a run leaves one per oracle replica, and
half a million verdicts are 53 MB, read in about a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import secrets
import socket
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raypref.errors import ConfigError
from raypref.oracles.base import Question
from raypref.oracles.support.orders import Pair

logger = logging.getLogger(__name__)

VERSION = 2
"""Version of the format; part of the folder's name. Version 1 had binary records."""
LINE_START = b'{"crc": "'
"""Then the checksum's eight digits, then what it is the checksum of."""
BODY_START = len(LINE_START) + 8


@dataclass(slots=True)
class _Progress:
    """How far a segment has been read."""

    size: int = 0
    """Its size at the last look, in bytes."""
    end: int = 0
    """End of the last complete line, in bytes."""
    lines: int = 0
    """Complete lines."""


class VerdictCache:
    """One oracle's verdicts. Takes about 120 bytes of memory per verdict. For one thread.

    A verdict belongs to (oracle, prompt, pair of responses), wherever the pair stands in its group. An oracle that also looks at the
    group's other responses has no identity and is not cached.
    """

    def __init__(self, directory: Path, identity: str, *, refresh_s: float = 1.0) -> None:
        """
        Args:
            directory: common to all who share verdicts.
            identity: ``Oracle.identity``, what the verdicts depend on beside the question.
            refresh_s: shortest time in seconds between two reads of what others have appended. The cache reads when a verdict is missing,
                and spends at most a tenth of the time on it.

        Raises:
            ConfigError: the directory cannot be written, or holds this oracle's verdicts in the format of version 1.
        """
        _refuse_version_1(directory, identity)
        self._identity = identity
        self._directory = _folder(directory, identity, VERSION)
        self._segment = self._new_segment()
        self._refresh_s = refresh_s
        self._verdicts: dict[bytes, float] = {}
        """Key -> verdict, negative where it was given in the reverse of sorted order (see ``_oriented``)."""
        self._progress: dict[str, _Progress] = {}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            partial = self._directory / f".{self._segment.stem}"
            partial.write_bytes(_encoded(identity))
            partial.replace(self._directory / "oracle.txt")
        except OSError as error:
            raise ConfigError(f"judging.cache: {directory} cannot be written: {error}") from error
        self._refresh()
        logger.info("judging.cache: %d verdicts in %s", len(self), self._directory)

    def __len__(self) -> int:
        return len(self._verdicts)

    def find(self, question: Question) -> dict[Pair, float]:
        """P(i > j) of those of the question's pairs that are known."""
        keys = dict(self._keys(question))
        if time.monotonic() >= self._next_refresh and any(key not in self._verdicts for key, _ in keys.values()):
            self._refresh()
        chances = {}
        for pair, (key, in_order) in keys.items():
            if (verdict := self._verdicts.get(key)) is not None:
                chances[pair] = _seen_from(verdict, in_order)
        return chances

    def keep(self, question: Question, values: NDArray[np.float64]) -> None:
        """Write an answer to disk. When this returns, other processes on the node can read it.

        Args:
            question: what was asked.
            values: (K, K) checked, P[i, j] of the question's pairs. NaN, where the oracle abstained or was not asked, is not kept.

        Raises:
            ValueError: a value is no probability.
            OSError: the disk is full, or the directory is gone.
        """
        new = {}
        for (i, j), (key, in_order) in self._keys(question):
            chance = float(values[i, j])
            if math.isnan(chance) or key in self._verdicts:
                continue
            if not 0.0 <= chance <= 1.0:
                raise ValueError(f"verdict cache, prompt {question.prompt_id!r}: P[{i}, {j}] = {chance} is no probability")
            new[key] = _oriented(chance, in_order)
        if new:
            self._append([_line(key, verdict) for key, verdict in new.items()])
            self._verdicts.update(new)

    def _append(self, lines: Sequence[bytes]) -> None:
        segment, data = self._segment, b"".join(lines)
        # If this write fails half-way, the next one goes to a new segment: it must not follow half a line.
        self._segment = self._new_segment()
        with segment.open("ab") as file:
            file.write(data)
        self._segment = segment
        progress = self._progress.setdefault(segment.name, _Progress())
        progress.size, progress.end, progress.lines = progress.end + len(data), progress.end + len(data), progress.lines + len(lines)

    def _new_segment(self) -> Path:
        return self._directory / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"

    def _refresh(self) -> None:
        """Read what has been appended since the last time."""
        started = time.monotonic()
        # In the order of their names: of two verdicts on one pair (a judge that draws its replies) every process takes the same.
        for entry in sorted(os.scandir(self._directory), key=lambda entry: entry.name):
            if not entry.name.endswith(".jsonl"):
                continue
            progress = self._progress.setdefault(entry.name, _Progress())
            if entry.stat().st_size > progress.size:
                self._read_segment(Path(entry.path), progress)
        ended = time.monotonic()
        self._next_refresh = ended + max(self._refresh_s, 9 * (ended - started))

    def _read_segment(self, path: Path, progress: _Progress) -> None:
        """Read the complete lines that follow ``progress``, and advance it."""
        with path.open("rb") as file:
            file.seek(progress.end)
            data = file.read()
        *lines, torn = data.split(b"\n")
        valid, damaged = [], []
        for number, line in enumerate(lines, start=progress.lines + 1):
            if _intact(line):
                valid.append(line)
            else:
                damaged.append(number)
                valid += _intact_ends(line)
        for record in json.loads(b"[" + b",".join(valid) + b"]"):
            self._verdicts.setdefault(bytes.fromhex(record["key"]), _oriented(record["p"], record["in_order"]))
        if damaged:
            numbers = ", ".join(map(str, damaged[:10])) + (", ..." if len(damaged) > 10 else "")
            logger.warning("judging.cache: %s: %d of %d lines are damaged and left out: %s", path, len(damaged), len(lines), numbers)
        progress.size = progress.end + len(data)
        progress.end += len(data) - len(torn)
        progress.lines += len(lines)

    def _keys(self, question: Question) -> Iterator[tuple[Pair, tuple[bytes, bool]]]:
        """Each pair with its key, and whether its responses stand in sorted order."""
        turns = [text for turn in question.chat for text in turn]
        asked = hashlib.sha256(_joined(str(VERSION), self._identity, question.prompt, *turns))
        texts = [_encoded(text) for text in question.responses]
        for i, j in question.pairs:
            digest = asked.copy()
            for text in sorted((texts[i], texts[j])):
                digest.update(_framed(text))
            yield (i, j), (digest.digest()[:16], texts[i] <= texts[j])


def _folder(directory: Path, identity: str, version: int) -> Path:
    return directory / hashlib.sha256(_joined(str(version), identity)).hexdigest()[:16]


def _refuse_version_1(directory: Path, identity: str) -> None:
    """Refuse what would be ignored otherwise: verdicts that may have been paid for."""
    old = _folder(directory, identity, 1)
    if old.is_dir():
        raise ConfigError(
            f"judging.cache: {old} holds this oracle's verdicts in the binary format of an earlier version, which is not read any more; "
            f"remove that folder, or name another directory"
        )


def _line(key: bytes, verdict: float) -> bytes:
    in_order = "true" if math.copysign(1.0, verdict) > 0 else "false"
    body = f'", "key": "{key.hex()}", "p": {abs(verdict)!r}, "in_order": {in_order}}}'.encode()
    return b"%b%08x%b\n" % (LINE_START, zlib.crc32(body), body)


def _intact(line: bytes) -> bool:
    """Whether a line, without its end, is as it was written."""
    return b"%b%08x" % (LINE_START, zlib.crc32(line[BODY_START:])) == line[:BODY_START]


def _intact_ends(line: bytes) -> list[bytes]:
    """The last of the lines that a damaged line end has joined, if it is intact."""
    end = line[max(0, line.rfind(LINE_START)) :]
    return [end] if _intact(end) else []


def _oriented(chance: float, in_order: bool) -> float:
    """A verdict as one number: negative where the responses were asked in the reverse of their sorted order.

    It is not stored as 1 - P, so that it comes back bit for bit as it was given.
    """
    return math.copysign(chance, 1.0 if in_order else -1.0)


def _seen_from(verdict: float, in_order: bool) -> float:
    """P(i > j) from an oriented verdict."""
    as_given = (math.copysign(1.0, verdict) > 0) == in_order
    return abs(verdict) if as_given else 1.0 - abs(verdict)


def _joined(*texts: str) -> bytes:
    return b"".join(_framed(_encoded(text)) for text in texts)


def _framed(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def _encoded(text: str) -> bytes:
    """UTF-8 that takes any text, unpaired surrogates included."""
    return text.encode("utf-8", "surrogatepass")
