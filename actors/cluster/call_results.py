"""The result of one remote call, or its error in words that name the actor."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterator
from typing import Any

import ray

from raypref.errors import DISK_ERRORS, ActorDied, ActorFailed, ObjectLost


def actor_of(name: str) -> str:
    """The actor in the name of a call: ``rollout-1`` of ``rollout-1: sample``."""
    return name.partition(":")[0]


def died(name: str, error: BaseException) -> ActorDied:
    """What Ray says of an actor that is gone, in one line and with the actor's name.

    Args:
        name: of the call that failed.
        error: Ray's.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = next((line for line in lines if "Worker exit detail" in line), lines[-1] if lines else type(error).__name__)
    actor, _, call = name.partition(": ")
    during = f" in {call}" if call else ""
    return ActorDied(f"{actor} died{during}: {detail}", [actor])


def _lost(name: str, error: BaseException) -> ObjectLost:
    """What travels with a call is gone with the node that held it, or found no room. The actor itself lives."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ObjectLost(f"{name}: Ray's object store: {type(error).__name__}: {lines[-1] if lines else ''}", [actor_of(name)])


async def result(call: Awaitable[Any], name: str) -> Any:
    """The call's result. An error is raised as it was in the actor, with the actor's traceback, as Ray formats it, in a note.

    Args:
        call: Ray's reference.
        name: of the call, as for ``first_cause``.

    Raises:
        ActorDied: the actor is gone.
        ActorFailed: its disk did not take what it wrote.
        ObjectLost: the cluster lost or could not hold what travels with the call.
    """
    from ray.exceptions import ObjectLostError, ObjectStoreFullError, OutOfDiskError, RayActorError, RayTaskError

    of_the_cluster = (ObjectLostError, ObjectStoreFullError, OutOfDiskError)

    try:
        return await call
    except RayTaskError as error:
        if not isinstance(error.cause, Exception):
            raise
        error.cause.add_note(str(error))
        if isinstance(error.cause, OSError) and error.cause.errno in DISK_ERRORS:
            raise ActorFailed(f"{name}: {error.cause}", [actor_of(name)]) from error.cause
        if isinstance(error.cause, of_the_cluster):
            raise _lost(name, error.cause) from error.cause
        raise error.cause from None
    except of_the_cluster as error:
        raise _lost(name, error) from error
    except RayActorError as error:
        raise died(name, error) from error


@contextlib.contextmanager
def reported_once(reference: Any) -> Iterator[None]:
    """An error in the block is that of another result of the call that makes ``reference``; Ray must not print it a second time."""
    try:
        yield
    except BaseException:
        if isinstance(reference, ray.ObjectRef):
            reference.future()  # counts as fetched
        raise
