"""The driver's side of the learner: one object for all ranks, which raises the first cause when a call fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.cluster.calls import first_cause
from actors.learner.phases import Phases
from actors.supervision.copies import Copies, WeightsGone
from actors.supervision.supervisor import Supervisor
from raypref import types
from raypref.errors import ActorFailed, ActorSilent, ConfigError, ObjectLost, SyncError
from raypref.roles import Audience, Checksums, check_received
from raypref.sections import SyncConfig

if TYPE_CHECKING:
    from actors.weights.destination import Destination


_NOT_ALIKE = {"start", "load", "saved"}
"""Calls whose earlier durations say nothing about the next one."""
_IDLE_S = 5.0
"""How soon a rank that does nothing answers, in seconds."""
_LATER_S = 10.0
"""How long after the end of a sync's time the ranks must have told of it, in seconds."""


class LearnerGroup:
    """``raypref.roles.LearnerRole`` over the actors of the ranks.

    Every call goes to all ranks at once and has a time-out. After an error the ranks must not be used again, except after
    ``LossNotFinite``, and an ``ObjectLost`` that names no actor: these leave them as they were.
    """

    def __init__(
        self,
        ranks: Sequence[Any],
        timeout_s: float,
        phases: Phases | None = None,
        supervisor: Supervisor | None = None,
        copies: Copies | None = None,
        stored: Callable[[int], str | None] = lambda version: None,
    ) -> None:
        """
        Args:
            ranks: handles of ``LearnerRank`` actors, in the order of their ranks.
            timeout_s: longest wait for any call, in seconds.
            phases: turns on GPUs that are shared with engines; default: no turns are taken.
            supervisor: of the run, which limits calls further; default: it does not.
            copies: the receivers of the weights that may be replaced; default: those of ``connect``, which are not.
            stored: where the policy of a version is on disk, if it is.
        """
        self._ranks = list(ranks)
        self._timeout_s = timeout_s
        self._times = (supervisor or Supervisor.without_restarts(timeout_s)).times
        self._copies = Copies() if copies is None else copies
        self._stored = stored
        self._sync_config = SyncConfig()
        self._connected = 0
        """``Copies.changes`` when the senders connected; -1: they are connected with one copy alone."""
        self._weights = asyncio.Lock()
        """Held while the weights change or are sent."""
        self._sent: tuple[int, Checksums] | None = None
        """What the last sync called the weights, and their checksums."""
        self._pi_t: tuple[int, Checksums] | None = None
        """The same of the last sync that references keep."""
        self._held: set[int] = set()
        """Versions that are the learner's own weights as they are now."""
        self._phases = Phases() if phases is None else phases
        self._complete = False
        """Whether every rank must send all weights with the next sync: the senders have connected anew, the learner has loaded weights, or
        the last sync failed, which the first rank alone knows."""
        self._saving_since = 0.0
        """When the last checkpoint was copied; since then it is written."""
        self._copying = False
        """Whether the state of a checkpoint may still be copied, which whatever changes the state waits for."""

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
        self._sync_config = sync
        await self._connect(destinations)

    async def step(self, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        async with self._weights:
            self._held.clear()
            values = await self._on_batch("step", batch, self._changing("step"))
            self._copying = False
            return values

    async def evaluate(self, examples: Sequence[types.Slice]) -> Mapping[str, float]:
        return await self._on_batch("evaluate", examples)

    async def likelihood(self, texts: Sequence[types.Slice]) -> Mapping[str, float]:
        return await self._on_batch("likelihood", texts)

    async def begin_iteration(self, iteration: int, steps: int) -> None:
        await self._all("begin_iteration", iteration, steps, kind=self._changing("begin_iteration"))

    async def regularise(self, rollouts: Sequence[types.RolloutRef]) -> None:
        await self._all("regularise", *rollouts)

    async def refresh_reference(self, directory: Path) -> None:
        await self._all("refresh_reference", directory)

    async def sync(self, version: int, audience: Audience = "all") -> Checksums:
        async with self._weights:
            while True:
                copies, changes = await self._copies.present(), self._copies.changes  # one that returns later is not among these
                if await self._copies.any_lost(copies, self._times.floor_s):  # one that hangs is found before the others wait for it
                    continue
                try:
                    await self._connect_anew(copies, changes)
                    sent = await self._send(version, audience)
                except SyncError:
                    if not await self._copies.any_lost(copies, self._times.floor_s):
                        raise
                else:
                    self._sent = version, sent
                    self._pi_t = self._sent if audience == "all" else self._pi_t
                    self._held.add(version)
                    self._copies.hold([copy.name for copy in copies])
                    return sent

    async def bring(self, name: str) -> None:
        """Send the weights of the last sync to one copy that has been replaced, and compare what it received with them. If the learner has
        trained since, they come from the disk.

        Raises:
            WeightsGone: they are not there.
            ActorFailed: what is there are others.
            SyncError: the copy received others.
        """
        async with self._weights:
            last = self._pi_t if name.startswith("reference") else self._sent
            if last is None or not self._copies.is_behind(name):
                return
            copy, (version, checksums) = self._copies.destination(name), last
            self._connected = -1
            try:
                await self._connect([copy], *([] if version in self._held else [self._on_disk(name, version)]))
            except ConfigError as error:
                raise ActorFailed(f"{name} was replaced, but its weights cannot be read: {error}", [name]) from error
            sent = await self._sent_by_all("learner: sync with one copy", version, "all", True)
            if sent != checksums:
                raise ActorFailed(
                    f"{name} was replaced, but the weights of version {version} are not those that the last sync sent", [name]
                )
            received = (await first_cause([copy.handle.weight_checksums.remote()], [f"{name}: weight_checksums"], self._timeout_s))[0]
            for held in received.values() if name.startswith("rollout") else [received]:
                check_received(name, sent, held)
            self._copies.hold([name])

    async def _connect_anew(self, copies: Sequence[Destination], changes: int) -> None:
        """Connect with the copies that were present after so many changes, unless the connection is with these."""
        if self._connected != changes:
            await self._connect(copies)
            self._connected = changes

    async def _connect(self, copies: Sequence[Destination], *stored: str) -> None:
        self._complete = True
        await self._all("connect", list(copies), self._sync_config, *stored, limit_s=self._sync_config.timeout_s + _LATER_S)

    def _on_disk(self, name: str, version: int) -> str:
        """Where the policy is that a copy must hold, since the learner has it no longer."""
        if (stored := self._stored(version)) is None:
            gone = (
                f"the learner has trained since the last sync, and the policy of iteration {version} is not on disk (checkpoint.policies)"
            )
            raise WeightsGone(f"{name} was replaced, but its weights are gone: {gone}", [name])
        return stored

    async def _send(self, version: int, audience: Audience) -> Checksums:
        async with self._phases.syncing() as complete:
            complete, self._complete = complete or self._complete, True
            kind = "learner: sync of all weights" if complete else "learner: sync"
            sent = await self._sent_by_all(kind, version, audience, complete)
            self._complete = False
            return sent

    async def _sent_by_all(self, kind: str, version: int, audience: Audience, complete: bool) -> Checksums:
        """Have all ranks send their weights. The first one names a copy that is late; a rank that is late itself is noticed after that."""
        limit_s = self._times.limit(kind, self._sync_config.timeout_s)
        sent: Checksums = (await self._all("sync", version, audience, complete, limit_s, kind=kind, limit_s=limit_s + _LATER_S))[0]
        return sent

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> Sequence[np.ndarray]:
        return (await self._all("probe", list(sequences)))[0]

    async def save(self, directory: Path, policy: Path | None = None) -> None:
        self._copying = True
        await self._all("save", directory, policy)
        self._saving_since = time.monotonic()

    async def saved(self) -> bool:
        written = await self._all("saved")
        if not all(written) and time.monotonic() - self._saving_since > self._timeout_s:
            late = [f"learner-{rank}" for rank, whole in enumerate(written) if not whole]
            raise ActorSilent(f"a checkpoint is not written within learner.timeout_s = {self._timeout_s:g} s by {', '.join(late)}", late)
        return all(written)

    async def load(self, directory: Path) -> None:
        await self._phases.training()
        async with self._weights:
            self._held.clear()
            self._complete = True
            await self._all("load", directory)

    async def export(self, directory: Path) -> None:
        await self._all("export", directory)

    def _changing(self, method: str) -> str:
        """The kind of a call that changes the state. One that may wait for a checkpoint's copy has its own."""
        return f"learner: {method}{' after a save' if self._copying else ''}"

    async def _on_batch(self, method: str, batch: Sequence[types.Slice], kind: str | None = None) -> Mapping[str, float]:
        """The result of a method that gets the whole batch on every rank, and for which the learner needs the GPUs."""
        await self._phases.training()
        bounds = [(part.start, part.stop) for part in batch]
        return (await self._all(method, bounds, *(part.ref for part in batch), kind=kind))[0]

    async def _all(self, method: str, *arguments: Any, kind: str | None = None, limit_s: float | None = None) -> list[Any]:
        """The method's results on all ranks, by rank.

        Args:
            method, arguments: of the call.
            kind: under which the time that it takes is noted; default: the method's.
            limit_s: longest wait; default: what calls of its kind may take.
        """
        kind, began = kind or f"learner: {method}", time.monotonic()
        calls = [getattr(rank, method).remote(*arguments) for rank in self._ranks]
        if limit_s is None:
            limit_s = self._timeout_s if method in _NOT_ALIKE else self._times.limit(kind)
        try:
            results = await first_cause(calls, [f"learner-{k}: {method}" for k in range(len(calls))], limit_s)
        except ObjectLost as error:
            error.actors = await self._busy()
            raise
        self._times.add(kind, time.monotonic() - began)
        return results

    async def _busy(self) -> tuple[str, ...]:
        """After a call that a rank could not read: the ranks that have begun it, and wait for that one in a collective. Where there is none
        nothing has been computed, since no rank can end such a call alone."""
        names = [f"learner-{k}" for k in range(len(self._ranks))]
        answers = [first_cause([rank.alive.remote()], [name], _IDLE_S) for rank, name in zip(self._ranks, names, strict=True)]
        found = await asyncio.gather(*answers, return_exceptions=True)
        return tuple(name for name, answer in zip(names, found, strict=True) if isinstance(answer, BaseException))
