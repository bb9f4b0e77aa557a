"""Which checkpoint a run continues from."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypref.errors import ConfigError
from raypref.output.checkpoint import Checkpoints, RunState


def write(checkpoints: Checkpoints, iteration: int, *, complete: bool = True) -> None:
    state = RunState(iteration=iteration, step=iteration * 10, cursor=iteration * 100)
    (checkpoints.begin(state) / "weights").touch()
    if complete:
        checkpoints.commit(state, evaluations=[{"iteration": iteration}])


def test_keeps_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for iteration in range(1, 12):
        write(checkpoints, iteration)
    assert [path.name for path in checkpoints.complete()] == ["iteration_0010", "iteration_0011"]
    assert checkpoints.read(checkpoints.latest()) == (RunState(11, 110, 1100), [{"iteration": 11}])


def test_checkpoint_that_was_cut_off_is_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 1)
    write(checkpoints, 2, complete=False)
    assert checkpoints.latest().name == "iteration_0001"


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        Checkpoints(tmp_path, keep=1).latest()
