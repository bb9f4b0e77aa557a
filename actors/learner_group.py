"""The driver's side of the learner: one object for all ranks, and the error that came first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raypref import types
from raypref.roles import Checksums

if TYPE_CHECKING:
    from actors.weights import Receiver

_GRACE_S = 5.0
"""How long the other ranks' errors are waited for once one has failed: a peer's death is noticed by its neighbours in half a second."""

_CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out", "NCCL", "gloo")
"""In a message: a collective failed, because of what happened on another rank."""


class LearnerGroup:
    """``raypref.roles.LearnerRole`` over the actors of the ranks.

    Every call goes to all ranks at once and has a time-out. After an error the ranks are not to be used again, ``LossNotFinite`` aside,
    which leaves them as they were.
    """

    def __init__(self, ranks: Sequence[Any], timeout_s: float) -> None:
        """
        Args:
            ranks: handles of ``LearnerRank`` actors, in the order of their ranks.
            timeout_s: longest wait for any call.
        """
        self._ranks = list(ranks)
        self._timeout_s = timeout_s

    async def start(self) -> None:
        """Bring the ranks together; the policy is loaded when this returns.

        Raises:
            ConfigError: the policy cannot be loaded.
        """
        address = await first_cause([self._ranks[0].listen.remote()], ["learner rank 0"], self._timeout_s)
        await self._all("start", address[0])

    async def connect(self, receivers: Sequence[Receiver], backend: str, timeout_s: float) -> None:
        """Build the sending half of the weight transport on every rank (see ``actors.weights.Publisher``)."""
        await self._all("connect", list(receivers), backend, timeout_s)

    async def step(self, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        bounds = [(part.start, part.stop) for part in batch]
        return (await self._all("step", bounds, *(part.ref for part in batch)))[0]

    async def begin_iteration(self, iteration: int, steps: int) -> None:
        await self._all("begin_iteration", iteration, steps)

    async def publish(self, version: int) -> Checksums:
        return (await self._all("publish", version))[0]

    async def probe(self, sequences: Sequence[types.Sequence]) -> Sequence[np.ndarray]:
        return (await self._all("probe", list(sequences)))[0]

    async def save(self, directory: Path) -> None:
        await self._all("save", directory)

    async def load(self, directory: Path) -> None:
        await self._all("load", directory)

    async def export(self, directory: Path) -> None:
        await self._all("export", directory)

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        """The method's results on all ranks, by rank."""
        calls = [getattr(rank, method).remote(*arguments) for rank in self._ranks]
        return await first_cause(calls, [f"learner rank {k}: {method}" for k in range(len(calls))], self._timeout_s)


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
    tasks = [asyncio.ensure_future(_result(call)) for call in calls]
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


async def _result(call: Awaitable[Any]) -> Any:
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
