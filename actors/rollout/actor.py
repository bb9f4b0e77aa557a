"""Rollout actors: vLLM engines that stream finished groups. ``actors.rollout.group`` is the driver's side of them.

Requests go to an engine (``submit``) and come back through its stream: a small header that the driver reads, and the rollouts that it
announces, which the driver passes on as references without fetching them.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.rollout.engine import Engine
from raypref.errors import RayprefError, SyncError
from raypref.roles import Audience
from raypref.sections import PolicyConfig, RolloutConfig
from raypref.types import Rollout, SampleRequest

logger = logging.getLogger(__name__)

_STREAM_END_S = 30.0
"""How long a shutdown waits for the step that is under way."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The header of the groups that a step finished; the next items of the stream are their rollouts, in this order."""

    keys: tuple[str, ...]
    tokens: int
    """Response tokens of all of them."""


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
        """See ``actors.rollout.engine.Engine``; needs ``engine_env``. With ``own_weights`` version 0 is held from the start."""
        options: dict[str, Any] = {"device": device, "transport": transport, "seed": seed, "own_weights": own_weights, "sleeps": sleeps}
        self._engine = Engine(policy, rollout, tensor_parallel=tensor_parallel, **options)
        self._inbox: queue.SimpleQueue[Sequence[tuple[str, SampleRequest]]] = queue.SimpleQueue()
        self._state = threading.Lock()
        """Guards the four that follow."""
        self._unanswered = 0
        self._version: int | None = 0 if own_weights else None
        self._asleep = False
        self._failure: Exception | None = None
        self._streaming = threading.Lock()
        self._closing = threading.Event()

    def submit(self, requests: Sequence[tuple[str, SampleRequest]]) -> dict[str, RayprefError]:
        """Queue requests, each under a key of its own, under which its group appears in the stream.

        Returns:
            Key -> why the request was refused; the others are queued. SyncError: the engine does not hold the policy that the request
            names, sleeps, or broke in a weight update. DataError: the prompt leaves no room for an answer.
        """
        refused: dict[str, RayprefError] = {}
        for key, request in requests:
            try:
                self._accept(request)
            except RayprefError as error:
                refused[key] = error
        self._inbox.put([(key, request) for key, request in requests if key not in refused])
        return refused

    def stream(self) -> Iterator[Finished | Rollout]:
        """After each step that finished groups, a header and their rollouts, until ``shutdown``. There is one stream at a time."""
        if not self._streaming.acquire(blocking=False):
            raise RuntimeError("the engine has a stream already")
        try:
            while self._admit():
                if finished := self._engine.step():
                    with self._state:
                        self._unanswered -= len(finished)
                    keys, rollouts = zip(*finished, strict=True)
                    yield Finished(keys, sum(len(response.token_ids) for rollout in rollouts for response in rollout.responses))
                    for rollout in rollouts:  # noqa: UP028  Ray sends into the generator
                        yield rollout
        finally:
            self._streaming.release()

    def init_weight_transfer_engine(self, request: Any) -> None:
        self._engine.init_weight_transfer_engine(request)

    def start_weight_update(self, complete: bool = True, audience: Audience = "all") -> None:
        """Begin a weight update; from here to ``update_weight_version`` requests are refused.

        Args:
            complete: whether every weight comes, or some, and the others stay.
            audience: makes no difference here: engines keep the weights of every update.

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

    def weight_checksums(self) -> dict[str, Mapping[str, int]]:
        """Worker -> parameter name -> checksum of each tensor as that worker last received it."""
        return self._engine.weight_checksums()

    def shutdown(self) -> None:
        """End the stream after the step that is under way, then the engine and its worker processes."""
        self._closing.set()
        self._inbox.put(())
        if not self._streaming.acquire(timeout=_STREAM_END_S):
            logger.warning("the stream did not end within %g s; the engine's worker processes are left to be killed", _STREAM_END_S)
            return
        self._engine.shutdown()

    def _accept(self, request: SampleRequest) -> None:
        """Count a request among the unanswered ones, or refuse it."""
        self._engine.check(request)
        with self._state:
            self._check_usable()
            if self._asleep:
                raise SyncError(f"prompt {request.prompt.id!r} for an engine that sleeps: it samples between a sync and the next step")
            if request.policy_version != self._version:
                held = "none yet, or one that is being replaced" if self._version is None else f"version {self._version}"
                raise SyncError(f"prompt {request.prompt.id!r} is for policy version {request.policy_version}; the engine holds {held}")
            self._unanswered += 1

    def _admit(self) -> bool:
        """Hand queued requests to the engine, waiting for some when it is idle; False when there will be none."""
        if not self._engine.unfinished and not self._closing.is_set():
            self._add(self._inbox.get())
        with contextlib.suppress(queue.Empty):
            while not self._closing.is_set():
                self._add(self._inbox.get_nowait())
        return not self._closing.is_set()

    def _add(self, requests: Sequence[tuple[str, SampleRequest]]) -> None:
        for key, request in requests:
            self._engine.add(key, request)

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
