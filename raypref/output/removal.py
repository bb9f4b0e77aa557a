"""Directories that a run removes or replaces: under its name a directory is whole, or not there, also if the process is killed meanwhile.

What is removed gets a hidden name first, under which nobody looks for it. What a kill leaves under such a name goes with the next removal
beside it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_REMOVED = ".removed-"


def take_away(directory: Path) -> Path:
    """Give a directory a hidden name, which is returned; ``clear`` removes it.

    Raises:
        OSError: it is not there, or the disk does not allow it.
    """
    hidden = directory.with_name(f"{_REMOVED}{uuid.uuid4().hex[:8]}-{directory.name}")
    directory.rename(hidden)
    return hidden


def remove(directory: Path) -> None:
    """Remove a directory as far as that is possible; the run goes on in any case.

    On a network file system a file that another process has open (a policy that is being measured, say) keeps its directory. Another thread
    may remove the same.
    """
    try:
        error = _delete(take_away(directory))
    except FileNotFoundError:
        return
    except OSError as refused:
        error = refused
    if error is not None:
        logger.warning("%s is not needed any more, and could not be removed: %s", directory, error)
    clear(directory.parent)


def clear(parent: Path) -> None:
    """Remove what was taken away in the directory ``parent``, as far as that is possible."""
    for hidden in parent.glob(f"{_REMOVED}*"):
        _delete(hidden)


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """Where the block writes a new directory, which takes the place of ``directory`` at the end. After an error in the block that one is as
    it was."""
    partial = directory.with_name(f".{directory.name}.partial")
    remove(partial)
    yield partial
    put(partial, directory)


def put(new: Path, directory: Path) -> None:
    """Give a complete directory its name, in place of what has this name now.

    Raises:
        OSError: it is not there, or the disk does not allow it; the one before has its name again.
    """
    before = None
    with contextlib.suppress(FileNotFoundError):
        before = take_away(directory)
    try:
        new.rename(directory)
    except OSError:
        if before is not None:
            before.rename(directory)
        raise
    clear(directory.parent)


def _delete(directory: Path) -> OSError | None:
    """Delete all that can be deleted; the first error. What somebody else deletes at the same time is none."""
    errors: list[OSError] = []

    def note(_: object, __: str, raised: Any) -> None:
        if not isinstance(raised[1], FileNotFoundError):
            errors.append(raised[1])

    shutil.rmtree(directory, onerror=note)
    return errors[0] if errors else None
