"""The learner and the engines take turns on GPUs that they share (``placement.sleep``).

    phase       engines                                   the learner's optimiser state
    training    asleep                                    on the GPU
    sampling    awake, with their key-value cache         in host memory

    method      when                                      what it does
    clear       before the learner loads anything         the engines fall asleep
    training    at the first step after sampling          the engines fall asleep, then the optimiser state returns to the GPU
    syncing     around a weight sync                      the optimiser state leaves the GPU, the engines' weights wake; after the
                                                          transfer their key-value cache wakes

Memory is freed before any is allocated, and the key-value cache, the largest part, comes last: during the transfer there are two copies of
the weights and little else. The learner's parameters stay on the GPU, because the check after a weight sync computes log-probs with both.
An engine that is lost between a sync and the next step is replaced; later there is no room for another one to load.
Only ``LearnerGroup`` changes the phase, so the driver is the same with and without ``placement.sleep``.

Sources: vLLM's sleep mode (levels, tags: ``vllm/v1/engine/core.py``); the order is that of its documentation for weight updates, and of
verl and OpenRLHF.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from actors.cluster.calls import first_cause
from raypref.config import RunConfig
from raypref.plan.placement import Plan

Level = Literal[1, 2]
FORGET: Level = 2
"""Engines drop their weights while they sleep; the next weight sync sends all of them."""
KEEP: Level = 1
"""Engines keep their weights in host memory while they sleep; the next weight sync may send only some of them."""


def takes_turns(config: RunConfig, plan: Plan) -> bool:
    """Whether the learner and the engines of this plan take turns on their GPUs (``placement.sleep``)."""
    return config.placement.sleep and bool(plan.of("learner") and plan.of("rollout"))


class Phases:
    """The phases of one run. Without ranks and engines (the learner does not share its GPUs) nothing happens."""

    def __init__(
        self, ranks: Sequence[Any] = (), engines: Sequence[tuple[str, Any]] = (), level: Level = KEEP, timeout_s: float = 0.0
    ) -> None:
        """
        Args:
            ranks: handles of ``LearnerRank`` actors, in the order of their ranks.
            engines: name and handle of each ``RolloutActor``.
            level: how engines sleep: ``KEEP`` or ``FORGET``.
            timeout_s: longest wait for any call, in seconds.
        """
        self._ranks = [(f"learner-{k}", handle) for k, handle in enumerate(ranks)]
        self._engines = dict(engines)
        self._loading: set[str] = set()
        """Engines that were lost, until their replacements have loaded."""
        self._loaded = asyncio.Event()
        """Set when there are none of them."""
        self._loaded.set()
        self._level = level
        self._timeout_s = timeout_s
        self._training = False

    async def clear(self) -> None:
        """Put the engines to sleep after their start, so that the learner can load. They have no weights to keep yet."""
        await self._ask_engines("sleep", FORGET)
        self._training = True

    @property
    def leave_room(self) -> bool:
        """Whether an engine could load now."""
        return not (self._training and self._engines)

    def lost(self, engine: str) -> None:
        """An engine is gone, and a replacement loads."""
        if engine in self._engines:
            self._loading.add(engine)
            self._loaded.clear()

    def replaced(self, engine: str, handle: Any) -> None:
        """The replacement has loaded, and is awake. It has no weights until the next sync, unless it is sent them before."""
        if engine in self._engines:
            self._engines[engine] = handle
            self._loading.discard(engine)
        if not self._loading:
            self._loaded.set()

    async def training(self) -> None:
        """Give the GPUs to the learner until the next weight sync, once no engine loads any more.

        Raises:
            SyncError: an engine has unanswered requests.
        """
        if self._training:
            return
        await self._loaded.wait()
        await self._ask_engines("sleep", self._level)
        await self._ask(self._ranks, "reload")
        self._training = True

    @contextlib.asynccontextmanager
    async def syncing(self) -> AsyncIterator[bool]:
        """Context of one transfer, after which the engines can sample; yields whether every weight must be sent."""
        if not self._training:
            yield False
            return
        await self._ask(self._ranks, "offload")
        await self._ask_engines("wake_up", ["weights"])
        yield self._level == FORGET
        await self._ask_engines("wake_up", ["kv_cache"])
        self._training = False

    async def _ask_engines(self, method: str, *arguments: Any) -> None:
        await self._ask(list(self._engines.items()), method, *arguments)

    async def _ask(self, actors: Sequence[tuple[str, Any]], method: str, *arguments: Any) -> None:
        if not actors:
            return
        calls = [getattr(handle, method).remote(*arguments) for _, handle in actors]
        await first_cause(calls, [f"{name}: {method}" for name, _ in actors], self._timeout_s)
