"""Rates by hand, for a peak of 1."""

from __future__ import annotations

import pytest

from raypref.errors import ConfigError
from raypref.sections import ScheduleConfig
from raypref.training.schedule import horizon_steps, learning_rate


def rates(horizon: float, steps: int, **schedule: object) -> list[float]:
    return [learning_rate(step, horizon, 1.0, ScheduleConfig.model_validate(schedule)) for step in range(steps)]


def test_linear() -> None:
    """Horizon 10, w = 2: 1/3, 2/3, then (10 - k) / 8."""
    expected = [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0]
    assert rates(10, 12, type="linear", warmup_ratio=0.2) == pytest.approx(expected)


def test_cosine() -> None:
    """Horizon 5, w = 1: 1/2, then (1 + cos(pi (k - 1) / 4)) / 2 = 1, 0.853..., 1/2, 0.146..., 0."""
    assert rates(5, 6, type="cosine", warmup_ratio=0.2) == pytest.approx([0.5, 1, 0.8535533906, 0.5, 0.1464466094, 0])


def test_constant_after_a_warm_up_that_is_no_whole_number_of_steps() -> None:
    """Horizon 15, w = 1.5: 1/2.5, 2/2.5, 1, ..."""
    assert rates(15, 4, type="constant", warmup_ratio=0.1) == pytest.approx([0.4, 0.8, 1, 1])


def test_warm_up_over_the_whole_horizon() -> None:
    """w = 3: 1/4, 2/4, 3/4, and nothing is left to decay over."""
    assert rates(3, 4, type="linear", warmup_ratio=1.0) == pytest.approx([0.25, 0.5, 0.75, 0])


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_an_iteration_of_one_step_trains(kind: str) -> None:
    """Online: the only step has 1/1.1 of the peak, where a warm-up that starts from 0 would spend it on a rate of 0."""
    assert rates(1, 1, type=kind, warmup_ratio=0.1) == pytest.approx([1 / 1.1])


def test_the_first_of_eighteen_epochs() -> None:
    """SPPO: 18 iterations' worth of 100 steps, of which 100 run: w = 180, so the whole iteration is warm-up, up to 100/181."""
    schedule = ScheduleConfig(type="linear", warmup_ratio=0.1, horizon_iterations=18)
    horizon = horizon_steps(100, 3, schedule)
    assert horizon == 1800
    assert learning_rate(99, horizon, 5e-7, schedule) == pytest.approx(5e-7 * 100 / 181)


def test_a_schedule_over_the_run_covers_all_iterations() -> None:
    assert horizon_steps(100, 3, ScheduleConfig(span="run")) == 300


def test_warm_up_of_a_number_of_steps_does_not_depend_on_the_horizon() -> None:
    """Two steps of warm-up: 1/3, 2/3, then the peak; linear decay over the 8 or 98 that are left. A horizon of one step has no more."""
    assert rates(10, 4, warmup_steps=2) == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8])
    assert rates(100, 4, warmup_steps=2) == pytest.approx([1 / 3, 2 / 3, 1, 97 / 98])
    assert rates(1, 2, warmup_steps=2) == pytest.approx([0.5, 0])
    assert rates(4, 2, warmup_steps=0) == pytest.approx([1, 0.75])
    again = ScheduleConfig.model_validate(ScheduleConfig(warmup_steps=2).model_dump())  # as a run writes its config
    assert (again.warmup_steps, again.warmup_ratio) == (2, None)
    with pytest.raises(ConfigError, match=r"warmup_steps: 2, but learner\.schedule\.warmup_ratio=0\.1 is given as well"):
        ScheduleConfig(warmup_steps=2, warmup_ratio=0.1)


@pytest.mark.parametrize(("kind", "middle"), [("linear", 0.55), ("cosine", 0.55)])
def test_schedule_that_ends_above_zero(kind: str, middle: float) -> None:
    """To a tenth of the peak: halfway at (1 + 0.1) / 2, along the line as along half a cosine; afterwards it stays."""
    found = rates(10, 14, type=kind, warmup_steps=0, final_ratio=0.1)
    assert (found[0], found[5], found[10], found[13]) == pytest.approx((1, middle, 0.1, 0.1))
    assert rates(10, 14, type="constant", warmup_steps=0, final_ratio=0.1) == [1] * 14
