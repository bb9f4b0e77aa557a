"""Files that one node writes and another reads, on a file system that they share."""

from __future__ import annotations

import time
from pathlib import Path

LONGEST_DELAY_S = 90.0
"""How long NFS may hide a file that is there: it keeps what it knows of a directory for 60 s by default (``acdirmax``)."""


def appears(path: Path, timeout_s: float = LONGEST_DELAY_S) -> bool:
    """Whether a file that another node has written can be seen here, now or soon: a network file system may take a while to show it."""
    deadline = time.monotonic() + timeout_s
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    return path.exists()
