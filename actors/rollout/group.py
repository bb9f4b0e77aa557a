"""The driver's side of the rollout actors: routes each request to the least busy engine and each rollout to its caller.

Requests that are made at the same time, or while an earlier call to the same engine is under way, reach the engine in one call. So it
starts on all of them together, and neither side pays for a call per prompt.

The unanswered requests of an engine that is lost go to the others, or wait for its replacement: a request names its seed and the policy's
version, so another engine gives the same answer.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.cluster.calls import first_cause
from actors.rollout.engine_stats import EngineFigures
from actors.rollout.reader import read
from actors.supervision.copies import Copies
from actors.supervision.members import Member, Members
from actors.supervision.supervisor import Supervisor
from raypref.errors import ActorDied, ActorFailed, ActorSilent, RayprefError
from raypref.roles import Checksums
from raypref.types import Rollout, RolloutRef, SampleRequest

_LOOK_S = 2.0
"""Seconds between two looks for an engine that finishes nothing; less where the shortest time limit is."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A request, and where its caller waits."""

    request: SampleRequest
    answer: asyncio.Future[Awaitable[Rollout]]
    only: Member | None
    """The engine that must answer; None: any."""
    since: float = 0.0
    """When it was given to its present engine."""

    @property
    def kind(self) -> str:
        """Requests of a kind take about the same time."""
        return f"rollout: sample {self.request.max_tokens}"


@dataclass(slots=True)
class _Engine:
    """What the driver knows of one engine."""

    member: Member
    handle: Any
    """The actor that the rest is about."""
    queued: list[str] = field(default_factory=list)
    """Keys of the requests that the next call takes along."""
    unanswered: dict[str, _Asked] = field(default_factory=dict)
    """By key."""
    progress: float = 0.0
    """When it last finished a group, or was given one while it had none."""
    reader: asyncio.Task[None] | None = None
    sender: asyncio.Task[None] | None = None

    def stop(self) -> None:
        for task in (self.reader, self.sender):
            if task is not None:
                task.cancel()


class RolloutGroup:
    """``raypref.roles.RolloutRole`` over several engines; to be used from one event loop."""

    def __init__(
        self, engines: Sequence[tuple[str, Any]], timeout_s: float, supervisor: Supervisor | None = None, copies: Copies | None = None
    ) -> None:
        """
        Args:
            engines: name and handle of each ``RolloutActor``.
            timeout_s: longest time without a finished group on an engine that has work, and longest wait for any other call, in seconds.
            supervisor: of the run; default: nothing is replaced.
            copies: where the engines get their weights.
        """
        self._supervisor = supervisor or Supervisor.without_restarts(timeout_s)
        self.members = Members(engines, self._supervisor, copies=copies)
        self.members.on_down, self.members.on_up, self.members.on_failure = self._down, self._up, self._fail
        self._engines = [_Engine(member, member.handle) for member in self.members.all]
        self._loads: list[float] = [0.0] * len(self._engines)
        """Responses that each engine was asked for and has not given; infinite for one that is down. A list of numbers: finding the least
        of 512 takes microseconds."""
        self._unplaced: list[_Asked] = []
        """Requests for which no engine is up."""
        self._timeout_s = timeout_s
        self._keys = itertools.count()
        self._looking: asyncio.Task[None] | None = None
        self.sampled_tokens = 0
        """Response tokens of all groups so far."""
        self._figures = EngineFigures()

    async def sample(self, request: SampleRequest) -> RolloutRef:
        return await self._ask(request)

    async def probe(self, requests: Sequence[SampleRequest]) -> Mapping[str, Sequence[Rollout]]:
        """Without the engines that are lost meanwhile, if another one answers."""
        return await self._of_each(lambda member: self._ask_all(member, requests))

    async def weight_checksums(self) -> Mapping[str, Checksums]:
        """By engine; by ``engine/tp0``, ``engine/tp1`` ... where an engine has several workers."""

        async def checksums(member: Member) -> Mapping[str, Checksums]:
            return (await first_cause([member.handle.weight_checksums.remote()], [f"{member.name}: weight_checksums"], self._timeout_s))[0]

        answers = await self._of_each(checksums)
        return {f"{name}/{worker}" if worker else name: own for name, workers in answers.items() for worker, own in workers.items()}

    def take_metrics(self) -> dict[str, float]:
        """The engines' own figures since they were last taken: ``engine/...``."""
        figures, self._figures = self._figures, EngineFigures()
        return figures.metrics()

    async def close(self) -> None:
        """Stop reading the streams and shut the engines down."""
        await self.members.close()
        tasks = [task for engine in self._engines for task in (engine.reader, engine.sender) if task is not None]
        tasks += [self._looking] if self._looking is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        engines = self.members.started
        calls = [member.handle.shutdown.remote() for member in engines]
        if calls:
            await first_cause(calls, [f"{member.name}: shutdown" for member in engines], self._timeout_s)

    async def _of_each(self, ask: Any) -> dict[str, Any]:
        """The answers of the engines that are up, by name, without those that are lost meanwhile; at least one."""
        while True:
            engines = await self.members.some_up()
            handles = [member.handle for member in engines]
            answers = await asyncio.gather(*(ask(member) for member in engines), return_exceptions=True)
            found = {}
            for member, handle, answer in zip(engines, handles, answers, strict=True):
                if isinstance(answer, (ActorDied, ActorSilent)):
                    self.members.lost(member, handle, answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    found[member.name] = answer
            if found:
                return found

    async def _ask_all(self, member: Member, requests: Sequence[SampleRequest]) -> list[Rollout]:
        references = await asyncio.gather(*(self._ask(request, member) for request in requests))
        return await first_cause(references, [f"{member.name}: probe"] * len(requests), self._timeout_s)

    async def _ask(self, request: SampleRequest, only: Member | None = None) -> Awaitable[Rollout]:
        """Queue a request for an engine and wait until its rollout, or an error, is there."""
        if self.members.failure is not None:
            raise self.members.failure
        asked = _Asked(request, asyncio.get_running_loop().create_future(), only)
        self._place(asked)
        try:
            return await asked.answer
        finally:
            if not asked.answer.cancel() and not asked.answer.cancelled():
                asked.answer.exception()  # marks it as retrieved, in case this wait was cancelled when the error came

    def _place(self, asked: _Asked) -> None:
        """Give a request to an engine that is up."""
        index = self._loads.index(min(self._loads)) if asked.only is None else asked.only.index
        engine = self._engines[index]
        if not engine.member.up and asked.only is not None:
            asked.answer.set_exception(ActorDied(f"{asked.only.name} is being replaced", [asked.only.name]))
            return
        if not engine.member.up:
            self._unplaced.append(asked)
            self.members.need()
            return
        key, asked.since = str(next(self._keys)), time.monotonic()
        if not engine.unanswered:
            engine.progress = asked.since
        engine.unanswered[key] = asked
        engine.queued.append(key)
        self._loads[index] += asked.request.count
        asked.answer.add_done_callback(lambda answer: self._answered(engine, key))
        if engine.reader is None:
            engine.reader = self._task(engine, self._read(engine))
        if engine.sender is None or engine.sender.done():
            engine.sender = self._task(engine, self._send(engine))
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())

    def _answered(self, engine: _Engine, key: str) -> None:
        """The request has an answer or an error, or nobody waits for it any more."""
        if (asked := engine.unanswered.pop(key, None)) is not None:
            self._loads[engine.member.index] -= asked.request.count

    def _task(self, engine: _Engine, work: Any) -> asyncio.Task[None]:
        """A task that deals with an engine, whose error is the engine's."""

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled() or (error := task.exception()) is None:
                return
            name = engine.member.name
            if not isinstance(error, RayprefError):  # a CUDA error, a worker of vLLM that died: the engine answers nothing any more
                broken = ActorDied(f"{name} failed: {type(error).__name__}: {str(error).strip()}", [name])
                broken.__cause__ = error
                error = broken
            if isinstance(error, (ActorDied, ActorSilent)):
                self.members.lost(engine.member, engine.handle, error)
            else:
                self._fail(error)

        task: asyncio.Task[None] = asyncio.ensure_future(work)
        task.add_done_callback(ended)
        return task

    async def _send(self, engine: _Engine) -> None:
        """Send the queued requests until there are none; those that were queued during a call go together with the next one."""
        while engine.queued:
            keys, engine.queued = engine.queued, []
            requests = [(key, engine.unanswered[key].request) for key in keys if key in engine.unanswered]
            limit_s = self._supervisor.times.limit("rollout: submit")
            began = time.monotonic()
            (refused,) = await first_cause([engine.handle.submit.remote(requests)], [f"{engine.member.name}: submit"], limit_s)
            self._supervisor.times.add("rollout: submit", time.monotonic() - began)
            for key, error in refused.items():
                if (asked := engine.unanswered.get(key)) is not None and not asked.answer.done():
                    asked.answer.set_exception(error)

    async def _read(self, engine: _Engine) -> None:
        """Pass the rollouts of the engine's stream on to their callers, unfetched."""
        async for key, reference, header in read(engine.member.name, engine.handle, self._timeout_s):
            engine.progress = time.monotonic()
            if header is not None:
                self.sampled_tokens += header.tokens
                self._figures.add(header.figures)
            if (asked := engine.unanswered.get(key)) is not None and not asked.answer.done():
                self._supervisor.times.add(asked.kind, engine.progress - asked.since)
                asked.answer.set_result(reference)

    async def _look(self) -> None:
        """Find engines that have work and finish nothing for longer than a request takes."""
        times = self._supervisor.times
        while True:
            await asyncio.sleep(min(_LOOK_S, times.floor_s / 4))
            for engine in self._engines:
                if not engine.unanswered or not engine.member.up:
                    continue
                limit_s = max(times.limit(kind) for kind in {asked.kind for asked in engine.unanswered.values()})
                if time.monotonic() - engine.progress > limit_s:
                    name, waiting = engine.member.name, len(engine.unanswered)
                    silent = f"{name}: no group finished within {limit_s:g} s; {waiting} requests are unanswered"
                    self.members.lost(engine.member, engine.handle, ActorSilent(silent, [name]))

    def _down(self, member: Member, error: ActorFailed) -> None:
        """Give the requests of a lost engine to others."""
        engine = self._engines[member.index]
        engine.stop()
        self._loads[member.index] = float("inf")
        unanswered, engine.unanswered = list(engine.unanswered.values()), {}
        for asked in unanswered:
            if asked.answer.done():
                continue
            if asked.only is not None:
                asked.answer.set_exception(error)
            else:
                self._place(asked)

    def _up(self, member: Member) -> None:
        """Ask a replacement what no engine could be asked."""
        self._engines[member.index] = _Engine(member, member.handle)
        self._loads[member.index] = 0.0
        unplaced, self._unplaced = self._unplaced, []
        for asked in unplaced:
            if not asked.answer.done():
                self._place(asked)

    def _fail(self, error: BaseException) -> None:
        """Raise an error in every caller, present and future, of any engine."""
        self.members.failure = error
        waiting = [asked for engine in self._engines for asked in engine.unanswered.values()] + self._unplaced
        for asked in waiting:
            if not asked.answer.done():
                asked.answer.set_exception(error)
