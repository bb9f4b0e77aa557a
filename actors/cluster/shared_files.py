"""Files that one node writes and another reads, on a file system that they share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

LONGEST_DELAY_S = 90.0
"""How long NFS may hide a file that is there: it keeps what it knows of a directory for 60 s by default (``acdirmax``)."""


def appears(path: Path, timeout_s: float = LONGEST_DELAY_S) -> bool:
    """Whether a file that another node has written can be seen here, now or soon: a network file system may take a while to show it."""
    return _soon(path.exists, timeout_s)


def model_appears(directory: Path, timeout_s: float = LONGEST_DELAY_S) -> bool:
    """Whether a model that another node has exported can be seen here, with every file of its weights, now or soon."""

    def is_whole() -> bool:
        index, one = directory / "model.safetensors.index.json", directory / "model.safetensors"
        if not index.exists():
            return (directory / "config.json").exists() and one.exists()
        shards = set(json.loads(index.read_text())["weight_map"].values())
        return (directory / "config.json").exists() and all((directory / shard).exists() for shard in shards)

    return _soon(is_whole, timeout_s)


def _soon(is_there: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (found := is_there()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found
