"""Processes that take part in a collective together, and the way out of it when one of them fails.

A collective ends only when every member takes part. A member that raises, hangs or dies leaves the others waiting in a call that knows no
time limit. So each member, beside every collective, watches a small store in the sender's process. The first failure that is written
there ends the group: every member aborts its communicator, which ends its collective, and all know what failed. A member that finds no
store any more, because the sender has died, leaves in the same way.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.distributed import DistError, TCPStore

from actors.cluster.store import listening_store
from actors.weights.transport import BROKEN_OFF
from raypref.errors import SyncError

T = TypeVar("T")

_POLL_S = 0.1
"""How often a member looks whether the group has ended; a look takes 20 microseconds, and a network round trip."""

_ABORT_S = 5.0
"""How long to wait for an abort. vLLM's own ``destroy`` waits as long: it may block until CUDA graphs are freed."""


class Communicator(Protocol):
    """What is used of vLLM's ``PyNcclCommunicator``."""

    disabled: bool
    """Collectives of a disabled one return at once."""

    def broadcast(self, tensor: Tensor, src: int, stream: Any = None) -> Any: ...


class TransferGroup:
    """One process's membership. ``join`` comes first; then each collective stands in a ``with group.collective():``."""

    def __init__(self, store: TCPStore, member: str, rank: int, device: torch.device, abort: Callable[[Any], None]) -> None:
        """
        Args:
            store: of the group.
            member: name of this one.
            rank: of this one; the sender has 0.
            device: of the tensors that are broadcast.
            abort: ends what a communicator is doing, from another thread.
        """
        self.store = store
        self._member = member
        self._rank = rank
        self._abort = abort
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        """Broadcasts have a stream of their own. vLLM's communicator would otherwise make a new stream the current one of this thread."""
        self._communicator: Communicator | None = None
        self._calling = threading.Lock()
        """Held while a broadcast is enqueued, so that no communicator is freed under it."""

    def end(self, reason: str) -> None:
        """End the group for every member; of several reasons the first stays."""
        with contextlib.suppress(DistError):  # the sender has died: there is nobody to tell
            self.store.compare_set("failure", "", reason)

    def reason(self) -> str | None:
        """Why the group has ended; None as long as it has not."""
        try:
            return self.store.get("failure").decode() if self.store.check(["failure"]) else None
        except DistError:
            return "the sender has died"

    def check(self) -> None:
        """Raises ``SyncError`` when the group has ended."""
        if (reason := self.reason()) is not None:
            raise SyncError(f"sync: {BROKEN_OFF}: {reason}")

    def join(self, connect: Callable[[], Any]) -> None:
        """Build this member's communicator, unless the group ends first.

        Args:
            connect: waits for all other members. It knows no time limit and cannot be aborted, so it runs on a thread of its own, which
                is left behind when the group ends; on this one it might also change the current CUDA stream.
        """
        joined = beside(connect)
        with self._failing():
            while not wait([joined], timeout=_POLL_S).done:
                if self.reason() is not None:
                    joined.add_done_callback(self._abort_late)
                    return
            self._communicator = joined.result()

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """In the block broadcasts end when the group does. An error in the block ends the group."""
        over = threading.Event()
        watching = beside(lambda: self._watch(over))
        try:
            with self._failing():
                yield
        finally:
            over.set()
            watching.result()

    def broadcast(self, buffer: Tensor) -> Any:
        """Send the first member's buffer to all others; what ``wait`` takes. Does nothing once the group has ended."""
        with self._calling:
            if self._communicator is None or self._communicator.disabled:
                return None
            if self._stream is None:
                return self._communicator.broadcast(buffer, src=0)
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            self._communicator.broadcast(buffer, src=0, stream=self._stream)
            return self._stream.record_event()

    def wait(self, sent: Any) -> None:
        """Return when a broadcast is over, or was aborted."""
        if self._stream is not None and sent is not None:
            sent.synchronize()

    def leave(self) -> None:
        """Free the communicator; the sender's leaving ends the group."""
        if self._rank == 0:
            self.end("the sender has left the group")
        self._end_collective()

    def note(self, place: int, text: str) -> None:
        """Let the sender know how far this member has got: the ``place``-th part, described by ``text``."""
        self.store.set(f"place/{self._rank}", json.dumps([self._member, place, text]))

    def forget(self, members: int) -> None:
        """Delete what all receivers noted."""
        for rank in range(1, members):
            self.store.delete_key(f"place/{rank}")

    def noted(self, receiver: str, members: int) -> str:
        """What a receiver noted last; of one with several members, the one that is furthest behind."""
        keys = [key for rank in range(1, members) if self.store.check([key := f"place/{rank}"])]
        notes = [json.loads(self.store.get(key)) for key in keys]
        mine = [note for note in notes if note[0].partition("/")[0] == receiver]
        return str(min(mine, key=lambda note: note[1])[2]) if mine else ""

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """An error in the block ends the group and this member's collective, and is raised as a ``SyncError`` that names the member."""
        try:
            yield
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0]
            own = text if isinstance(error, SyncError) else f"{type(error).__name__}: {text}"
            self.end(f"{self._member}: {own}")
            self._end_collective()
            raise SyncError(own if BROKEN_OFF in own else f"{self._member}: {own}") from error

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_POLL_S):
            if self.reason() is not None:
                self._end_collective()
                return

    def _end_collective(self) -> None:
        """Abort the communicator. ``disabled`` comes first: the thread in the collective may go on and enqueue the next broadcast."""
        communicator = self._communicator
        if communicator is None or communicator.disabled:
            return
        communicator.disabled = True
        enqueued = self._calling.acquire(timeout=1.0)  # a broadcast that blocks while it is enqueued must be aborted all the same
        try:
            wait([beside(lambda: self._abort_and_wait(communicator))], timeout=_ABORT_S)
        finally:
            if enqueued:
                self._calling.release()

    def _abort_and_wait(self, communicator: Communicator) -> None:
        self._abort(communicator)
        if self._stream is not None:
            self._stream.synchronize()  # buffers may be freed from here on

    def _abort_late(self, joined: Future[Any]) -> None:
        if joined.exception() is None:
            self._abort(joined.result())


def open_store(host: str, port: int, *, sender: bool, timeout_s: float) -> TCPStore:
    """The group's store: the sender opens it at a port that the kernel picks (``port`` is 0); receivers reach it."""
    limit = timedelta(seconds=timeout_s / 3)  # torch tries to connect twice, and waits in between
    return listening_store(host, limit) if sender else TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=limit)


def beside(call: Callable[[], T]) -> Future[T]:
    """Run a call on a thread that nobody needs to wait for, not even the interpreter's end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
