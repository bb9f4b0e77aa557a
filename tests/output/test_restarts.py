"""When a run goes on by itself after a failure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raypref.errors import ActorFailed, NetworkError, PlacementError, RayprefError, RunFailed, SyncError
from raypref.output import restarts as module
from raypref.output.config import CheckpointConfig
from raypref.output.restarts import Restarts


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited; no time passes."""
    found: list[float] = []
    monkeypatch.setattr(module.time, "sleep", found.append)
    return found


def failed(cause: Exception) -> RunFailed:
    error = RunFailed("rollout-1 died (iteration 2, after step 7)\nthe end of its log")
    error.__cause__ = cause
    return error


def run(restarts: Restarts, *attempts: tuple[int | None, Exception | None]) -> tuple[str, int]:
    """The attempts one after the other: how many iterations each finishes (None: it fails before it begins), and how it fails.

    Returns:
        Which kind of attempt gave the result, and how many there were.
    """
    queue, made = list(attempts), [0]

    def attempt(name: str) -> Callable[[], str]:
        def call() -> str:
            finished, error = queue.pop(0)
            made[0] += 1
            if finished is None:
                assert error is not None
                raise error
            with restarts.counting(lambda: finished):
                if error is not None:
                    raise error
            return name

        return call

    return restarts.until_it_ends(attempt("begun"), attempt("resumed")), made[0]


DEATH = failed(ActorFailed("rollout-1 died", ["rollout-1"]))


def test_a_run_that_does_not_fail_is_left_alone(waits: list[float]) -> None:
    restarts = Restarts(CheckpointConfig())
    assert run(restarts, (3, None)) == ("begun", 1)
    assert (waits, restarts.entries) == ([], [])


def test_a_death_is_followed_by_a_resumption_and_told(waits: list[float], caplog: pytest.LogCaptureFixture) -> None:
    restarts = Restarts(CheckpointConfig(restart_after_s=4))
    assert run(restarts, (1, DEATH), (3, None)) == ("resumed", 2)
    assert waits == [4.0]
    assert [entry["after"] for entry in restarts.entries] == ["rollout-1 died (iteration 2, after step 7)"]
    assert "restart 1 of 3 in 4 s" in caplog.text


def test_failures_are_counted_from_the_last_finished_iteration(waits: list[float]) -> None:
    """Two failures in iteration 2, two in iteration 3: none of them is the third."""
    restarts = Restarts(CheckpointConfig(restarts=2, restart_after_s=5))
    assert run(restarts, (1, DEATH), (1, DEATH), (2, DEATH), (2, DEATH), (3, None)) == ("resumed", 5)
    assert waits == [5, 10, 5, 10]


def test_a_restart_that_fails_before_it_is_back_where_it_was_counts_too() -> None:
    with pytest.raises(RunFailed):
        run(Restarts(CheckpointConfig(restarts=2)), (1, DEATH), (0, DEATH), (1, DEATH))


def test_the_budget_is_used_up(waits: list[float]) -> None:
    restarts = Restarts(CheckpointConfig(restarts=2, restart_after_s=200))
    with pytest.raises(RunFailed, match="rollout-1 died"):
        run(restarts, (1, DEATH), (1, DEATH), (1, DEATH))
    assert waits == [200, 300], "the waits double, up to five minutes"


def test_a_restart_whose_nodes_cannot_be_reached_counts_as_one() -> None:
    restarts = Restarts(CheckpointConfig(restarts=2))
    unreachable = NetworkError("node 2 does not answer node 1")
    assert run(restarts, (1, DEATH), (None, unreachable), (3, None)) == ("resumed", 3)
    with pytest.raises(RunFailed, match=r"node 2 does not answer node 1\nthe cluster held the run before; --resume"):
        run(Restarts(CheckpointConfig(restarts=2)), (1, DEATH), (None, unreachable), (None, unreachable))


def test_a_restart_that_has_waited_for_its_place_in_vain_is_the_last(waits: list[float]) -> None:
    """It may be resumed, unlike a run that the cluster has never held."""
    with pytest.raises(RunFailed, match=r"no node has come back .*\n.*--resume"):
        run(Restarts(CheckpointConfig()), (1, DEATH), (None, PlacementError("placement: no node has come back within 600 s")))
    assert len(waits) == 1


@pytest.mark.parametrize(
    "attempt",
    [
        (None, DEATH),  # at the start: it would fail again
        (None, PlacementError("placement: this cluster can never hold the run")),
        (None, NetworkError("node 2 does not answer node 1")),
        (1, failed(OSError(28, "No space left on device"))),
        (1, SyncError("rollout-0 does not hold the weights")),
    ],
)
def test_what_would_fail_again_is_not_tried_again(attempt: tuple[int | None, RayprefError], waits: list[float]) -> None:
    with pytest.raises(type(attempt[1])):
        run(Restarts(CheckpointConfig()), attempt)
    assert waits == []


def test_none_are_wanted(waits: list[float]) -> None:
    with pytest.raises(RunFailed):
        run(Restarts(CheckpointConfig(restarts=0)), (1, DEATH))
    assert waits == []
