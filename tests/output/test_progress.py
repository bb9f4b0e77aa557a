"""What the progress line says."""

from __future__ import annotations

from raypref.output.progress import ProgressLine


def test_win_rate_is_that_of_a_policy_and_no_step_is_told_before_there_is_one() -> None:
    """The policy of iteration 1 is evaluated while the second iteration (index 1) samples; a resumed run took steps before."""
    line = ProgressLine(iterations=3)
    line.on_iteration(1)
    assert "step" not in line.line()
    line.on_step(46, {"loss": 2.0})
    line.on_evaluation({"iteration": 1, "base": {"win_rate": 0.625}})
    line.on_end()
    assert line.line().startswith("iteration 2/3  step 46  groups 0  loss 2  win rate 0.625 after iteration 1  ")
