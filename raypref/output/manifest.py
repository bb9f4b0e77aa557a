"""The files of a directory with their sizes and checksums, so that damage is found before anything is computed with them."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raypref.errors import ConfigError
from raypref.output.whole_file import write_whole

NAME = "manifest.json"
_BLOCK = 1 << 22
_THREADS = 8
"""Files that are read at the same time; zlib releases the interpreter's lock while it computes."""


def write(directory: Path) -> None:
    """Write the manifest of everything in ``directory``. All of it, the manifest included, is on the disk when this returns."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != NAME]
    with ThreadPoolExecutor(_THREADS) as threads:
        entries = list(threads.map(_flushed_entry, files))
    content = {path.relative_to(directory).as_posix(): entry for path, entry in zip(files, entries, strict=True)}
    write_whole(directory / NAME, json.dumps(content, indent=1))


def problems(directory: Path) -> list[str]:
    """What differs from the manifest, one line per file; nothing where all is as it was written, or where there is no manifest.

    Raises:
        ConfigError: the manifest itself is damaged.
    """
    path = directory / NAME
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        expected = {directory / name: (int(entry["bytes"]), int(entry["crc32"])) for name, entry in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    with ThreadPoolExecutor(_THREADS) as threads:
        return [problem for found in threads.map(_problem, expected, expected.values()) for problem in found]


def content_hash(directory: Path) -> str:
    """A hash of the safetensors files in ``directory``."""
    files = sorted(directory.glob("*.safetensors"))
    with ThreadPoolExecutor(_THREADS) as threads:
        checksums = [
            (path.name, path.stat().st_size, checksum) for path, checksum in zip(files, threads.map(_checksum, files), strict=True)
        ]
    return hashlib.blake2b(repr(checksums).encode(), digest_size=16).hexdigest()


def _problem(path: Path, expected: tuple[int, int]) -> list[str]:
    size, checksum = expected
    try:
        there = path.stat().st_size
        if there != size:
            return [f"{path} has {there:,} bytes, of {size:,} that were written"]
        return [] if _checksum(path) == checksum else [f"{path} has other content than was written"]
    except OSError as error:
        return [str(error)]


def _flushed_entry(path: Path) -> dict[str, int]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "crc32": _checksum(path)}


def _checksum(path: Path) -> int:
    checksum = 0
    for block in _blocks(path):
        checksum = zlib.crc32(block, checksum)
    return checksum


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
