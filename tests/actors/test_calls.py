"""Which error surfaces when ranks fail together."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, ObjectStoreFullError, RayError, RayTaskError

from actors.cluster.call_results import died
from actors.cluster.calls import first_cause
from raypref.errors import ActorFailed, ActorSilent, LossNotFinite, ObjectLost


async def after(seconds: float, outcome: Any) -> Any:
    await asyncio.sleep(seconds)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run(*calls: Any, timeout_s: float = 5.0) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await first_cause(calls, [f"rank {k}" for k in range(len(calls))], timeout_s)

    return asyncio.run(all_of_them())


def task_error(cause: Exception) -> RayTaskError:
    """As it reaches the driver: Ray's own error around the actor's."""
    return RayTaskError("step", 'ray::step()\n  File "rank.py", line 7', cause).as_instanceof_cause()


def test_results_come_by_rank() -> None:
    assert run(after(0.05, "a"), after(0, "b")) == ["a", "b"]


def test_a_death_is_the_cause_of_a_broken_collective_that_is_noticed_first() -> None:
    broken = task_error(RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer [192.0.2.7]:1234"))
    with pytest.raises(ActorFailed, match=r"^rank 1 died: The actor died unexpectedly before finishing this task\.$") as caught:
        run(after(0, broken), after(0.2, ActorDiedError()))
    assert caught.value.actors == ("rank 1",)


def test_an_own_error_is_reported_while_the_others_still_wait_for_that_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.cluster.calls._GRACE_S", 0.1)
    began = time.monotonic()
    with pytest.raises(ValueError, match="shape"):
        run(after(60, None), after(0, task_error(ValueError("wrong shape"))), timeout_s=90.0)
    assert time.monotonic() - began < 20


def test_errors_arrive_as_they_were_raised_with_the_actors_traceback() -> None:
    with pytest.raises(LossNotFinite, match="it is nan") as caught:
        run(after(0, task_error(LossNotFinite("it is nan"))))
    assert type(caught.value) is LossNotFinite
    assert any("rank.py" in note for note in caught.value.__notes__)


def test_silence_names_the_rank() -> None:
    with pytest.raises(ActorSilent, match=r"within 0\.1 s from rank 1$") as caught:
        run(after(0, 1), after(60, 2), timeout_s=0.1)
    assert caught.value.actors == ("rank 1",)
    assert isinstance(caught.value, TimeoutError)


def test_a_limit_that_becomes_known_holds_for_a_call_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.cluster.calls._LOOK_S", 0.05)
    limits = [60.0, 60.0, 0.2]

    async def call(*calls: Any) -> list[Any]:
        return await first_cause(calls, ["rank 0", "rank 1"], lambda: limits.pop(0) if len(limits) > 1 else limits[0])

    began = time.monotonic()
    with pytest.raises(ActorSilent, match=r"within 0\.2 s from rank 1$"):
        asyncio.run(call(after(0, 1), after(30, 2)))
    assert 0.15 < time.monotonic() - began < 5
    limits[:] = [60.0]
    assert asyncio.run(call(after(0.2, 1), after(0.1, 2))) == [1, 2]
    with pytest.raises(ValueError, match="shape"):
        asyncio.run(call(after(0.1, 1), after(0.2, task_error(ValueError("wrong shape")))))


def test_a_death_is_told_in_one_line_with_the_actor_and_its_call() -> None:
    text = "The actor died unexpectedly.\n\tclass_name: Rank\n\tpid: 7\nWorker exit type: SYSTEM_ERROR Worker exit detail: OOM."
    error = died("rollout-1: sample", RuntimeError(text))
    assert str(error) == "rollout-1 died in sample: Worker exit type: SYSTEM_ERROR Worker exit detail: OOM."
    assert error.actors == ("rollout-1",)


def test_an_actor_that_reports_another_ones_death_is_not_said_to_be_dead() -> None:
    """A rank asks the engines during a weight sync; what it raises then is not its own death."""
    with pytest.raises(ActorDiedError):
        run(after(0, task_error(ActorDiedError())))


@pytest.mark.parametrize("lost", [ObjectLostError("0" * 56, None, ""), ObjectStoreFullError("no room for 7 GiB")])
@pytest.mark.parametrize("where", ["in the actor", "on its way"])
def test_what_the_cluster_loses_or_cannot_hold_ends_this_attempt_of_a_run_and_not_the_run(lost: RayError, where: str) -> None:
    """The run is started again after it. The actor is not said to be dead: it would be replaced for nothing."""
    with pytest.raises(ActorFailed, match=rf"^rank 0: Ray's object store: {type(lost).__name__}: ") as caught:
        run(after(0, task_error(lost) if where == "in the actor" else lost))
    assert type(caught.value) is ObjectLost
