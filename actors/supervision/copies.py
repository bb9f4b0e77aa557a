"""Which actors receive the policy's weights, and which hold those of the last sync.

An actor that was replaced has no weights. It gets them with the next sync, for which the senders connect with all copies anew. Where
nobody else can do its work it gets them at once, alone (``LearnerGroup.bring``): from the learner, or from the disk where the learner has
taken another step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.cluster.calls import first_cause
from actors.supervision.supervisor import role_of
from actors.weights.destination import Destination
from raypref.errors import ActorFailed


class WeightsGone(ActorFailed):
    """Nobody has the weights that a replacement must hold; the next sync brings others."""


class Copies:
    """The receivers of the weights, in the order of the plan."""

    def __init__(self, destinations: Sequence[Destination] = ()) -> None:
        self._all = {destination.name: destination for destination in destinations}
        self._present = set(self._all)
        self._returned = asyncio.Event()
        """Set when a copy is present again."""
        self._behind: dict[str, asyncio.Future[None]] = {}
        """Name of a copy without the weights -> where its role waits for them."""
        self.changes = 0
        """Grows when the senders must connect anew."""
        self.on_lost: dict[str, Callable[[Any, ActorFailed], object]] = {}
        """By name, who replaces a copy: told its handle, and how it was lost."""
        self.bring: Callable[[str], Awaitable[None]] | None = None
        """Sends the weights of the last sync to one copy; see ``LearnerGroup.bring``."""

    def __contains__(self, name: str) -> bool:
        """Whether the actor receives weights."""
        return name in self._all

    def destination(self, name: str) -> Destination:
        return self._all[name]

    def lose(self, name: str) -> None:
        """The actor is gone; it takes no part in a sync until it is replaced."""
        self._present.discard(name)
        self.changes += 1

    def replaced(self, name: str, handle: object) -> asyncio.Future[None]:
        """Another actor takes the place of the one that was lost; the result is there when it holds the weights."""
        earlier = self._all[name]
        self._all[name] = Destination(name, handle, earlier.workers)
        self._present.add(name)
        self.changes += 1
        self._behind[name] = asyncio.get_running_loop().create_future()
        self._returned.set()
        return self._behind[name]

    async def present(self) -> list[Destination]:
        """The copies that can take part in a sync; waits until every role has one."""
        while {role_of(name) for name in self._present} != {role_of(name) for name in self._all}:
            self._returned.clear()
            await self._returned.wait()
        return [destination for name, destination in self._all.items() if name in self._present]

    async def any_lost(self, copies: Sequence[Destination], limit_s: float) -> bool:
        """Whether one of these copies is gone or hangs, at a sync, when they have nothing else to do; its loss is told.

        Args:
            copies: which ones.
            limit_s: how long a sign of life may take.
        """
        calls = (first_cause([copy.handle.alive.remote()], [f"{copy.name}: a weight sync"], limit_s) for copy in copies)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for copy, answer in zip(copies, answers, strict=True):
            if isinstance(answer, ActorFailed) and copy.name in self.on_lost:
                self.on_lost[copy.name](copy.handle, answer)
        return any(copy.name not in self._present for copy in copies)

    def is_behind(self, name: str) -> bool:
        """Whether the copy has not received the weights yet."""
        return name in self._behind

    def hold(self, names: Sequence[str]) -> None:
        """These copies have received the weights."""
        for name in names:
            if (waiting := self._behind.pop(name, None)) is not None and not waiting.done():
                waiting.set_result(None)
