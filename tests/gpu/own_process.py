"""A plain class in a process of its own, as Ray would run it, where Ray is not installed.

A learner rank needs environment variables that are set before anything is imported, and leaves a process group behind.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

_object: Any = None


def _create(make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    global _object
    _object = make(**arguments)


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_object, method)(*arguments)


class OwnProcess:
    """Calls the methods of an object in another process; what they raise is raised here."""

    def __init__(self, make: Callable[..., Any], env: Mapping[str, str], **arguments: Any) -> None:
        """
        Args:
            make: the class.
            env: environment variables of the process.
            arguments: of the class.
        """
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with mock.patch.dict(os.environ, env):  # the process starts at the first call and inherits them
            self._pool.submit(_create, make, arguments).result(timeout=120)

    def __call__(self, method: str, *arguments: Any) -> Any:
        return self._pool.submit(_call, method, *arguments).result(timeout=120)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()
