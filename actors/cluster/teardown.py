"""Neither a run nor its end waits for a part of the cluster that hangs.

A raylet or a GCS that is stopped (a paused machine, a swapping node) never answers ``ray.shutdown``, which has no limit of its own. The
thread that still waits then has a name that ``raypref.cli.ending`` knows, so that the process can end without it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_S = 30.0
"""Longest wait for one call."""
_PREFIX = "teardown "


def bounded(name: str, call: Callable[[], object], limit_s: float = LIMIT_S) -> bool:
    """Make a call, and go on without it after ``limit_s`` seconds.

    Args:
        name: of the call, for the log.
        call: made in a thread of its own. What it raises is logged: the run's result, or its error, must not be lost for it.
        limit_s: longest wait.

    Returns:
        Whether the call came back.
    """
    thread = threading.Thread(target=_logged, args=(name, call), name=_PREFIX + name, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        logger.warning("%s did not return within %g s; a part of the cluster hangs. The run ends without it", name, limit_s)
    return not thread.is_alive()


def beside(name: str, call: Callable[[], T]) -> asyncio.Future[T]:
    """What a call returns or raises; the event loop goes on meanwhile, and the process can end while the call hangs.

    Args:
        name: of the call, for its thread. One of the event loop's own threads would be waited for at the loop's end.
        call: made in a thread of its own.
    """
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def make() -> None:
        answer.set_running_or_notify_cancel()
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001  # raised where the answer is waited for
            answer.set_exception(error)

    threading.Thread(target=make, name=_PREFIX + name, daemon=True).start()
    return asyncio.wrap_future(answer)


def under_way(name: str, limit_s: float) -> bool:
    """Whether a call of this name that did not return in time hangs still, after ``limit_s`` more seconds."""
    hanging = [thread for thread in threading.enumerate() if thread.name == _PREFIX + name]
    deadline = time.monotonic() + limit_s
    for thread in hanging:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in hanging)


def _logged(name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        logger.exception("%s failed", name)
