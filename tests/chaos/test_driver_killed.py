"""The driver is killed at ten moments, seeded, and resumed each time."""

from __future__ import annotations

import random
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.moments import Fault
from tests.chaos.runs import STEPS, LightRun, assert_equal, assert_nothing_repeated

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

STAGES = [("judge", 9), ("train", 2), ("seal", 1), ("sync", 2), ("checkpoint", 1), ("evaluate", 3), ("reference", 5), ("sync", 3)]
LAST_STAGES = [("checkpoint", 1), ("export", 1)]


def test_ten_kills_of_the_driver_change_nothing(whole: LightRun, model: Path, tmp_path: Path) -> None:
    """Parameters, evaluations, rollouts and metrics are equal; at most the steps since a complete checkpoint are repeated, and no group
    that is on disk."""
    seeded, run = random.Random(13), LightRun(tmp_path, model)
    first_steps, shared_memory = [0], set(Path("/dev/shm").iterdir())
    for stage, count in STAGES + LAST_STAGES:
        assert run.finish([Fault(stage, count, seeded.uniform(0, 0.3 if stage == "checkpoint" else 0.05))]) == -signal.SIGKILL, run.log
        first_steps.append(len(run.notes("steps")))
    assert run.finish() == 0, run.log
    assert_equal(run, whole)
    assert_nothing_repeated(run)
    steps = [int(step) for step in run.notes("steps")]
    runs = [part for start, stop in pairwise([*first_steps, len(steps)]) if (part := steps[start:stop])]
    # A checkpoint is written while the next steps are taken, and the one after it waits for it.
    assert all(before[-1] - after[0] + 1 < 2 * STEPS for before, after in pairwise(runs)), runs
    assert run.left_behind() == []
    assert set(Path("/dev/shm").iterdir()) <= shared_memory
