"""Which checkpoint a run continues from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raypref.errors import ConfigError
from raypref.output.checkpoint import Checkpoints, RunState


def write(checkpoints: Checkpoints, iteration: int, *, complete: bool = True) -> None:
    state = RunState(iteration=iteration, step=iteration * 10, cursor=iteration * 100)
    (checkpoints.begin(state) / "weights").write_bytes(bytes(range(256)))
    if complete:
        checkpoints.complete_files(state)
        checkpoints.commit(state, evaluations=[{"iteration": iteration}])
        checkpoints.prune()


def test_keeps_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for iteration in range(1, 12):
        write(checkpoints, iteration)
    assert [path.name for path in checkpoints.complete()] == ["iteration_0010", "iteration_0011"]
    assert checkpoints.read(checkpoints.complete()[-1]) == (RunState(11, 110, 1100), [{"iteration": 11}])
    assert checkpoints.read_held_out(checkpoints.complete()[-1]) == []


def test_the_losses_on_held_out_examples_are_kept(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=2), RunState(1, 10, 100)
    checkpoints.begin(state)
    checkpoints.commit(state, evaluations=[], held_out=[{"step": 0, "loss": 0.5}])
    assert checkpoints.read_held_out(checkpoints.complete()[-1]) == [{"step": 0, "loss": 0.5}]


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


def write_within(checkpoints: Checkpoints, iteration: int, steps: int) -> Path:
    state = RunState(iteration, iteration * 10 + steps, iteration * 100, steps, steps * 10)
    directory = checkpoints.begin(state)
    (directory / "weights").write_bytes(bytes(range(256)))
    checkpoints.complete_files(state)
    checkpoints.commit(state, evaluations=[])
    checkpoints.prune()
    return directory


def test_the_start_of_an_iteration_stays_as_long_as_a_checkpoint_within_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)

    def names() -> list[str]:
        return [path.name for path in checkpoints.complete()]

    for steps in (3, 6, 9):
        write_within(checkpoints, 0, steps)
    assert names() == ["iteration_0000-step_000006", "iteration_0000-step_000009"]
    write(checkpoints, 1)
    for steps in (3, 6, 9):
        write_within(checkpoints, 1, steps)
    assert names() == ["iteration_0001", "iteration_0001-step_000016", "iteration_0001-step_000019"]
    write(checkpoints, 2)
    assert names() == ["iteration_0001", "iteration_0001-step_000019", "iteration_0002"]
    write_within(checkpoints, 2, 3)
    assert names() == ["iteration_0002", "iteration_0002-step_000023"]
    write(checkpoints, 3)
    write(checkpoints, 4)
    assert names() == ["iteration_0003", "iteration_0004"]


def test_what_a_checkpoint_within_an_iteration_needs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without the whole checkpoint of the iteration's start it is damaged; within the first iteration it needs none."""
    checkpoints = Checkpoints(tmp_path, keep=9)
    first = write_within(checkpoints, 0, 3)
    assert checkpoints.start_of(first) is None
    write(checkpoints, 1)
    start, within = tmp_path / "iteration_0001", write_within(checkpoints, 1, 3)
    assert checkpoints.start_of(within) == checkpoints.start_of(start) == start
    assert checkpoints.choose(None) == checkpoints.choose(Path("iteration_0001-step_000013")) == within
    flipped(start / "weights")
    with pytest.raises(ConfigError, match=r"--resume: iteration_0001-step_000013 is damaged: .*iteration_0001/weights"):
        checkpoints.choose(Path("iteration_0001-step_000013"))
    assert checkpoints.choose(None) == first
    assert caplog.text.count("is damaged") == 2
    (start / "state.json").unlink()
    assert "cannot be read" in (checkpoints.damage(within) or "")
    assert checkpoints.of_iteration(1) is None


def flipped(path: Path) -> None:
    """One bit of the file's middle is another one."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "has 100 bytes, of 256 that were written"),
        (lambda path: path.write_bytes(bytes(256)), "has other content than was written"),
        (flipped, "has other content than was written"),
    ],
)
def test_the_newest_whole_checkpoint_is_used_and_a_damaged_one_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], message: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for iteration in (1, 2, 3):
        write(checkpoints, iteration)
    damage(tmp_path / "iteration_0003" / "weights")
    assert checkpoints.choose(None) == tmp_path / "iteration_0002"
    assert "iteration_0003 is damaged: " in caplog.text
    assert message in caplog.text
    assert "iteration_0002 is used" in caplog.text
    with pytest.raises(ConfigError, match=rf"--resume: iteration_0003 is damaged: .*{message}.*choose another checkpoint"):
        checkpoints.choose(Path("iteration_0003"))


def test_damage_everywhere_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for iteration in (1, 2):
        write(checkpoints, iteration)
        flipped(tmp_path / f"iteration_{iteration:04d}" / "weights")
    with pytest.raises(ConfigError, match=r"every checkpoint is damaged: .*iteration_0002 is .*; .*iteration_0001 is damaged"):
        checkpoints.choose(None)


def test_evaluations_that_come_later_leave_the_manifest_valid(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    write(checkpoints, 1)
    checkpoints.commit(RunState(1, 10, 100), evaluations=[{"iteration": 0}, {"iteration": 1}])
    assert checkpoints.damage(tmp_path / "iteration_0001") is None


def test_a_removal_that_is_cut_off_leaves_no_checkpoint_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 1)
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: None)
    write(checkpoints, 2)
    assert checkpoints.complete() == [tmp_path / "iteration_0002"]
    assert [path.name for path in tmp_path.glob(".removed-*/weights")] == ["weights"], "it was cut off"
