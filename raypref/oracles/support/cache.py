"""Verdicts on disk, found again by their content, shared by the replicas of a run and by runs.

    <directory>/<oracle>/oracle.txt                          what the folder's name is the digest of
    <directory>/<oracle>/<host>-<process>-<random>.verdicts  a segment: records of 28 bytes, appended by one writer

A record is the key (16 bytes), the verdict (float64) and their CRC-32. The key is the head of SHA-256 over the oracle's identity, the
prompt, its turns and the two responses in sorted order, each with its length in front.

The directory may lie on a network file system. Neither locks nor appending by several writers can be relied on there, which rules out
SQLite and one common file: each writer has a segment of its own, opened and closed for each batch, since closing is what makes a write
visible to other nodes. A reader that comes late, or a record that is damaged, costs a question that is asked again and nothing else.
Segments are never merged: a run leaves one for each oracle replica, and half a million verdicts are 14 MB, read in about a second.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import secrets
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raypref.errors import ConfigError
from raypref.oracles.base import Question
from raypref.oracles.support.orders import Pair

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the records and of the key; part of the folder's name."""
BODY = struct.Struct("<16sd")
CHECKSUM = struct.Struct("<I")
RECORD_BYTES = BODY.size + CHECKSUM.size


class VerdictCache:
    """One oracle's verdicts. In memory: about 120 bytes a verdict. For one thread.

    A verdict belongs to (oracle, prompt, pair of responses), wherever the pair stands in its group. An oracle that also looks at the
    group's other responses has no identity and is not cached.
    """

    def __init__(self, directory: Path, identity: str, *, refresh_s: float = 1.0) -> None:
        """
        Args:
            directory: shared by whoever shares verdicts.
            identity: ``Oracle.identity``, what the verdicts depend on beside the question.
            refresh_s: shortest time between two looks at what others have appended, in seconds; a look is taken when a verdict is
                missing, and takes at most a tenth of the time.

        Raises:
            ConfigError: the directory cannot be written.
        """
        self._identity = identity
        self._directory = directory / hashlib.sha256(_joined(str(VERSION), identity)).hexdigest()[:16]
        self._segment = self._new_segment()
        self._refresh_s = refresh_s
        self._verdicts: dict[bytes, float] = {}
        self._read: dict[str, int] = {}
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
        """P(i > j) of the question's pairs that are known."""
        keys = dict(self._keys(question))
        if time.monotonic() >= self._next_refresh and any(key not in self._verdicts for key, _ in keys.values()):
            self._refresh()
        found = {}
        for pair, (key, in_order) in keys.items():
            if (verdict := self._verdicts.get(key)) is not None:
                found[pair] = _seen_from(verdict, in_order)
        return found

    def keep(self, question: Question, values: NDArray[np.float64]) -> None:
        """Put an answer on disk; when this returns, other processes of the node find it.

        Args:
            question: what was asked.
            values: (K, K) checked, P[i, j] of the question's pairs; NaN where the oracle abstained or was not asked, which is not kept.

        Raises:
            ValueError: a value is no probability.
            OSError: the disk is full, or the directory is gone.
        """
        fresh = {}
        for (i, j), (key, in_order) in self._keys(question):
            chance = float(values[i, j])
            if math.isnan(chance) or key in self._verdicts:
                continue
            if not 0.0 <= chance <= 1.0:
                raise ValueError(f"verdict cache, prompt {question.prompt_id!r}: P[{i}, {j}] = {chance} is no probability")
            fresh[key] = math.copysign(chance, 1.0 if in_order else -1.0)
        if fresh:
            self._append(b"".join(_record(key, verdict) for key, verdict in fresh.items()))
            self._verdicts.update(fresh)

    def _append(self, data: bytes) -> None:
        segment = self._segment
        # After a write that failed half-way the next one must not follow what it left.
        self._segment = self._new_segment()
        with segment.open("ab") as file:
            file.write(data)
        self._segment = segment
        self._read[segment.name] = self._read.get(segment.name, 0) + len(data)

    def _new_segment(self) -> Path:
        return self._directory / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.verdicts"

    def _refresh(self) -> None:
        """Read what has been appended since the last time; a record that is not whole yet waits for the next time."""
        started = time.monotonic()
        # In the order of their names: of two verdicts on one pair (a judge that draws its replies) every process takes the same.
        for entry in sorted(os.scandir(self._directory), key=lambda entry: entry.name):
            done = self._read.get(entry.name, 0)
            if entry.name.endswith(".verdicts") and entry.stat().st_size >= done + RECORD_BYTES:
                self._read[entry.name] = done + self._read_segment(Path(entry.path), done)
        ended = time.monotonic()
        self._next_refresh = ended + max(self._refresh_s, 9 * (ended - started))

    def _read_segment(self, path: Path, start: int) -> int:
        """Index the whole records from ``start`` on; how many bytes they are."""
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        end = len(data) - len(data) % RECORD_BYTES
        damaged = 0
        for place in range(0, end, RECORD_BYTES):
            body = data[place : place + BODY.size]
            if CHECKSUM.unpack_from(data, place + BODY.size)[0] == zlib.crc32(body):
                key, verdict = BODY.unpack(body)
                self._verdicts.setdefault(key, verdict)
            else:
                damaged += 1
        if damaged:
            logger.warning("judging.cache: %s: %d of %d records are damaged and left out", path, damaged, end // RECORD_BYTES)
        return end

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


def _record(key: bytes, verdict: float) -> bytes:
    body = BODY.pack(key, verdict)
    return body + CHECKSUM.pack(zlib.crc32(body))


def _seen_from(verdict: float, in_order: bool) -> float:
    """P(i > j) from a stored verdict.

    A verdict on responses that were asked in the reverse of their sorted order is stored with a minus sign, not as 1 - P: it comes back
    bit for bit as it was given.
    """
    as_given = (math.copysign(1.0, verdict) > 0) == in_order
    return abs(verdict) if as_given else 1.0 - abs(verdict)


def _joined(*texts: str) -> bytes:
    return b"".join(_framed(_encoded(text)) for text in texts)


def _framed(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def _encoded(text: str) -> bytes:
    """UTF-8 that takes any text, unpaired surrogates included."""
    return text.encode("utf-8", "surrogatepass")
