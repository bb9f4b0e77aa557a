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
    assert checkpoints.read(checkpoints.complete()[-1]) == (RunState(11, 110, 1100), [{"iteration": 11}])


def test_checkpoint_that_was_cut_off_is_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 1)
    write(checkpoints, 2, complete=False)
    assert checkpoints.complete()[-1].name == "iteration_0001"


def test_the_checkpoint_to_continue_from(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.choose(None) is None
    with pytest.raises(ConfigError, match=r"--resume: iteration_0001 is no complete checkpoint of this run; there are: none"):
        checkpoints.choose(Path("iteration_0001"))
    write(checkpoints, 1)
    write(checkpoints, 2)
    assert checkpoints.choose(None) == tmp_path / "iteration_0002"
    assert checkpoints.choose(Path("iteration_0001")) == tmp_path / "iteration_0001"
    assert checkpoints.choose(tmp_path / "iteration_0001") == tmp_path / "iteration_0001"
    with pytest.raises(ConfigError, match=r"there are: iteration_0001, iteration_0002$"):
        checkpoints.choose(Path("iteration_0003"))
