"""What the progress line says."""

from __future__ import annotations

import pytest

from raypref.output import progress
from raypref.output.progress import ProgressLine
from raypref.types import Verdict
from tests.fakes import prompt


def test_win_rate_is_that_of_a_policy_and_no_step_is_told_before_there_is_one() -> None:
    """The policy of iteration 1 is evaluated while iteration 2 samples; a resumed run took steps before."""
    line = ProgressLine(iterations=3)
    line.on_iteration(2)
    assert "step" not in line.line()
    line.on_step(46, {"loss": 2.0})
    line.on_evaluation({"iteration": 1, "base": {"win_rate": 0.625}})
    line.on_end()
    assert line.line().startswith("iteration 2/3  step 46  groups 0  loss 2  win rate 0.625 after iteration 1  ")


def test_tokens_per_second_count_from_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests at 10 s, 60 tokens of the first at 12 s: 30 tokens/s. Nothing is shown before, nor when no request is under way."""
    clock = {"now": 10.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    line = ProgressLine(iterations=3)
    line.on_iteration(1)
    for index in range(2):
        line.on_sample(prompt(index))
    assert "tokens/s" not in line.line()
    clock["now"] = 12.0
    line.on_group(Verdict(0, 1, {"rollout/tokens": 60.0}))
    assert "groups 1  30 tokens/s" in line.line()
    line.on_group(Verdict(1, 1, {"rollout/tokens": 60.0}))
    assert "tokens/s" not in line.line()
    line.on_end()
