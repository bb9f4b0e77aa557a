"""Calls to replicas that can stand in for each other: each goes to the least busy one that is up.

A call that a lost replica has not answered is made again. It may be what the replica died of, so the second time it is the only call of its
replica; if that one is lost too, the input is set aside.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.supervision.members import Member, Members
from actors.supervision.supervisor import Supervisor, role_of
from raypref.errors import ActorDied, ActorFailed, ActorSilent, InputSetAside

LOST = (ActorDied, ActorSilent)
"""What is raised where an actor died or hangs. Any other error would be the same on another replica."""
KILLS = 2
"""Replicas that an input may kill before it is set aside."""


class Replicas:
    """Divides the calls over the replicas of a role."""

    def __init__(self, members: Members, in_flight: int) -> None:
        """
        Args:
            members: the replicas. Their events are this object's from now on.
            in_flight: calls that one replica is given at a time.
        """
        self.members = members
        self._in_flight = in_flight
        self._load = [0] * len(members.all)
        self._alone: set[Member] = set()
        """Replicas that one call has to itself."""
        self._waiting: deque[asyncio.Future[Member]] = deque()
        self._suspects: deque[asyncio.Future[Member]] = deque()
        """Calls that wait for a replica that has no other call."""
        members.on_up = lambda member: self._serve()
        members.on_failure = self._fail

    @property
    def _supervisor(self) -> Supervisor:
        return self.members.supervisor

    async def call(
        self, what: str, ask: Callable[[Member], Awaitable[Any]], *, computed: Callable[[Any], bool] = lambda answer: True
    ) -> Any:
        """The answer of one replica.

        Args:
            what: the call's name, for time limits.
            ask: makes the call and waits for the answer, within the time that the supervisor allows for ``what``.
            computed: whether an answer was computed. One that was read back is quick, and says nothing of how long the others take.

        Raises:
            InputSetAside: the call has killed two replicas.
            ActorFailed: a replica was lost and cannot be replaced.
            Exception: what the replica raised.
        """
        kills = 0
        while True:
            member = await self._admitted(alone=kills > 0)
            handle, began = member.handle, time.monotonic()
            try:
                answer = await ask(member)
            except LOST as error:
                if member.name not in error.actors:
                    raise
                kills += 1
                if kills == KILLS:
                    raise self._set_aside(member, handle, what, error) from error
                self.members.lost(member, handle, error)
                continue
            finally:
                self._leave(member)
            if computed(answer):
                self._supervisor.times.add(what, time.monotonic() - began)
            return answer

    async def each(self, ask: Callable[[Member], Awaitable[Any]], members: Sequence[Member], *, needed: bool = False) -> dict[str, Any]:
        """The answers of several replicas, by name.

        Args:
            ask: as for ``call``.
            members: which replicas.
            needed: whether one that is lost meanwhile is asked again when it has been replaced; otherwise it is left out.
        """

        async def one(member: Member) -> list[Any]:
            while True:
                handle = member.handle
                try:
                    return [await ask(member)]
                except LOST as error:
                    if member.name not in error.actors:
                        raise
                    self.members.lost(member, handle, error)
                    if not needed:
                        return []
                    await self.members.all_up()

        answers = await asyncio.gather(*(one(member) for member in members))
        return {member.name: answer for member, found in zip(members, answers, strict=True) for answer in found}

    async def _admitted(self, alone: bool) -> Member:
        """A place for one call on a replica that is up; the least busy one."""
        if self.members.failure is not None:
            raise self.members.failure
        queue = self._suspects if alone else self._waiting
        place: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        queue.append(place)
        self._serve()
        if place.done():
            return place.result()
        if not self.members.up:
            self.members.need()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._leave(place.result())  # it had just been admitted
            raise

    def _leave(self, member: Member) -> None:
        """A call has ended; its place is free."""
        self._load[member.index] -= 1
        self._alone.discard(member)
        if self._waiting or self._suspects:
            self._serve()

    def _serve(self) -> None:
        """Admit calls, in their order; those that must be alone first."""
        kept = self._admit(self._suspects, 1, alone=True) if self._suspects else None
        self._admit(self._waiting, self._in_flight, alone=False, kept=kept)

    def _admit(self, queue: deque[asyncio.Future[Member]], most: int, *, alone: bool, kept: Member | None = None) -> Member | None:
        """Admit calls of one queue. Returns the replica that is emptied for the next one, where one must be alone and cannot yet."""
        while queue:
            if queue[0].done():  # cancelled
                queue.popleft()
                continue
            free = [member for member in self.members.all if member.up and member not in self._alone and member is not kept]
            member = min(free, key=lambda member: self._load[member.index], default=None)
            if member is None or self._load[member.index] >= most:
                return member if alone else None
            self._load[member.index] += 1
            if alone:
                self._alone.add(member)
            queue.popleft().set_result(member)
        return None

    def _set_aside(self, member: Member, handle: Any, what: str, error: ActorFailed) -> InputSetAside:
        """The end of an input that has killed ``KILLS`` replicas; these failures are its own, and not the infrastructure's."""
        role = role_of(member.name)
        charged = self.members.lost(member, handle, error, account=f"inputs of {role}")
        self._supervisor.budget.give_back(role, KILLS - 1 if charged else KILLS)
        return InputSetAside(f"an input killed {member.name} and another replica before it ({what}): {error}", [member.name])

    def _fail(self, error: BaseException) -> None:
        """Raise ``error`` in all calls that wait for a replica, and in later ones."""
        self.members.failure = error
        for queue in (self._waiting, self._suspects):
            while queue:
                if not (place := queue.popleft()).done():
                    place.set_exception(error)
