"""Whose turn it is on a GPU that the learner and an engine share (``placement.sleep``).

    training: engines asleep                            the learner's optimiser state on the GPU
    sampling: engines awake, key-value cache and all    the learner's optimiser state in host memory

    clear      engines sleep                                               before the learner loads anything
    training   engines sleep, then the optimiser's state comes             at a step after sampling
    syncing    the optimiser's state goes, weights wake, <transfer>, key-value cache wakes       at a weight sync

Memory is given back before any is taken, and the key-value cache, the largest part, comes last: while weights travel there are two copies
of them and little else. The learner's parameters stay: the check after a sync computes log-probs with both. Nobody but ``LearnerGroup``
asks for a phase, so the driver is the same with and without.

Sources: vLLM's sleep mode (levels, tags: ``vllm/v1/engine/core.py``); the order is that of its documentation for weight updates, and of
verl and OpenRLHF.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from actors.cluster.calls import first_cause

Level = Literal[1, 2]
FORGET: Level = 2
"""A sleep that forgets the weights: all of them come with the next sync."""
KEEP: Level = 1
"""A sleep that keeps the weights in host memory: for a sync that sends a part."""


class Phases:
    """The turns of one run; without ranks and engines a learner that has its GPUs to itself."""

    def __init__(
        self, ranks: Sequence[Any] = (), engines: Sequence[tuple[str, Any]] = (), level: Level = KEEP, timeout_s: float = 0.0
    ) -> None:
        """
        Args:
            ranks: handles of ``LearnerRank`` actors, in the order of their ranks.
            engines: name and handle of each ``RolloutActor``.
            level: how engines sleep: ``KEEP`` or ``FORGET``.
            timeout_s: longest wait for any call.
        """
        self._ranks = [(f"learner rank {k}", handle) for k, handle in enumerate(ranks)]
        self._engines = list(engines)
        self._level = level
        self._timeout_s = timeout_s
        self._training = False

    async def clear(self) -> None:
        """The engines, just started, give their memory to a learner that is still to load; their weights are worth nothing yet."""
        await self._ask(self._engines, "sleep", FORGET)
        self._training = True

    async def training(self) -> None:
        """The GPUs are the learner's until the next sync.

        Raises:
            SyncError: an engine has unanswered requests.
        """
        if self._training:
            return
        await self._ask(self._engines, "sleep", self._level)
        await self._ask(self._ranks, "reload")
        self._training = True

    @contextlib.asynccontextmanager
    async def syncing(self) -> AsyncIterator[bool]:
        """For the time of a transfer; the engines may sample after it. Gives whether every weight must be sent."""
        if not self._training:
            yield False
            return
        await self._ask(self._ranks, "offload")
        await self._ask(self._engines, "wake_up", ["weights"])
        yield self._level == FORGET
        await self._ask(self._engines, "wake_up", ["kv_cache"])
        self._training = False

    async def _ask(self, actors: Sequence[tuple[str, Any]], method: str, *arguments: Any) -> None:
        if not actors:
            return
        calls = [getattr(handle, method).remote(*arguments) for _, handle in actors]
        await first_cause(calls, [f"{name}: {method}" for name, _ in actors], self._timeout_s)
