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


def test_averages_leave_out_what_does_not_apply() -> None:
    """a: (1 + 2) / 2; b: 4 alone, for the other is NaN; nothing is left afterwards."""
    averages = Averages()
    averages.add({"a": 1.0, "b": float("nan")})
    averages.add({"a": 2.0, "b": 4.0})
    assert averages.take() == {"a": 1.5, "b": 4.0}
    assert averages.take() == {}
