"""Directories that a run does not need any more."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def remove(directory: Path) -> None:
    """Remove a directory as far as that is possible; the run goes on in any case.

    On a network file system a file that another process has open (a policy that is being measured, say) keeps its directory. Another thread
    may remove the same.
    """
    errors: list[OSError] = []

    def note(_: object, __: str, raised: Any) -> None:
        if not isinstance(raised[1], FileNotFoundError):
            errors.append(raised[1])

    shutil.rmtree(directory, onerror=note)
    if errors:
        logger.warning("%s is not needed any more, and could not be removed: %s", directory, errors[0])
