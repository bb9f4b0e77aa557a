"""The driver's side of the learner: one object for all ranks, which raises the first cause when a call fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.cluster.calls import first_cause
from actors.learner.phases import Phases
from raypref import types
from raypref.roles import Audience, Checksums
from raypref.sections import SyncConfig

if TYPE_CHECKING:
    from actors.weights.destination import Destination


class LearnerGroup:
    """``raypref.roles.LearnerRole`` over the actors of the ranks.

    Every call goes to all ranks at once and has a time-out. After an error the ranks must not be used again, except after
    ``LossNotFinite``, which leaves them as they were.
    """

    def __init__(self, ranks: Sequence[Any], timeout_s: float, phases: Phases | None = None) -> None:
        """
        Args:
            ranks: handles of ``LearnerRank`` actors, in the order of their ranks.
            timeout_s: longest wait for any call, in seconds.
            phases: turns on GPUs that are shared with engines; default: no turns are taken.
        """
        self._ranks = list(ranks)
        self._timeout_s = timeout_s
        self._phases = Phases() if phases is None else phases
        self._sync_failed = False
        """Whether the last sync did: then every rank must send all weights, and the first rank alone knows."""

    async def start(self) -> None:
        """Connect the ranks with each other and load the policy.

        Raises:
            ConfigError: the policy cannot be loaded.
        """
        await self._phases.clear()
        address = await first_cause([self._ranks[0].listen.remote()], ["learner-0: listen"], self._timeout_s)
        await self._all("start", address[0])

    async def connect(self, destinations: Sequence[Destination], sync: SyncConfig) -> None:
        """Build the sending half of the weight transport on every rank (see ``actors.weights.sender.WeightSender``)."""
        await self._all("connect", list(destinations), sync)

    async def step(self, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        return await self._on_batch("step", batch)

    async def evaluate(self, examples: Sequence[types.Slice]) -> Mapping[str, float]:
        return await self._on_batch("evaluate", examples)

    async def begin_iteration(self, iteration: int, steps: int) -> None:
        await self._all("begin_iteration", iteration, steps)

    async def regularise(self, rollouts: Sequence[types.RolloutRef]) -> None:
        await self._all("regularise", *rollouts)

    async def refresh_reference(self, directory: Path) -> None:
        await self._all("refresh_reference", directory)

    async def sync(self, version: int, audience: Audience = "all") -> Checksums:
        async with self._phases.syncing() as complete:
            complete, self._sync_failed = complete or self._sync_failed, True
            sent: Checksums = (await self._all("sync", version, audience, complete))[0]
            self._sync_failed = False
            return sent

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> Sequence[np.ndarray]:
        return (await self._all("probe", list(sequences)))[0]

    async def save(self, directory: Path) -> None:
        await self._all("save", directory)

    async def load(self, directory: Path) -> None:
        await self._phases.training()
        await self._all("load", directory)

    async def export(self, directory: Path) -> None:
        await self._all("export", directory)

    async def _on_batch(self, method: str, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        """The result of a method that gets the whole batch on every rank, and for which the learner needs the GPUs."""
        await self._phases.training()
        bounds = [(part.start, part.stop) for part in batch]
        return (await self._all(method, bounds, *(part.ref for part in batch)))[0]

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        """The method's results on all ranks, by rank."""
        calls = [getattr(rank, method).remote(*arguments) for rank in self._ranks]
        return await first_cause(calls, [f"learner-{k}: {method}" for k in range(len(calls))], self._timeout_s)
