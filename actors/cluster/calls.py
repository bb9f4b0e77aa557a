"""Waiting for remote calls: within a time-out, and with the error that came first as what surfaces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

_GRACE_S = 5.0
"""How long the other ranks' errors are waited for once one has failed: a peer's death is noticed by its neighbours in half a second."""

_CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out", "NCCL", "gloo")
"""In a message: a collective failed, because of what happened on another rank."""


IN_FLIGHT = 2
"""Calls that a replica is given at a time: one at work, one waiting, so that it never idles and a time-out is of work, not of a queue."""


async def first_cause(calls: Sequence[Awaitable[Any]], names: Sequence[str], timeout_s: float) -> list[Any]:
    """Results of remote calls that depend on each other.

    When one fails, the others soon fail of it, or wait for it in a collective. The error that surfaces is the first that is no
    consequence of another: an actor's death or an error of its own before a failed collective.

    Args:
        calls: awaitables, Ray's references among them.
        names: of the calls, for the message of a time-out.
        timeout_s: longest wait for all of them.

    Raises:
        TimeoutError: naming the calls that did not answer.
        Exception: the cause, as it was raised on its rank.
    """
    tasks = [asyncio.ensure_future(result(call)) for call in calls]
    try:
        done, waiting = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
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
        raise TimeoutError(f"no answer within {timeout_s:g} s from {', '.join(silent)}")
    return [task.result() for task in tasks]


async def result(call: Awaitable[Any]) -> Any:
    """The call's result, or the error as it was raised in the actor, the actor's traceback attached as Ray formats it."""
    from ray.exceptions import RayTaskError

    try:
        return await call
    except RayTaskError as error:
        if not isinstance(error.cause, Exception):
            raise
        error.cause.add_note(str(error))
        raise error.cause from None


def _errors(tasks: set[asyncio.Task[Any]]) -> list[BaseException]:
    return [error for task in tasks if (error := task.exception()) is not None]


def _is_consequence(error: BaseException) -> bool:
    from ray.exceptions import RayActorError

    return not isinstance(error, RayActorError) and any(sign in str(error) for sign in _CONSEQUENCES)
