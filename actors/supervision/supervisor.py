"""Watches all actors of a run, idle ones too, and starts replacements within a budget."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, Self, TypeVar

from actors.cluster.call_results import result
from actors.supervision.budget import Budget
from actors.supervision.call_times import CallTimes
from raypref.config import RunConfig
from raypref.errors import ActorDied, ActorFailed, ActorSilent

logger = logging.getLogger(__name__)

T = TypeVar("T")

PING_S = 3.0
"""Seconds between two signs of life of an actor. One that is busy answers late, which is no failure; one that died cannot answer."""
GRACE_S = 6.0
"""How long the run's work may take to end by itself after a failure: a call that waits for the same actor names more than a sign of life
does. Longer than ``actors.cluster.calls`` waits for the errors of other ranks; with ``PING_S`` it is less than 15 s."""


class Starter(Protocol):
    """Ends and starts actors by name."""

    def kill(self, name: str) -> None:
        """End the actor at once, also one that hangs."""
        ...

    def may_replace(self, name: str) -> bool:
        """Whether the actor can be replaced while the others go on."""
        ...

    async def restart(self, name: str) -> Any:
        """Start the actor anew, in its bundle; its handle, once it is ready.

        Raises:
            ActorFailed: it died while it started, or is not ready in time.
        """
        ...


class Supervisor:
    """The supervision of one run."""

    def __init__(
        self,
        times: CallTimes,
        budget: Budget,
        starter: Starter | None = None,
        on_restart: Callable[[str, str], None] = lambda actor, reason: None,
    ) -> None:
        """
        Args:
            times: limits of the run's calls.
            budget: replacements by role.
            starter: ends and starts actors; None: nothing is replaced.
            on_restart: told the actor's name and the reason of each replacement, before it starts.
        """
        self.times = times
        self.budget = budget
        self._starter = starter
        self.on_restart = on_restart
        self._pings: dict[str, asyncio.Task[None]] = {}
        self._failure: ActorFailed | None = None
        self._failed = asyncio.Event()

    @classmethod
    def of(cls, config: RunConfig, starter: Starter) -> Self:
        """The supervision of a run, as its config has it."""
        limits = config.supervision
        times = CallTimes(config.learner.timeout_s, limits.floor_s, limits.multiple, limits.first_calls.limits())
        return cls(times, Budget(limits.restarts, limits.window_s), starter)

    @classmethod
    def without_restarts(cls, timeout_s: float) -> Self:
        """Every call may take ``timeout_s``, and nothing is replaced."""
        return cls(CallTimes.fixed(timeout_s), Budget(0, 1.0))

    def watch(self, name: str, handle: Any, on_lost: Callable[[ActorFailed], object] | None = None) -> None:
        """Have an actor give signs of life from now on.

        Args:
            name: of the actor.
            handle: the actor's.
            on_lost: told of its death; default: the run's work ends with it (``supervised``).
        """
        self.ignore(name)
        self._pings[name] = asyncio.ensure_future(self._ping(name, handle, self.fail if on_lost is None else on_lost))

    def ignore(self, name: str) -> None:
        """Ask an actor for no further sign of life."""
        if (ping := self._pings.pop(name, None)) is not None and ping is not asyncio.current_task():
            ping.cancel()

    def fail(self, error: ActorFailed) -> None:
        """End the run's work with ``error``."""
        if self._failure is None:
            self._failure = error
        self._failed.set()

    async def supervised(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the run's work, which ends with the failure of an actor, also if it waits for none at that time."""
        task, failed = asyncio.ensure_future(work), asyncio.ensure_future(self._failed.wait())
        try:
            await asyncio.wait([task, failed], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait([task], timeout=GRACE_S)
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        finally:
            failed.cancel()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if self._failure is None or not _failed_otherwise(task):
            return task.result()
        raise self._failure from (None if task.cancelled() else task.exception())

    async def replace(self, name: str, error: ActorFailed, prepare: Callable[[Any], Awaitable[None]], account: str | None = None) -> Any:
        """A new actor in the place of one that was lost, once it is ready.

        Args:
            name: of the actor.
            error: how it was lost.
            prepare: brings a new actor to the state in which it can be used.
            account: whose failures this one counts among; default: those of the role.

        Raises:
            ActorFailed: ``error``, or that of the last replacement, where there may be no further one; or what ``prepare`` raises.
        """
        while True:
            self.ignore(name)
            if self._starter is None or not self._starter.may_replace(name):
                raise error
            account = account or role_of(name)
            if (wait_s := self.budget.take(account)) is None:
                if self.budget.most:
                    used_up = f"{account}: {self.budget.most} losses within {self.budget.window_s:g} s"
                    error.add_note(f"{used_up}; supervision.restarts allows no further one")
                raise error
            logger.warning("%s; it is replaced%s", error, f" in {wait_s:g} s" if wait_s else "")
            self.on_restart(name, str(error))
            self._starter.kill(name)
            await asyncio.sleep(wait_s)
            try:
                handle = await self._starter.restart(name)
                await prepare(handle)
            except (ActorDied, ActorSilent) as again:
                if name not in again.actors:
                    raise
                error, account = again, None
            else:
                logger.info("%s has been replaced", name)
                return handle

    async def close(self) -> None:
        """Ask no actor for signs of life any more."""
        pings = list(self._pings.values())
        for ping in pings:
            ping.cancel()
        self._pings.clear()
        await asyncio.gather(*pings, return_exceptions=True)

    async def _ping(self, name: str, handle: Any, on_lost: Callable[[ActorFailed], object]) -> None:
        while True:
            await asyncio.sleep(PING_S)
            try:
                await result(handle.alive.remote(), name)
            except ActorFailed as error:
                on_lost(error)
                return


def role_of(name: str) -> str:
    """``rollout`` of ``rollout-1``."""
    return name.rpartition("-")[0] or name


def _failed_otherwise(task: asyncio.Task[Any]) -> bool:
    """Whether work was cancelled, or ended with an error that says less than the failure of an actor."""
    return task.cancelled() or not (task.exception() is None or isinstance(task.exception(), ActorFailed))
