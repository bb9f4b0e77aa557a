"""The driver's side of the rollout actors: the least busy engine samples, and every answer finds who waits for it.

Requests that are made at the same time, or while an engine takes earlier ones, reach it in one call, so that it begins with all of them
and neither side pays for a call a prompt.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.cluster.calls import first_cause
from raypref.roles import Checksums
from raypref.types import Rollout, RolloutRef, SampleRequest

_BACKPRESSURE_ITEMS = 64
"""Stream items that an engine may be ahead of the driver before it pauses."""


@dataclass(slots=True)
class _Lane:
    """The driver's view of one engine."""

    name: str
    handle: Any
    index: int
    outbox: list[tuple[str, SampleRequest]] = field(default_factory=list)
    """Requests that go to the engine with its next call."""
    pending: dict[str, asyncio.Future[Awaitable[Rollout]]] = field(default_factory=dict)
    finished: int = 0
    """Groups so far: how a wait sees that the engine lives."""
    reader: asyncio.Task[None] | None = None
    sender: asyncio.Task[None] | None = None

    def fail(self, reasons: Mapping[str, BaseException]) -> None:
        """Tell those who still wait for the requests why there is no answer, by their keys."""
        for key, error in reasons.items():
            if (answer := self.pending.get(key)) is not None and not answer.done():
                answer.set_exception(error)


class RolloutGroup:
    """``raypref.roles.RolloutRole`` over several engines; belongs to the event loop that first uses it."""

    def __init__(self, engines: Sequence[tuple[str, Any]], timeout_s: float) -> None:
        """
        Args:
            engines: name and handle of each ``RolloutActor``.
            timeout_s: longest time without any group finishing on an engine that has work, and longest wait for any other answer.
        """
        self._lanes = [_Lane(name, handle, index) for index, (name, handle) in enumerate(engines)]
        self._loads = [0] * len(self._lanes)
        """Responses that each lane was asked for and has not answered. A list of numbers: the least of 512 is found in microseconds."""
        self._timeout_s = timeout_s
        self._keys = itertools.count()
        self._failure: BaseException | None = None
        self.sampled_tokens = 0
        """Response tokens of all groups so far."""

    async def sample(self, request: SampleRequest) -> RolloutRef:
        return await self._request(self._lanes[self._loads.index(min(self._loads))], request)

    async def probe(self, requests: Sequence[SampleRequest]) -> Mapping[str, Sequence[Rollout]]:
        answers = await asyncio.gather(*(self._all_on(lane, requests) for lane in self._lanes))
        return {lane.name: rollouts for lane, rollouts in zip(self._lanes, answers, strict=True)}

    async def weight_checksums(self) -> Mapping[str, Checksums]:
        """By engine; by ``engine/tp0``, ``engine/tp1`` ... where an engine has several workers."""
        calls = [lane.handle.weight_checksums.remote() for lane in self._lanes]
        answers = await first_cause(calls, [f"{lane.name}: weight_checksums" for lane in self._lanes], self._timeout_s)
        pairs = zip(self._lanes, answers, strict=True)
        return {f"{lane.name}/{worker}" if worker else lane.name: sums for lane, own in pairs for worker, sums in own.items()}

    async def close(self) -> None:
        """Stop the streams and shut the engines down."""
        tasks = [task for lane in self._lanes for task in (lane.reader, lane.sender) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        calls = [lane.handle.shutdown.remote() for lane in self._lanes]
        await first_cause(calls, [f"{lane.name}: shutdown" for lane in self._lanes], self._timeout_s)

    async def _all_on(self, lane: _Lane, requests: Sequence[SampleRequest]) -> list[Rollout]:
        references = await asyncio.gather(*(self._request(lane, request) for request in requests))
        return await first_cause(references, [f"{lane.name}: probe"] * len(requests), self._timeout_s)

    async def _request(self, lane: _Lane, request: SampleRequest) -> Awaitable[Rollout]:
        if self._failure is not None:
            raise self._failure
        if lane.reader is None:
            lane.reader = asyncio.ensure_future(self._read(lane))
            lane.reader.add_done_callback(self._ended)
        key = str(next(self._keys))
        answer = lane.pending[key] = asyncio.get_running_loop().create_future()
        lane.outbox.append((key, request))
        if lane.sender is None or lane.sender.done():
            lane.sender = asyncio.ensure_future(self._send(lane))
        self._loads[lane.index] += request.count
        try:
            return await self._answer(lane, answer)
        finally:
            del lane.pending[key]
            self._loads[lane.index] -= request.count
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # taken note of, should the wait have been cancelled when it came

    async def _send(self, lane: _Lane) -> None:
        """Empty the outbox: what was put there at the same time, or during a call, goes with one call."""
        while lane.outbox:
            requests, lane.outbox = [(key, request) for key, request in lane.outbox if key in lane.pending], []
            try:
                (refused,) = await first_cause([lane.handle.submit.remote(requests)], [f"{lane.name}: submit"], self._timeout_s)
            except Exception as error:  # noqa: BLE001  whatever it is, those who wait are told
                refused = {key: error for key, _ in requests}
            lane.fail(refused)

    async def _answer(self, lane: _Lane, answer: asyncio.Future[Awaitable[Rollout]]) -> Awaitable[Rollout]:
        while not answer.done():
            before = lane.finished
            await asyncio.wait([answer], timeout=self._timeout_s)
            if not answer.done() and lane.finished == before:
                raise TimeoutError(f"{lane.name}: no group finished within {self._timeout_s:g} s, {len(lane.pending)} are waited for")
        return answer.result()

    async def _read(self, lane: _Lane) -> None:
        method = lane.handle.stream.options(num_returns="streaming", _generator_backpressure_num_objects=_BACKPRESSURE_ITEMS)
        items = method.remote()
        announced: collections.deque[str] = collections.deque()
        item: Any = None
        async for item in items:
            if announced:
                lane.finished += 1
                if (answer := lane.pending.get(announced.popleft())) is not None and not answer.done():
                    answer.set_result(item)
            else:
                (finished,) = await first_cause([item], [f"{lane.name}: stream"], self._timeout_s)
                self.sampled_tokens += finished.tokens
                announced.extend(finished.keys)
        if item is not None:  # what ended the stream, if it came in a rollout's place
            await first_cause([item], [f"{lane.name}: stream"], self._timeout_s)
        raise RuntimeError(f"{lane.name}: the stream ended")

    def _ended(self, reader: asyncio.Task[None]) -> None:
        """A stream is gone: what ended the first one is what everybody who waits, or comes later, is told."""
        if reader.cancelled():
            return
        error = reader.exception()
        if self._failure is None:
            self._failure = error
        if self._failure is not None:
            for lane in self._lanes:
                lane.fail(dict.fromkeys(lane.pending, self._failure))
