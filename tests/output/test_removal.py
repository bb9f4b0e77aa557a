"""What is removed, or replaced, is never half there; what cannot be removed does not end a run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.policies import Policies
from raypref.output.removal import remove, replacing


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


class Killed(BaseException):
    """In the place of SIGKILL."""


REMOVALS: dict[str, Callable[[Path], object]] = {
    "a policy that is not kept any more": lambda directory: Policies(directory, 1).prune(),
    "a policy that is written again": lambda directory: Policies(directory, 3).commit("iteration_0001"),
    "a checkpoint that is not kept any more": lambda directory: Checkpoints(directory, 1).prune(),
    "a checkpoint that is written again": lambda directory: Checkpoints(directory, 3).begin(RunState(1)),
}


@pytest.mark.parametrize("name", REMOVALS)
def test_a_kill_leaves_nothing_half_removed_under_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is free, or what has it is whole; the next removal takes away what the kill left."""
    for iteration in ("iteration_0001", "iteration_0002", ".partial"):
        for file in ("config.json", "model.safetensors", "state.json"):
            (tmp_path / iteration).mkdir(exist_ok=True)
            (tmp_path / iteration / file).write_text("x")
    unlink = os.unlink

    def killed_at_the_second_file(path: Any, **where: Any) -> None:
        if len(removed) == 1:
            raise Killed
        removed.append(path)
        unlink(path, **where)

    removed: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", killed_at_the_second_file)
        with pytest.raises(Killed):
            REMOVALS[name](tmp_path)
    first = tmp_path / "iteration_0001"
    assert not first.exists() or len(list(first.iterdir())) == 3
    assert len(list((tmp_path / "iteration_0002").iterdir())) == 3
    remove(tmp_path / "iteration_0002")
    assert {path.name for path in tmp_path.iterdir()} <= {"iteration_0001", ".partial"}


def test_a_directory_is_replaced_by_a_whole_one(tmp_path: Path) -> None:
    """An error while the new one is written leaves the earlier one as it was, and the next attempt begins with nothing."""
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "earlier").touch()

    def write(file: str, *, fails: bool) -> None:
        with replacing(policy) as place:
            assert not place.exists()
            place.mkdir()
            (place / file).touch()
            if fails:
                raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write("half", fails=True)
    assert [path.name for path in policy.iterdir()] == ["earlier"]
    write("whole", fails=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["policy", "whole"]


def test_what_cannot_be_replaced_keeps_its_name(tmp_path: Path) -> None:
    """The new directory was written where this machine does not see it, say."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("before")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "policy"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert (tmp_path / "policy" / "config.json").read_text() == "before"
