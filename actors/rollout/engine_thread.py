"""One thread for every call of an engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class EngineThread:
    """Runs calls one after another, on a thread that does nothing else.

    Ray runs a call of an actor with several threads on any of them. But much of what a library sets holds for one thread alone: vLLM
    notes the current CUDA stream by thread, and makes a new one where it finds none; if weights were received on one thread and the next
    step ran on another, the step's stream would not wait for the weights. vLLM's own server also gives its engine one thread. And a
    weight update that comes late is over before the next one begins, because its call waits here.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()  # an engine that hangs must not keep its process alive

    def __call__(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """The call's result, or its error."""
        result: Future[T] = Future()
        self._calls.put((result, lambda: call(*arguments, **options)))
        return result.result()

    def _run(self) -> None:
        while True:
            result, call = self._calls.get()
            try:
                result.set_result(call())
            except BaseException as error:  # noqa: BLE001  raised in the thread that waits for the result
                result.set_exception(error)
            del result, call  # they would be kept until the next call
