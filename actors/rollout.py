"""Rollout actors: vLLM engines that stream finished groups, and the driver's side of them.

A request goes to the least busy engine (``submit``) and comes back through that engine's stream, in two items: a small header that the
driver reads, and the rollout, which the driver passes on as a reference without fetching it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.calls import first_cause
from actors.engine import Engine
from raypref.config import PolicyConfig, RolloutConfig
from raypref.errors import SyncError
from raypref.roles import Checksums, Ref
from raypref.types import Rollout, SampleRequest

logger = logging.getLogger(__name__)

_BACKPRESSURE_ITEMS = 64
"""Stream items that an engine may be ahead of the driver before it pauses."""
_STREAM_END_S = 30.0
"""How long a shutdown waits for the step that is under way."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The header of a group in the stream; the next item is its ``Rollout``."""

    key: str
    tokens: int
    """Response tokens of the group."""


class RolloutActor:
    """An engine behind an inbox. Needs ``max_concurrency`` of at least 4: the stream takes one thread for as long as it lasts.

    Requests and weight updates exclude each other: a request is refused unless the engine holds its version of the policy, and an update is
    refused while requests are unanswered. So the stream's thread and an updating one never use the engine together.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        rollout: RolloutConfig,
        tensor_parallel: int = 1,
        device: str = "cpu",
        transport: str = "shm",
        seed: int = 0,
        own_weights: bool = False,
        sleeps: bool = False,
    ) -> None:
        """See ``actors.engine.Engine``; needs ``engine_env``. With ``own_weights`` version 0 is held from the start."""
        options: dict[str, Any] = {"device": device, "transport": transport, "seed": seed, "own_weights": own_weights, "sleeps": sleeps}
        self._engine = Engine(policy, rollout, tensor_parallel=tensor_parallel, **options)
        self._inbox: queue.SimpleQueue[tuple[str, SampleRequest] | None] = queue.SimpleQueue()
        self._state = threading.Lock()
        """Guards the four that follow."""
        self._unanswered = 0
        self._version: int | None = 0 if own_weights else None
        self._asleep = False
        self._failure: Exception | None = None
        self._streaming = threading.Lock()
        self._closing = threading.Event()

    def submit(self, key: str, request: SampleRequest) -> None:
        """Queue a request; its group appears in the stream under ``key``.

        Raises:
            SyncError: the engine does not hold the policy that the request names, or a weight update went wrong.
            DataError: the prompt leaves no room for an answer.
        """
        self._engine.check(request)
        with self._state:
            self._check_usable()
            if self._asleep:
                raise SyncError(f"prompt {request.prompt.id!r} for an engine that sleeps: it samples between a sync and the next step")
            if request.policy_version != self._version:
                held = "none yet, or one that is being replaced" if self._version is None else f"version {self._version}"
                raise SyncError(f"prompt {request.prompt.id!r} is for policy version {request.policy_version}; the engine holds {held}")
            self._unanswered += 1
        self._inbox.put((key, request))

    def stream(self) -> Iterator[Finished | Rollout]:
        """Header and rollout of each group as it finishes, until ``shutdown``. There is one stream at a time."""
        if not self._streaming.acquire(blocking=False):
            raise RuntimeError("the engine has a stream already")
        try:
            while self._admit():
                for key, rollout in self._engine.step():
                    with self._state:
                        self._unanswered -= 1
                    yield Finished(key, sum(len(response.token_ids) for response in rollout.responses))
                    yield rollout
        finally:
            self._streaming.release()

    def init_weight_transfer_engine(self, request: Any) -> None:
        self._engine.init_weight_transfer_engine(request)

    def start_weight_update(self, version: int = 0, complete: bool = True) -> None:
        """Begin a weight update; from here to ``update_weight_version`` requests are refused. An engine takes every ``version``.

        Args:
            complete: whether every weight comes, or some, and the others stay.

        Raises:
            SyncError: requests are unanswered, or an earlier update went wrong.
        """
        with self._state:
            self._check_idle("weights may change")
            self._version = None
        with self._fatal():
            self._engine.start_weight_update(complete)

    def update_weights(self, request: Any) -> None:
        with self._fatal():
            self._engine.update_weights(request)

    def finish_weight_update(self) -> None:
        with self._fatal():
            self._engine.finish_weight_update()

    def update_weight_version(self, new_version: str) -> None:
        """Name the weights that have arrived; requests for them are welcome."""
        with self._state:
            self._version = int(new_version)

    def sleep(self, level: int) -> None:
        """Give the GPU's memory back; requests are refused until all of it is taken again.

        Args:
            level: 1 keeps the weights in host memory, 2 forgets them: a weight update must come before ``kv_cache`` wakes.

        Raises:
            SyncError: requests are unanswered, or a weight update went wrong.
        """
        with self._state:
            self._check_idle("an engine may sleep")
            self._asleep = True
            if level > 1:
                self._version = None
        with self._fatal():
            self._engine.sleep(level)

    def wake_up(self, tags: list[str]) -> None:
        """Take memory again: ``weights``, then ``kv_cache``."""
        with self._fatal():
            awake = self._engine.wake_up(tags)
        with self._state:
            self._asleep = not awake

    def received(self) -> dict[str, Mapping[str, int]]:
        """Worker -> parameter name -> checksum of each tensor as that worker last received it."""
        return self._engine.received()

    def shutdown(self) -> None:
        """End the stream after the step that is under way, then the engine and its worker processes."""
        self._closing.set()
        self._inbox.put(None)
        if not self._streaming.acquire(timeout=_STREAM_END_S):
            logger.warning("the stream did not end within %g s; the engine's worker processes are left to be killed", _STREAM_END_S)
            return
        self._engine.shutdown()

    def _admit(self) -> bool:
        """Hand queued requests to the engine, waiting for one when it is idle; False when there will be none."""
        if not self._engine.unfinished and not self._closing.is_set():
            self._add(self._inbox.get())
        with contextlib.suppress(queue.Empty):
            while not self._closing.is_set():
                self._add(self._inbox.get_nowait())
        return not self._closing.is_set()

    def _add(self, item: tuple[str, SampleRequest] | None) -> None:
        if item is not None:
            self._engine.add(*item)

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise SyncError(f"the engine is unusable since a weight update or a sleep failed: {self._failure}") from self._failure

    def _check_idle(self, what: str) -> None:
        self._check_usable()
        if self._unanswered:
            raise SyncError(f"sync: {self._unanswered} requests are unanswered; {what} only between iterations")

    @contextlib.contextmanager
    def _fatal(self) -> Iterator[None]:
        """vLLM's weights are half old, half new after an update that raised, or half there after a sleep: remember it."""
        try:
            yield
        except Exception as error:
            with self._state:
                self._failure = error
            raise


@dataclass(slots=True)
class _Lane:
    """The driver's view of one engine."""

    name: str
    handle: Any
    pending: dict[str, asyncio.Future[Ref]] = field(default_factory=dict)
    load: int = 0
    """Responses asked for and not answered."""
    finished: int = 0
    """Groups so far: how a wait sees that the engine lives."""
    reader: asyncio.Task[None] | None = None


class RolloutGroup:
    """``raypref.roles.RolloutRole`` over several engines; belongs to the event loop that first uses it."""

    def __init__(self, engines: Sequence[tuple[str, Any]], timeout_s: float) -> None:
        """
        Args:
            engines: name and handle of each ``RolloutActor``.
            timeout_s: longest time without any group finishing on an engine that has work, and longest wait for any other answer.
        """
        self._lanes = [_Lane(name, handle) for name, handle in engines]
        self._timeout_s = timeout_s
        self._keys = itertools.count()
        self._failure: BaseException | None = None
        self.sampled_tokens = 0
        """Response tokens of all groups so far."""

    async def sample(self, request: SampleRequest) -> Ref:
        return await self._request(min(self._lanes, key=lambda lane: lane.load), request)

    async def probe(self, requests: Sequence[SampleRequest]) -> Mapping[str, Sequence[Rollout]]:
        answers = await asyncio.gather(*(self._all_on(lane, requests) for lane in self._lanes))
        return {lane.name: rollouts for lane, rollouts in zip(self._lanes, answers, strict=True)}

    async def received(self) -> Mapping[str, Checksums]:
        """By engine; by ``engine/tp0``, ``engine/tp1`` ... where an engine has several workers."""
        calls = [lane.handle.received.remote() for lane in self._lanes]
        answers = await first_cause(calls, [f"{lane.name}: received" for lane in self._lanes], self._timeout_s)
        pairs = zip(self._lanes, answers, strict=True)
        return {f"{lane.name}/{worker}" if worker else lane.name: sums for lane, own in pairs for worker, sums in own.items()}

    async def close(self) -> None:
        """Stop reading the streams and shut the engines down."""
        readers = [lane.reader for lane in self._lanes if lane.reader is not None]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        calls = [lane.handle.shutdown.remote() for lane in self._lanes]
        await first_cause(calls, [f"{lane.name}: shutdown" for lane in self._lanes], self._timeout_s)

    async def _all_on(self, lane: _Lane, requests: Sequence[SampleRequest]) -> list[Rollout]:
        references = await asyncio.gather(*(self._request(lane, request) for request in requests))
        return await first_cause(references, [f"{lane.name}: probe"] * len(requests), self._timeout_s)

    async def _request(self, lane: _Lane, request: SampleRequest) -> Ref:
        if self._failure is not None:
            raise self._failure
        if lane.reader is None:
            lane.reader = asyncio.ensure_future(self._read(lane))
            lane.reader.add_done_callback(self._ended)
        key = str(next(self._keys))
        answer = lane.pending[key] = asyncio.get_running_loop().create_future()
        lane.load += request.count
        try:
            await first_cause([lane.handle.submit.remote(key, request)], [f"{lane.name}: submit"], self._timeout_s)
            return await self._answer(lane, answer)
        finally:
            del lane.pending[key]
            lane.load -= request.count
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # taken note of, should ``submit`` have failed of the same cause first

    async def _answer(self, lane: _Lane, answer: asyncio.Future[Ref]) -> Ref:
        while not answer.done():
            before = lane.finished
            await asyncio.wait([answer], timeout=self._timeout_s)
            if not answer.done() and lane.finished == before:
                raise TimeoutError(f"{lane.name}: no group finished within {self._timeout_s:g} s, {len(lane.pending)} are waited for")
        return answer.result()

    async def _read(self, lane: _Lane) -> None:
        method = lane.handle.stream.options(num_returns="streaming", _generator_backpressure_num_objects=_BACKPRESSURE_ITEMS)
        items = method.remote()
        async for header in items:
            (finished,) = await first_cause([header], [f"{lane.name}: stream"], self._timeout_s)
            rollout = await anext(items)
            lane.finished += 1
            self.sampled_tokens += finished.tokens
            if (answer := lane.pending.get(finished.key)) is not None and not answer.done():
                answer.set_result(rollout)
        raise RuntimeError(f"{lane.name}: the stream ended")

    def _ended(self, reader: asyncio.Task[None]) -> None:
        """A stream is gone: what ended the first one is what everybody who waits, or comes later, is told."""
        if reader.cancelled():
            return
        error = reader.exception()
        if self._failure is None:
            self._failure = error
        for lane in self._lanes:
            for answer in lane.pending.values():
                if not answer.done() and self._failure is not None:
                    answer.set_exception(self._failure)
