"""Actors of every role are killed or stopped at seeded moments; the run finishes by itself."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.moments import Fault
from tests.chaos.runs import BATCH, SLEEPING, STEPS, LightRun, assert_equal, assert_nothing_repeated

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

ROLES = ["rollout-0", "reference-0", "oracle-0", "learner-0"]
STAGES = ["rollout", "judge", "reference", "train"]
FIVE: dict[str, Any] = {
    "loop": {"iterations": 5, "prompts_per_iteration": STEPS * BATCH, "window_groups": 8},
    "checkpoint": {"restarts": 8, "restart_after_s": 0.05},
    "supervision": {"restarts": 8},
}
"""Five losses of a role are as many as the default allows; a sixth comes where a replacement is struck while it starts."""
NOTICED_S = 15.0
STOPS: dict[str, Any] = {
    "checkpoint": {"restarts": 8, "restart_after_s": 0.05},
    "supervision": {"floor_s": 6.0, "multiple": 10.0},
}
LOOKED_S = 6.0
"""A stop is looked for every 2 seconds; a busy machine takes as long again, and other ranks have 5 s to tell of it."""


def noticed_after(run: LightRun) -> list[tuple[str, float]]:
    """For each fault its target, and the seconds until a warning named it; infinite where none did."""
    notices = run.noted("notices")
    found = []
    for fault in run.noted("faults"):
        times = [notice["time"] - fault["time"] for notice in notices if fault["target"] in notice["message"]]
        found.append((fault["target"], min((seconds for seconds in times if seconds >= 0), default=float("inf"))))
    return found


def test_twenty_kills_change_nothing(model: Path, tmp_path: Path) -> None:
    """Each of four roles is killed in each of five iterations, while one stage or another is entered."""
    whole, run = LightRun(tmp_path / "whole", model, FIVE), LightRun(tmp_path / "run", model, FIVE)
    assert whole.finish() == 0, whole.log
    seeded, faults = random.Random(13), []
    for iteration in range(1, 6):
        stages = [*seeded.sample(STAGES, 3), seeded.choice(["train", "seal", "sync"])]
        for role, stage in zip(seeded.sample(ROLES, 4), stages, strict=True):
            faults.append(Fault(stage, seeded.randint(1, 2) if stage in STAGES else 1, seeded.uniform(0, 0.05), role, iteration=iteration))
    assert run.finish(faults, timeout_s=900) == 0, run.log
    assert len(run.noted("faults")) == 20
    assert_equal(run, whole)
    assert_nothing_repeated(run)
    assert max(seconds for _, seconds in noticed_after(run)) < NOTICED_S, noticed_after(run)
    assert run.left_behind() == []


def test_a_stop_of_every_role_changes_nothing(whole: LightRun, model: Path, tmp_path: Path) -> None:
    """Each is noticed after ten times what its calls have taken, which here is less than the floor. So it has answered three at least
    since all actors were started."""
    run = LightRun(tmp_path, model, STOPS)
    stop = int(signal.SIGSTOP)
    faults = [
        Fault("train", 3, target="learner-0", signal=stop, iteration=2),
        Fault("judge", 6, target="oracle-0", signal=stop, iteration=3),
        Fault("judge", 4, target="rollout-0", signal=stop, iteration=3),
        Fault("reference", 4, target="reference-0", signal=stop, iteration=3),
    ]
    assert run.finish(faults, timeout_s=900) == 0, run.log
    assert len(run.noted("faults")) == 4
    assert_equal(run, whole)
    assert_nothing_repeated(run)
    assert max(seconds for _, seconds in noticed_after(run)) < run.config.supervision.floor_s + LOOKED_S, noticed_after(run)
    assert run.left_behind() == []


def test_an_engine_that_takes_turns_with_the_learner_is_replaced_alone(whole: LightRun, model: Path, tmp_path: Path) -> None:
    """While it samples; the other actors stay as they are."""
    run = LightRun(tmp_path, model, SLEEPING)
    assert run.finish([Fault("judge", 3, 0.0, "rollout-0", iteration=2)]) == 0, run.log
    assert_equal(run, whole)
    assert_nothing_repeated(run)
    assert "rollout-0 has been replaced" in run.log
    assert not [notice for notice in run.noted("notices") if "\nrestart " in notice["message"]]
    assert run.left_behind() == []
