"""The sender's calls to receivers that are Ray actors, within the time limit of a sync."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.weights.destination import Destination, rank_offsets
from actors.weights.transport import BROKEN_OFF, Sender
from raypref.errors import SyncError, TransferFailed
from raypref.roles import Audience

_GRACE_S = 2.0
"""How long to wait for the answers of others once one receiver has failed: the first answer may be a consequence."""


class RayControl:
    """``actors.weights.transport.Control`` over Ray actors: each call goes to every copy and waits for all.

    Unlike vLLM's own Ray client it gives each copy different ranks in the transfer group (vLLM's assigns all of them the same ones), and
    never waits for ever.
    """

    def __init__(self, destinations: Sequence[Destination], transport: str, timeout_s: float) -> None:
        self.version = 0
        """What the next finished sync is called."""
        self.audience: Audience = "all"
        """Which copies keep the next sync's weights."""
        self.complete = True
        """Whether the next sync sends every weight."""
        self.failure: SyncError | None = None
        self.sender: Sender | None = None
        """The sender that makes these calls. It says how far a receiver has got, and releases the other receivers when one fails."""
        self._destinations = destinations
        self._transport = transport
        self._timeout_s = timeout_s
        self._limit_s = timeout_s
        self._ends = 0.0
        """When the time is over, by ``time.monotonic``."""
        self._updates = 0
        self.begin()

    def begin(self, limit_s: float | None = None) -> None:
        """A sync begins, or a first connection: nothing has failed, and ``limit_s`` count from now; default: ``timeout_s``."""
        self.failure = None
        self._limit_s = self._timeout_s if limit_s is None else limit_s
        self._ends = time.monotonic() + self._limit_s
        self._updates = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        offsets = rank_offsets(self._destinations)
        owns = [{"rank": rank, "receiver": copy.name} for copy, rank in zip(self._destinations, offsets, strict=True)]
        infos = [init_info | {key: value for key, value in own.items() if key in init_info} for own in owns]
        self._call("connecting", "init_weight_transfer_engine", *[({"init_info": info},) for info in infos])

    def start_weight_update(self) -> None:
        """Unlike vLLM's own call this one says whether every weight comes, and which copies keep them."""
        self._call("the sync's beginning", "start_weight_update", (self.complete, self.audience))

    def update_weights(self, update_info: Any) -> None:
        self._updates += 1
        self._call(f"transfer {self._updates} of the sync", "update_weights", ({"update_info": update_info},))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("the sync's end", "finish_weight_update", ())
        name = str(self.version) if weight_version is None else weight_version
        self._call("the sync's end", "update_weight_version", (name,))

    def _call(self, stage: str, method: str, *arguments: tuple[Any, ...]) -> None:
        """Call a method of every copy, with the same arguments or each with its own, and wait for all answers."""
        if self.failure is not None:
            return
        each = arguments if len(arguments) == len(self._destinations) else arguments * len(self._destinations)
        copies = {getattr(copy.handle, method).remote(*given): copy.name for copy, given in zip(self._destinations, each, strict=True)}
        errors: dict[str, RayError] = {}
        waiting = list(copies)
        while waiting and not errors:
            done, waiting = ray.wait(waiting, timeout=max(0.0, self._ends - time.monotonic()))
            if not done:
                self.failure = self._late(stage, waiting, copies)
                return
            errors = _errors(done, copies)
        if errors:
            self._break_off("another receiver failed")
            late, _ = _wait_for_all(waiting)
            self.failure = self._failed(stage, errors | _errors(late, copies))

    def _late(self, stage: str, waiting: list[Any], names: Mapping[Any, str]) -> SyncError:
        """Names those that do not answer even when nobody makes them wait any more; all that are late, if there are none."""
        self._break_off("another receiver did not answer in time")
        where = {names[answer]: self._placed(names[answer]) for answer in waiting}
        _, silent = _wait_for_all(waiting)
        late = ", ".join(sorted(where[names[answer]] for answer in silent or waiting))
        limit = f"sync.timeout_s = {self._timeout_s:g} s"
        if self._limit_s < self._timeout_s:
            limit = f"{self._limit_s:g} s, much longer than a sync usually takes"
        message = f"sync: no answer from {late} within {limit}; {self._transport}, {stage}"
        return TransferFailed(message, sorted(names[answer] for answer in silent or waiting))

    def _failed(self, stage: str, errors: Mapping[str, RayError]) -> SyncError:
        """The error of the receiver that failed first."""
        name = min(errors, key=lambda name: BROKEN_OFF in str(errors[name]))
        error = errors[name]
        cause = error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error
        lines = str(cause).strip().splitlines() or [""]
        kind = "" if isinstance(cause, SyncError) else f"{type(cause).__name__}: "
        message = f"sync: {self._placed(name)} failed; {self._transport}, {stage}: {kind}{lines[0]}"
        failure = SyncError(message) if isinstance(cause, SyncError) else TransferFailed(message, [name])
        failure.__cause__ = cause
        failure.add_note(str(error))
        return failure

    def _break_off(self, reason: str) -> None:
        if self.sender is not None:
            self.sender.break_off(reason)

    def _placed(self, name: str) -> str:
        where = "" if self.sender is None else self.sender.where(name)
        return f"{name} ({where})" if where else name


def _wait_for_all(answers: list[Any]) -> tuple[list[Any], list[Any]]:
    """Those that are there after a short while, and the others."""
    return ray.wait(answers, num_returns=len(answers), timeout=_GRACE_S) if answers else ([], [])


def _errors(answers: Sequence[Any], names: Mapping[Any, str]) -> dict[str, RayError]:
    """Name of a copy -> its error, for those that have failed."""
    errors: dict[str, RayError] = {}
    for answer in answers:
        try:
            ray.get(answer)
        except RayError as error:
            errors[names[answer]] = error
    return errors
