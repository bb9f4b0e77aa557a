"""Waiting for remote calls: within a time-out, and so that the error that surfaces is the first cause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.cluster.call_results import actor_of, result
from raypref.errors import ActorFailed, ActorSilent

_GRACE_S = 5.0
"""How long to wait for the errors of other ranks once one has failed: ranks notice a peer's death within half a second."""

_CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out", "NCCL", "gloo")
"""A message with one of these says that a collective failed because of what happened on another rank."""

IN_FLIGHT = 2
"""Calls that a replica is given at a time: it works on one while the next is there, so it never idles. More would wait in its queue, and a
time-out would count the waiting."""


_LOOK_S = 2.0
"""Seconds between two looks at a time limit that may change while a call is under way."""


async def first_cause(calls: Sequence[Awaitable[Any]], names: Sequence[str], timeout_s: float | Callable[[], float]) -> list[Any]:
    """Results of remote calls that depend on each other.

    When one fails, the others soon fail because of it, or wait for it in a collective. So an actor's death, or an exception that is not
    about a collective, is raised in preference to a collective's failure.

    Args:
        calls: awaitables, Ray's references among them.
        names: of the calls, ``rollout-1: sample``: the actor and what it was asked.
        timeout_s: longest wait for all of them; a function where more may be known of it meanwhile.

    Raises:
        ActorSilent: names the calls that did not answer.
        ActorFailed: names the actor that died.
        Exception: the first cause, as it was raised on its rank.
    """
    tasks = [asyncio.ensure_future(result(call, name)) for call, name in zip(calls, names, strict=True)]
    try:
        done, waiting, limit_s = await _answered(tasks, timeout_s)
        errors = _errors(done)
        if errors and waiting:
            late, waiting = await asyncio.wait(waiting, timeout=_GRACE_S)
            errors += _errors(late)
    finally:
        for task in tasks:
            task.cancel()
    if errors:
        raise min(errors, key=_is_consequence)
    if waiting:
        silent = [name for name, task in zip(names, tasks, strict=True) if task in waiting]
        raise ActorSilent(f"no answer within {limit_s:g} s from {', '.join(silent)}", [actor_of(name) for name in silent])
    return [task.result() for task in tasks]


async def _answered(
    tasks: Sequence[asyncio.Task[Any]], timeout_s: float | Callable[[], float]
) -> tuple[set[asyncio.Task[Any]], set[asyncio.Task[Any]], float]:
    """Wait for all tasks, the first error, or the time limit: those that are done, those that are not, and the limit at the end."""
    if not callable(timeout_s):
        return *await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION), timeout_s
    began = time.monotonic()
    while (left_s := (limit_s := timeout_s()) - (time.monotonic() - began)) > 0:
        done, waiting = await asyncio.wait(tasks, timeout=min(left_s, _LOOK_S), return_when=asyncio.FIRST_EXCEPTION)
        if not waiting or _errors(done):
            return done, waiting, limit_s
    return {task for task in tasks if task.done()}, {task for task in tasks if not task.done()}, limit_s


def _errors(tasks: set[asyncio.Task[Any]]) -> list[BaseException]:
    return [error for task in tasks if (error := task.exception()) is not None]


def _is_consequence(error: BaseException) -> bool:
    return not isinstance(error, ActorFailed) and any(sign in str(error) for sign in _CONSEQUENCES)
