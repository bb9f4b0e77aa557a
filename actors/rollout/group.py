"""The driver's side of the rollout actors: routes each request to the least busy engine and each rollout to its caller.

Requests that are made at the same time, or while an earlier call to the same engine is under way, reach the engine in one call. So it
starts on all of them together, and neither side pays for a call per prompt.
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
class _Engine:
    """What the driver knows of one engine."""

    name: str
    handle: Any
    index: int
    queued: list[tuple[str, SampleRequest]] = field(default_factory=list)
    """Requests that the next call takes along."""
    unanswered: dict[str, asyncio.Future[Awaitable[Rollout]]] = field(default_factory=dict)
    """Key of a request -> where its caller waits."""
    finished: int = 0
    """Groups so far: as long as it grows, the engine is alive."""
    reader: asyncio.Task[None] | None = None
    sender: asyncio.Task[None] | None = None

    def fail(self, reasons: Mapping[str, BaseException]) -> None:
        """Raise an error in the callers of some requests.

        Args:
            reasons: key of the request -> the error.
        """
        for key, error in reasons.items():
            if (answer := self.unanswered.get(key)) is not None and not answer.done():
                answer.set_exception(error)


class RolloutGroup:
    """``raypref.roles.RolloutRole`` over several engines; to be used from one event loop."""

    def __init__(self, engines: Sequence[tuple[str, Any]], timeout_s: float) -> None:
        """
        Args:
            engines: name and handle of each ``RolloutActor``.
            timeout_s: longest time without a finished group on an engine that has work, and longest wait for any other call, in seconds.
        """
        self._engines = [_Engine(name, handle, index) for index, (name, handle) in enumerate(engines)]
        self._loads = [0] * len(self._engines)
        """Responses that each engine was asked for and has not given. A list of numbers: finding the least of 512 takes microseconds."""
        self._timeout_s = timeout_s
        self._keys = itertools.count()
        self._failure: BaseException | None = None
        self.sampled_tokens = 0
        """Response tokens of all groups so far."""

    async def sample(self, request: SampleRequest) -> RolloutRef:
        return await self._ask(self._engines[self._loads.index(min(self._loads))], request)

    async def probe(self, requests: Sequence[SampleRequest]) -> Mapping[str, Sequence[Rollout]]:
        answers = await asyncio.gather(*(self._ask_all(engine, requests) for engine in self._engines))
        return {engine.name: rollouts for engine, rollouts in zip(self._engines, answers, strict=True)}

    async def weight_checksums(self) -> Mapping[str, Checksums]:
        """By engine; by ``engine/tp0``, ``engine/tp1`` ... where an engine has several workers."""
        calls = [engine.handle.weight_checksums.remote() for engine in self._engines]
        answers = await first_cause(calls, [f"{engine.name}: weight_checksums" for engine in self._engines], self._timeout_s)
        return {
            f"{engine.name}/{worker}" if worker else engine.name: checksums
            for engine, workers in zip(self._engines, answers, strict=True)
            for worker, checksums in workers.items()
        }

    async def close(self) -> None:
        """Stop reading the streams and shut the engines down."""
        tasks = [task for engine in self._engines for task in (engine.reader, engine.sender) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        calls = [engine.handle.shutdown.remote() for engine in self._engines]
        await first_cause(calls, [f"{engine.name}: shutdown" for engine in self._engines], self._timeout_s)

    async def _ask_all(self, engine: _Engine, requests: Sequence[SampleRequest]) -> list[Rollout]:
        references = await asyncio.gather(*(self._ask(engine, request) for request in requests))
        return await first_cause(references, [f"{engine.name}: probe"] * len(requests), self._timeout_s)

    async def _ask(self, engine: _Engine, request: SampleRequest) -> Awaitable[Rollout]:
        """Queue a request for an engine and wait until its rollout, or an error, is there."""
        if self._failure is not None:
            raise self._failure
        if engine.reader is None:
            engine.reader = asyncio.ensure_future(self._read(engine))
            engine.reader.add_done_callback(self._stream_ended)
        key = str(next(self._keys))
        answer = engine.unanswered[key] = asyncio.get_running_loop().create_future()
        engine.queued.append((key, request))
        if engine.sender is None or engine.sender.done():
            engine.sender = asyncio.ensure_future(self._send(engine))
        self._loads[engine.index] += request.count
        try:
            return await self._wait_for(engine, answer)
        finally:
            del engine.unanswered[key]
            self._loads[engine.index] -= request.count
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # marks it as retrieved, in case this wait was cancelled when the error came

    async def _send(self, engine: _Engine) -> None:
        """Send the queued requests until there are none; those that were queued during a call go together with the next one."""
        while engine.queued:
            requests, engine.queued = [(key, request) for key, request in engine.queued if key in engine.unanswered], []
            try:
                (refused,) = await first_cause([engine.handle.submit.remote(requests)], [f"{engine.name}: submit"], self._timeout_s)
            except Exception as error:  # noqa: BLE001  passed on to every caller
                refused = {key: error for key, _ in requests}
            engine.fail(refused)

    async def _wait_for(self, engine: _Engine, answer: asyncio.Future[Awaitable[Rollout]]) -> Awaitable[Rollout]:
        while not answer.done():
            before = engine.finished
            await asyncio.wait([answer], timeout=self._timeout_s)
            if not answer.done() and engine.finished == before:
                waiting = len(engine.unanswered)
                raise TimeoutError(f"{engine.name}: no group finished within {self._timeout_s:g} s; {waiting} requests are unanswered")
        return answer.result()

    async def _read(self, engine: _Engine) -> None:
        """Read the engine's stream: a header with keys, then one rollout per key, whose reference goes to the caller unfetched."""
        method = engine.handle.stream.options(num_returns="streaming", _generator_backpressure_num_objects=_BACKPRESSURE_ITEMS)
        items = method.remote()
        announced: collections.deque[str] = collections.deque()
        item: Any = None
        async for item in items:
            if announced:
                engine.finished += 1
                if (answer := engine.unanswered.get(announced.popleft())) is not None and not answer.done():
                    answer.set_result(item)
            else:
                (header,) = await first_cause([item], [f"{engine.name}: stream"], self._timeout_s)
                self.sampled_tokens += header.tokens
                announced.extend(header.keys)
        if item is not None:  # raises the error that ended the stream, if it came instead of a rollout
            await first_cause([item], [f"{engine.name}: stream"], self._timeout_s)
        raise RuntimeError(f"{engine.name}: the stream ended")

    def _stream_ended(self, reader: asyncio.Task[None]) -> None:
        """Raise the error that ended the first stream in every caller, present and future, of any engine."""
        if reader.cancelled():
            return
        error = reader.exception()
        if self._failure is None:
            self._failure = error
        if self._failure is not None:
            for engine in self._engines:
                engine.fail(dict.fromkeys(engine.unanswered, self._failure))
