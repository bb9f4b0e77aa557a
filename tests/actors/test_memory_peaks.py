"""The peaks of memory of a run's actors: asked without waiting, written where they have grown."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError

from actors.cluster import memory_peaks
from actors.cluster.memory_peaks import MemoryPeaks, own_peaks

GIB = 1 << 30


class Handle:
    """An actor whose answers a test sets; None: it does not answer yet."""

    def __init__(self, answer: dict[str, int] | Exception | None) -> None:
        self.answer = answer
        self.asked = 0

    @property
    def __ray_call__(self) -> Handle:
        return self

    def remote(self, function: Callable[..., Any]) -> Handle:
        assert function is own_peaks
        self.asked += 1
        return self


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may set; references are the handles themselves."""

    def get(handle: Handle) -> Any:
        if isinstance(handle.answer, Exception):
            raise handle.answer
        return handle.answer

    def wait(handles: list[Handle], num_returns: int, timeout: float) -> tuple[list[Handle], list[Handle]]:
        assert timeout == 0
        return [handle for handle in handles if handle.answer is not None], [handle for handle in handles if handle.answer is None]

    now = [100.0]
    monkeypatch.setattr(memory_peaks.ray, "get", get)
    monkeypatch.setattr(memory_peaks.ray, "wait", wait)
    monkeypatch.setattr(memory_peaks.time, "monotonic", lambda: now[0])
    return now


def test_the_largest_process_of_each_role(clock: list[float]) -> None:
    handles = {"learner-0": Handle({"gpu": 3 * GIB, "host": GIB}), "learner-1": Handle({"gpu": 2 * GIB, "host": 4 * GIB})}
    handles["oracle-0"] = Handle({"host": GIB // 2})
    peaks = MemoryPeaks(handles)
    assert peaks.take_metrics() == {}, "nobody has been asked before"
    assert peaks.take_metrics() == {"memory_peak/gpu/learner": 3.0, "memory_peak/host/learner": 4.0, "memory_peak/host/oracle": 0.5}


def test_what_has_grown_is_written_again(clock: list[float]) -> None:
    handle = Handle({"host": GIB})
    peaks = MemoryPeaks({"rollout-0": handle})
    peaks.take_metrics()
    peaks.take_metrics()
    for size, written in ((GIB, {}), (GIB + GIB // 200, {}), (2 * GIB, {"memory_peak/host/rollout": 2.0})):
        handle.answer = {"host": size}
        clock[0] += memory_peaks.INTERVAL_S
        assert peaks.take_metrics() == {}, "asked, but not answered before"
        assert peaks.take_metrics() == written


def test_an_actor_is_asked_once_in_an_interval_and_not_while_it_does_not_answer(clock: list[float]) -> None:
    quick, busy, gone = Handle({"host": GIB}), Handle(None), Handle(RayActorError())
    peaks = MemoryPeaks({"rollout-0": quick, "learner-0": busy, "reference-0": gone})
    for _ in range(3):
        peaks.take_metrics()
    assert (quick.asked, busy.asked, gone.asked) == (1, 1, 1)
    clock[0] += memory_peaks.INTERVAL_S
    peaks.take_metrics()
    assert (quick.asked, busy.asked, gone.asked) == (2, 1, 2)


def test_a_process_knows_its_peak() -> None:
    """The kernel counts the same in another place."""
    held = own_peaks(None)["host"]
    assert held == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, rel=0.05)
    filled = bytearray(b"x" * (64 << 20))
    assert own_peaks(None)["host"] >= held
    del filled
