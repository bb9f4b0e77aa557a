"""A node that disappears and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.moments import Fault
from tests.chaos.runs import LightRun, assert_equal, assert_nothing_repeated

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


def test_a_node_that_is_removed_and_added_again_changes_nothing(whole: LightRun, model: Path, tmp_path: Path) -> None:
    """In the middle of the second iteration. The run needs both nodes; its bundles are free at the end."""
    placement = {"device": "cpu", "oracle": {"gpus": 0}, "timeout_s": 60}
    checkpoint = {"restarts": 5, "restart_after_s": 2.0}
    run = LightRun(tmp_path, model, {"placement": placement, "checkpoint": checkpoint}, two_nodes=True)
    assert run.finish([Fault("train", 2, target="node", iteration=2)], timeout_s=400) == 0, run.log
    assert len(run.noted("faults")) == 1
    assert_equal(run, whole)
    assert_nothing_repeated(run)
    assert run.noted("after") == [{"free": 4.0, "states": ["REMOVED"]}]
    assert run.left_behind() == []
