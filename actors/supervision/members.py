"""The actors of one role, of which some may be down: lost, and not replaced yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from actors.supervision.copies import Copies, WeightsGone
from actors.supervision.supervisor import Supervisor
from raypref.errors import ActorFailed


@dataclass(slots=True, eq=False)
class Member:
    """One actor."""

    name: str
    handle: Any
    index: int
    up: bool = True
    """Whether it can be asked. False from its loss until its replacement is ready and holds the weights that it needs."""
    started: bool = True
    """Whether ``handle`` is that of an actor that lives, as far as is known."""


class Members:
    """Replaces what is lost; its owner is told what goes down and comes up, and gives the work to what is up."""

    def __init__(
        self,
        actors: Sequence[tuple[str, Any]],
        supervisor: Supervisor,
        *,
        copies: Copies | None = None,
        prepare: Callable[[str, Any], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            actors: name and handle of each.
            supervisor: of the run.
            copies: where the actors of this role hold a copy of the policy.
            prepare: given the name and the handle of a replacement that holds the policy's weights, brings it to the state of the others.
        """
        self.all = [Member(name, handle, index) for index, (name, handle) in enumerate(actors)]
        self.supervisor = supervisor
        self._copies = copies
        self._prepare = prepare
        self.on_down: Callable[[Member, ActorFailed], None] = lambda member, error: None
        self.on_up: Callable[[Member], None] = lambda member: None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self.failure: BaseException | None = None
        """Why there will be no further replacement."""
        self._changed = asyncio.Event()
        """Set at every change of what is up; whoever waits clears it."""
        self._needed = asyncio.Event()
        """Set when something waits for an actor of this role while none is up."""
        self._replacing: set[asyncio.Task[None]] = set()
        if copies is not None:
            copies.on_lost |= {member.name: partial(self.lost, member) for member in self.all if member.name in copies}

    def watch(self) -> None:
        """Have every actor give signs of life from now on."""
        for member in self.all:
            self._watch(member)

    @property
    def started(self) -> list[Member]:
        """Those that can end by themselves."""
        return [member for member in self.all if member.started]

    @property
    def up(self) -> list[Member]:
        return [member for member in self.all if member.up]

    def lost(self, member: Member, handle: Any, error: ActorFailed, account: str | None = None) -> bool:
        """Replace an actor. Nothing happens where ``handle`` is not that of the present one, or its loss is known.

        Args:
            member: which one.
            handle: what was asked and failed.
            error: how.
            account: whose failures it counts among; default: those of its role.

        Returns:
            Whether its loss is news.
        """
        if not member.up or member.handle is not handle:
            return False
        member.up = member.started = False
        if self._copies is not None and member.name in self._copies:
            self._copies.lose(member.name)
        self._note_change()
        task = asyncio.ensure_future(self._replace(member, error, account))
        self._replacing.add(task)
        task.add_done_callback(self._replaced)
        self.on_down(member, error)
        return True

    def need(self) -> None:
        """Something waits for an actor, and none is up."""
        self._needed.set()

    async def some_up(self) -> list[Member]:
        """The actors that are up, at least one; waits for it.

        Raises:
            ActorFailed: there will be none.
        """
        while not self.up:
            self.need()
            await self._change()
        return self.up

    async def all_up(self) -> list[Member]:
        """All actors, once none is down.

        Raises:
            ActorFailed: one could not be replaced.
        """
        while len(self.up) < len(self.all):
            await self._change()
        return self.all

    async def close(self) -> None:
        """Replace nothing any more."""
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*self._replacing, return_exceptions=True)

    async def _change(self) -> None:
        if self.failure is not None:
            raise self.failure
        self._changed.clear()
        await self._changed.wait()
        if self.failure is not None:
            raise self.failure

    async def _replace(self, member: Member, error: ActorFailed, account: str | None) -> None:
        await self.supervisor.replace(member.name, error, lambda handle: self._made_ready(member, handle), account)
        member.up = True
        self._needed.clear()
        self._watch(member)
        self._note_change()
        self.on_up(member)

    async def _made_ready(self, member: Member, handle: Any) -> None:
        member.handle, member.started = handle, True
        try:
            if self._copies is not None and member.name in self._copies:
                await self._weights(self._copies, member, handle)
            if self._prepare is not None:
                await self._prepare(member.name, handle)
        except ActorFailed:
            member.started = False
            if self._copies is not None:
                self._copies.lose(member.name)
            raise

    async def _weights(self, copies: Copies, member: Member, handle: Any) -> None:
        """Wait until a replacement holds the weights of the policy: with the next sync, or at once where no other actor is up. Where they
        are gone it is the next sync, unless something needs them before.

        Raises:
            WeightsGone: something does.
        """
        held = copies.replaced(member.name, handle)

        def died(error: ActorFailed) -> None:
            if not held.done():
                held.set_exception(error)

        self.supervisor.watch(member.name, handle, died)
        alone = asyncio.ensure_future(self._none_up())
        try:
            await asyncio.wait([held, alone], return_when=asyncio.FIRST_COMPLETED)
            if not held.done() and copies.bring is not None:
                try:
                    await copies.bring(member.name)
                except WeightsGone:
                    if await self._needed_before(held):
                        raise
            await held
        finally:
            held.cancel()
            alone.cancel()

    async def _needed_before(self, held: asyncio.Future[None]) -> bool:
        """Whether something needs an actor of this role before a replacement holds weights."""
        needed: asyncio.Future[Any] = asyncio.ensure_future(self._needed.wait())
        awaited: list[asyncio.Future[Any]] = [held, needed]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            return not held.done()
        finally:
            needed.cancel()

    async def _none_up(self) -> None:
        while self.up:
            self._changed.clear()
            await self._changed.wait()

    def _watch(self, member: Member) -> None:
        handle = member.handle
        self.supervisor.watch(member.name, handle, lambda error: self.lost(member, handle, error))

    def _replaced(self, task: asyncio.Task[None]) -> None:
        self._replacing.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.failure = error
        if isinstance(error, ActorFailed):
            self.supervisor.fail(error)
        self._note_change()
        self.on_failure(error)

    def _note_change(self) -> None:
        self._changed.set()
