"""The short form of the other tests here: an oracle is killed, then the driver; the run goes on by itself, and is resumed.

What a killed driver leaves behind is looked at by ``test_driver_killed`` alone: Ray's agents end when their own time-outs are over.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.chaos.moments import Fault
from tests.chaos.runs import GROUPS, LightRun, assert_equal, assert_nothing_repeated

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_killed_oracle_and_a_killed_driver_change_nothing(whole: LightRun, model: Path, tmp_path: Path) -> None:
    run = LightRun(tmp_path, model)
    faults = [Fault("judge", 5, 0.02, "oracle-0"), Fault("train", 2, 0.01, iteration=2)]
    assert run.finish(faults) == -signal.SIGKILL, run.log
    assert run.finish() == 0, run.log
    assert len(run.rollouts()) == GROUPS
    assert_equal(run, whole)
    assert_nothing_repeated(run)
