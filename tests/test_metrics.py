"""Running averages, and the clock of stages."""

from __future__ import annotations

import itertools

import pytest

from raypref import metrics
from raypref.metrics import Averages, StageClock


def test_stage_counts_the_time_in_which_any_call_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is read when the first call begins (1) and when the last ends (2): one second, whatever lies between; then 3 to 4, in
    which a call fails: two in all. Another stage's call takes 5 to 6."""
    ticks = itertools.count(1)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: float(next(ticks)))
    clock = StageClock()
    with clock.stage("rollout"), clock.stage("rollout"):
        pass
    with pytest.raises(ValueError, match="failed"), clock.stage("rollout"):
        raise ValueError("failed")
    with clock.stage("judge"):
        pass
    assert clock.seconds() == {"rollout": 2.0, "judge": 1.0}


def test_stage_seconds_are_taken_for_each_iteration_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is read when made (1), for rollout (2 to 3), when taken (4: three seconds after 1), for rollout (5 to 6), for train
    (7 to 8), when taken (9: five seconds after 4)."""
    ticks = itertools.count(1)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: float(next(ticks)))
    clock = StageClock()
    with clock.stage("rollout"):
        pass
    assert clock.take() == {"time/iteration_s": 3.0, "time/rollout_s": 1.0}
    with clock.stage("rollout"):
        pass
    with clock.stage("train"):
        pass
    assert clock.take() == {"time/iteration_s": 5.0, "time/rollout_s": 1.0, "time/train_s": 1.0}
    assert clock.seconds() == {"rollout": 2.0, "train": 1.0}


def test_averages_leave_out_what_does_not_apply() -> None:
    """a: (1 + 2) / 2; b: 4 alone, for the other is NaN; nothing is left afterwards."""
    averages = Averages()
    averages.add({"a": 1.0, "b": float("nan")})
    averages.add({"a": 2.0, "b": 4.0})
    assert averages.take() == {"a": 1.5, "b": 4.0}
    assert averages.take() == {}
