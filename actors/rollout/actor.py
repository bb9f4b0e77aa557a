"""The rollout actor: a vLLM engine that accepts requests and streams finished rollouts to the driver (``actors.rollout.group``).

Requests come in by ``submit``. Their rollouts go out through ``stream``: a small header that the driver reads, then the rollouts that it
announces, which the driver passes on as references without fetching them.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.rollout.engine import Engine
from actors.rollout.engine_stats import EngineFigures
from actors.rollout.engine_thread import EngineThread
from raypref.errors import DataError, RayprefError, SyncError
from raypref.roles import Audience
from raypref.sections import PolicyConfig, RolloutConfig
from raypref.types import Rollout, SampleRequest

logger = logging.getLogger(__name__)

_STREAM_END_S = 30.0
"""How long a shutdown waits for the engine's current step, in seconds."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Header: the groups that one step of the engine finished. The next items of the stream are their rollouts, in this order."""

    keys: tuple[str, ...]
    tokens: int
    """Response tokens of all these groups."""
    figures: EngineFigures = field(default_factory=EngineFigures)
    """vLLM's own, of the engine's steps since the header before."""


class RolloutActor:
    """An engine with a queue of requests. Needs ``max_concurrency`` of at least 4: the stream occupies one thread as long as it lasts.

    Requests and weight updates exclude each other: a request is refused unless the engine holds the version that it names, and an update
    is refused while requests are unanswered. All that touches the engine runs on one thread of its own.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        rollout: RolloutConfig,
        tensor_parallel: int = 1,
        device: str = "cpu",
        transport: str = "shm",
        seed: int = 0,
        load_weights: bool = False,
        sleeps: bool = False,
    ) -> None:
        """See ``actors.rollout.engine.Engine``; the process needs ``engine_env``. With ``load_weights`` it starts with version 0."""
        options: dict[str, Any] = {"device": device, "transport": transport, "seed": seed, "load_weights": load_weights, "sleeps": sleeps}
        self._on_engine = EngineThread("engine")
        self._engine = self._on_engine(Engine, policy, rollout, tensor_parallel=tensor_parallel, **options)
        self._queue: queue.SimpleQueue[Sequence[tuple[str, SampleRequest]]] = queue.SimpleQueue()
        self._state = threading.Lock()
        """Guards the next five attributes."""
        self._unanswered = 0
        self._version: int | None = 0 if load_weights else None
        self._asleep = False
        self._broken: Exception | None = None
        """Why the last weight update failed: weights are partly old, partly new, until an update of all of them."""
        self._failure: Exception | None = None
        """Why a sleep failed: memory is partly missing."""
        self._streaming = threading.Lock()
        self._closing = threading.Event()

    def submit(self, requests: Sequence[tuple[str, SampleRequest]]) -> dict[str, RayprefError]:
        """Queue requests. Each comes with a unique key, which the stream gives back with its rollout.

        Returns:
            key -> why this request was refused; the others are queued. SyncError: the engine does not hold the version that the request
            names, sleeps, or failed in a weight update. DataError: the prompt leaves no room for a response.
        """
        refused: dict[str, RayprefError] = {}
        for key, request in requests:
            try:
                self._accept(request)
            except RayprefError as error:
                refused[key] = error
        self._queue.put([(key, request) for key, request in requests if key not in refused])
        return refused

    def stream(self) -> Iterator[Finished | Rollout | None]:
        """Yield, after each step that finished groups, a header, their rollouts and None; ends with ``shutdown``. One stream at a time.

        The None shows that the item before it is a rollout, and not what ended the stream: the driver does not look into the rollouts.
        """
        if not self._streaming.acquire(blocking=False):
            raise RuntimeError("the engine has a stream already")
        try:
            while self._admit():
                if finished := self._on_engine(self._engine.step):
                    with self._state:
                        self._unanswered -= len(finished)
                    keys, rollouts = zip(*finished, strict=True)
                    tokens = sum(len(response.token_ids) for rollout in rollouts for response in rollout.responses)
                    yield Finished(keys, tokens, self._on_engine(self._engine.take_figures))
                    for rollout in rollouts:  # noqa: UP028  Ray sends into the generator
                        yield rollout
                    yield None
        finally:
            self._streaming.release()

    def init_weight_transfer_engine(self, request: Any) -> None:
        self._on_engine(self._engine.init_weight_transfer_engine, request)

    def start_weight_update(self, complete: bool = True, audience: Audience = "all") -> None:
        """Begin a weight update. Requests are refused until ``update_weight_version``.

        Args:
            complete: whether every weight comes, or only some, and the others stay.
            audience: makes no difference here: engines keep the weights of every update.

        Raises:
            SyncError: requests are unanswered, or an earlier update failed and this one does not bring every weight.
        """
        with self._state:
            if complete:
                self._broken = None
            self._check_idle("weights may change")
            self._version = None
        self._update(self._engine.start_weight_update, complete)

    def update_weights(self, request: Any) -> None:
        self._update(self._engine.update_weights, request)

    def finish_weight_update(self) -> None:
        self._update(self._engine.finish_weight_update)

    def update_weight_version(self, new_version: str) -> None:
        """Name the weights that have arrived; requests for this version are accepted from now on."""
        with self._state:
            self._version = int(new_version)

    def sleep(self, level: int) -> None:
        """Free the GPU's memory. Requests are refused until all of it is allocated again.

        Args:
            level: 1 keeps the weights in host memory; 2 drops them, and a weight update must come before ``kv_cache`` wakes.

        Raises:
            SyncError: requests are unanswered, or a weight update failed.
        """
        with self._state:
            self._check_idle("an engine may sleep")
            self._asleep = True
            if level > 1:
                self._version = None
        self._set_memory(self._engine.sleep, level)

    def wake_up(self, tags: list[str]) -> None:
        """Allocate memory again: ``weights`` first, ``kv_cache`` last."""
        awake: bool = self._set_memory(self._engine.wake_up, tags)
        with self._state:
            self._asleep = not awake

    def weight_checksums(self) -> dict[str, Mapping[str, int]]:
        """Worker -> parameter name -> checksum of the tensor as that worker last received it."""
        return self._on_engine(self._engine.weight_checksums)

    def shutdown(self) -> None:
        """End the stream after the current step, then the engine and its worker processes."""
        self._closing.set()
        self._queue.put(())
        if not self._streaming.acquire(timeout=_STREAM_END_S):
            logger.warning("the stream did not end within %g s; the engine's worker processes will be killed", _STREAM_END_S)
            return
        self._on_engine(self._engine.shutdown)

    def _accept(self, request: SampleRequest) -> None:
        """The one check of a request: refuse it, or count it as unanswered.

        Raises:
            DataError: the prompt leaves no room for a response.
            SyncError: the engine cannot sample from the version that the request names.
        """
        tokens, longest = len(request.prompt.token_ids), self._engine.context_tokens - 1
        if not 0 < tokens <= longest:
            raise DataError(
                f"prompt {request.prompt.id!r}: {tokens} tokens; the policy takes 1 to {longest} "
                f"(policy.max_context_tokens, less one for the response)"
            )
        with self._state:
            self._check_usable()
            if self._asleep:
                raise SyncError(
                    f"prompt {request.prompt.id!r} is for an engine that sleeps; it samples between a weight sync and the next step"
                )
            if request.policy_version != self._version:
                held = "no version yet, or one that is being replaced" if self._version is None else f"version {self._version}"
                raise SyncError(f"prompt {request.prompt.id!r} is for policy version {request.policy_version}; the engine holds {held}")
            self._unanswered += 1

    def _admit(self) -> bool:
        """Pass queued requests to the engine, after waiting for one if it is idle; False once the actor shuts down."""
        if not self._engine.unfinished and not self._closing.is_set():
            self._add(self._queue.get())
        with contextlib.suppress(queue.Empty):
            while not self._closing.is_set():
                self._add(self._queue.get_nowait())
        return not self._closing.is_set()

    def _add(self, requests: Sequence[tuple[str, SampleRequest]]) -> None:
        def add_all() -> None:
            for key, request in requests:
                self._engine.add(key, request)

        if requests:
            self._on_engine(add_all)

    def _check_usable(self) -> None:
        for failure in (self._failure, self._broken):
            if failure is not None:
                raise SyncError(f"the engine cannot be used: a weight update or a sleep failed: {failure}") from failure

    def _check_idle(self, what: str) -> None:
        self._check_usable()
        if self._unanswered:
            raise SyncError(f"sync: {self._unanswered} requests are unanswered; {what} only when there are none")

    def _update(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call the engine, and remember a failure."""
        try:
            self._on_engine(call, *arguments)
        except Exception as error:
            with self._state:
                self._broken = error
            raise

    def _set_memory(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call the engine, and remember a failure."""
        try:
            return self._on_engine(call, *arguments)
        except Exception as error:
            with self._state:
                self._failure = error
            raise
