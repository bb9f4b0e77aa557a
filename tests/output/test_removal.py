"""What cannot be removed does not end a run."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.policies import Policies


def checkpoints_in(directory: Path, iterations: int) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep=1)
    for iteration in range(1, iterations + 1):
        (checkpoints.begin(RunState(iteration)) / "learner").mkdir()
        (checkpoints.path(RunState(iteration)) / "learner" / "state").write_text("x")
        checkpoints.commit(RunState(iteration), evaluations=[])
    return checkpoints


def test_what_another_process_has_open_on_a_network_file_system_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Removing such a file renames it to ``.nfs...``, and its directory stays. Everything else goes."""
    checkpoints, policies = checkpoints_in(tmp_path / "checkpoints", 3), Policies(tmp_path / "policies", 1)
    for iteration in (1, 2):
        (policies.begin() / "model").mkdir(parents=True)
        policies.commit(f"iteration_000{iteration}")
    rmdir = os.rmdir

    def busy(path: Any, **where: Any) -> None:
        if str(path).endswith("iteration_0001"):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        rmdir(path, **where)

    monkeypatch.setattr(os, "rmdir", busy)
    checkpoints.prune()
    policies.prune()
    assert [path.name for path in checkpoints.complete()] == ["iteration_0003"]
    assert not (tmp_path / "checkpoints" / "iteration_0001" / "learner").exists()
    assert not (tmp_path / "checkpoints" / "iteration_0002").exists()
    assert caplog.text.count("iteration_0001 is not needed any more, and could not be removed") == 2


def test_two_threads_may_remove_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The end of a run does not wait for a removal that it interrupts, and removes what is left itself."""
    checkpoints = checkpoints_in(tmp_path, 3)
    seen = checkpoints.complete()
    checkpoints.prune()
    monkeypatch.setattr(checkpoints, "complete", lambda: seen)
    checkpoints.prune()
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_0003"]
    assert caplog.text == ""
