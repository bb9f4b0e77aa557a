"""Files of an interrupted run are damaged: it falls back on what is whole, says so, and ends as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.chaos.moments import Fault
from tests.chaos.runs import LightRun, assert_equal

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


def test_a_damaged_checkpoint_and_a_torn_journal_are_named_and_made_up_for(whole: LightRun, model: Path, tmp_path: Path) -> None:
    run = LightRun(tmp_path, model, {"checkpoint": {"background": False}})  # so that two are complete when the driver is killed
    assert run.finish([Fault("train", 2, iteration=3)]) == -signal.SIGKILL, run.log
    newest = run.output_dir / "checkpoints" / "iteration_0002" / "learner" / "state" / "model.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    (stream,) = (run.output_dir / "rollouts" / ".open").glob("*.arrows")
    stream.write_bytes(stream.read_bytes()[:-20])
    assert run.finish() == 0, run.log
    messages = [notice["message"] for notice in run.noted("notices")]
    assert any("iteration_0002" in message and "damaged" in message for message in messages), messages
    assert any(stream.name in message and "cut off" in message for message in messages), messages
    assert "resumed from" in run.log
    assert "iteration_0001" in next(line for line in run.log.splitlines() if "resumed from" in line)
    assert_equal(run, whole)
    again = [count for count in run.times_sampled().values() if count > 1]  # also by an engine that outlives the driver
    assert 1 <= len(again) <= 1 + run.config.groups_in_flight(), "the group that was cut off, and those that were in flight"
    assert max(again) == 2
    assert run.left_behind() == []
