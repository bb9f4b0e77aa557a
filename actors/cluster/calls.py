"""Waiting for remote calls: within a time-out, and so that the error that surfaces is the first cause."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

import ray

_GRACE_S = 5.0
"""How long to wait for the errors of other ranks once one has failed: ranks notice a peer's death within half a second."""

_CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out", "NCCL", "gloo")
"""A message with one of these says that a collective failed because of what happened on another rank."""

IN_FLIGHT = 2
"""Calls that a replica is given at a time: it works on one while the next is there, so it never idles. More would wait in its queue, and a
time-out would count the waiting."""


async def first_cause(calls: Sequence[Awaitable[Any]], names: Sequence[str], timeout_s: float) -> list[Any]:
    """Results of remote calls that depend on each other.

    When one fails, the others soon fail because of it, or wait for it in a collective. So an actor's death, or an exception that is not
    about a collective, is raised in preference to a collective's failure.

    Args:
        calls: awaitables, Ray's references among them.
        names: of the calls, for a time-out's message.
        timeout_s: longest wait for all of them.

    Raises:
        TimeoutError: names the calls that did not answer.
        Exception: the first cause, as it was raised on its rank.
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
    """The call's result. An error is raised as it was in the actor, with the actor's traceback, as Ray formats it, in a note."""
    from ray.exceptions import RayTaskError

    try:
        return await call
    except RayTaskError as error:
        if not isinstance(error.cause, Exception):
            raise
        error.cause.add_note(str(error))
        raise error.cause from None


@contextlib.contextmanager
def reported_once(reference: Any) -> Iterator[None]:
    """An error in the block is that of another result of the call that makes ``reference``; Ray must not print it a second time."""
    try:
        yield
    except BaseException:
        if isinstance(reference, ray.ObjectRef):
            reference.future()  # counts as fetched
        raise


def _errors(tasks: set[asyncio.Task[Any]]) -> list[BaseException]:
    return [error for task in tasks if (error := task.exception()) is not None]


def _is_consequence(error: BaseException) -> bool:
    from ray.exceptions import RayActorError

    return not isinstance(error, RayActorError) and any(sign in str(error) for sign in _CONSEQUENCES)
