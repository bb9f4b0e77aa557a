"""The disk's own reason where a library says that it could not write a file."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_PROBE_BYTES = 1 << 20


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """In the block torch or safetensors writes ``path``.

    Raises:
        OSError: the disk did not take the file: it is full, for example. Any other error is raised as it is.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
    except RuntimeError as error:
        try:
            _write_more(path)
        except OSError as reason:
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise


def _write_more(path: Path) -> None:
    """Write a little more to a file that torch could not write, so that the disk says why: torch does not."""
    with path.open("ab") as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
