"""Checkpoints are written while training goes on: what is complete when, what an error of the writer does, and which one is the best."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypref.errors import ActorFailed, ObjectLost
from raypref.loop.driver import Driver
from tests.loop.test_driver import finish, make


def saved(directory: Path) -> list[str]:
    return sorted(path.parent.name for path in (directory / "checkpoints").glob("*/state.json"))


class SlowWriter:
    """The fake learner's checkpoints are written when ``may_end`` says so; it is asked with the number of steps so far."""

    def __init__(self, driver: Driver, may_end: Any) -> None:
        self.learner: Any = driver.roles.learner
        self.log: list[tuple[str, int]] = []
        save = self.learner.save

        async def begun(directory: Path, policy: Path | None = None) -> None:
            self.log.append(("save", len(self.learner.batches)))
            await save(directory, policy)

        async def written() -> bool:
            if may_end(len(self.learner.batches)):
                self.log.append(("written", len(self.learner.batches)))
                return True
            return False

        self.learner.save, self.learner.saved = begun, written


@pytest.mark.parametrize("overlap", [True, False])
def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, overlap: bool) -> None:
    """Two steps an iteration. pi_1 is saved after 2 steps and written a step later, and complete only then; what it says of the evaluation
    comes after that. pi_2 waits for it, and the end for pi_3."""
    driver = make(tmp_path, prompts=24, loop={"iterations": 3, "overlap": overlap})
    learner: Any = driver.roles.learner
    before_step: list[list[str]] = []
    step = learner.step

    async def watched(batch: Any) -> Any:
        before_step.append(saved(tmp_path))
        if len(before_step) in (4, 6):  # the fourth step ends once pi_1 is complete
            await until(lambda: f"iteration_000{len(before_step) // 2 - 1}" in saved(tmp_path))
        return await step(batch)

    learner.step = watched
    writer = SlowWriter(driver, lambda steps: steps % 2 == 1 or steps == 6)
    finish(driver)
    assert [steps for what, steps in writer.log if what == "save"] == [2, 4, 6]
    assert [steps for what, steps in writer.log if what == "written"] == [3, 5, 6]
    assert before_step[2] == []
    assert before_step[4] == ["iteration_0001"]
    assert saved(tmp_path) == ["iteration_0002", "iteration_0003"]
    for path in driver.checkpoints.complete():
        assert driver.checkpoints.damage(path) is None
        state, evaluations = driver.checkpoints.read(path)
        assert [entry["iteration"] for entry in evaluations] == list(range(1, state.iteration + 1)), "those so far, not later ones"
    assert json.loads((tmp_path / "policies" / "iteration_0002" / "config.json").read_text()) != learner.value
    assert not (tmp_path / "policies" / ".partial").exists()


def test_the_error_of_the_writer_ends_the_run_at_the_next_step(tmp_path: Path) -> None:
    driver = make(tmp_path, prompts=24, held_out=0, loop={"iterations": 3})
    learner: Any = driver.roles.learner
    step, begun, failed = learner.step, False, False

    def may_end(steps: int) -> bool:
        nonlocal failed
        if steps == 4:
            if not begun:
                return False
            failed = True
            raise ActorFailed("learner-1: saved: [Errno 28] No space left on device: 'x'", ["learner-1"])
        return True

    async def watched(batch: Any) -> Any:
        nonlocal begun
        if len(learner.batches) == 4:
            begun = True
            await until(lambda: failed)
        return await step(batch)

    learner.step = watched
    SlowWriter(driver, may_end)
    with pytest.raises(ActorFailed, match=r"learner-1: saved: .* No space left"):
        finish(driver)
    assert len(learner.batches) == 5
    assert saved(tmp_path) == ["iteration_0001"]


def test_a_full_disk_under_the_manifest_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make(tmp_path, prompts=24, held_out=0, loop={"iterations": 3})
    step, failed = driver.roles.learner.step, threading.Event()

    async def watched(batch: Any) -> Any:
        if len(driver.roles.learner.batches) == 2:  # type: ignore[attr-defined]
            await until(failed.is_set)
            await asyncio.sleep(0.05)
        return await step(batch)

    driver.roles.learner.step = watched  # type: ignore[method-assign]

    def full(*_: Any) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device", "manifest.json")

    monkeypatch.setattr(driver.checkpoints, "complete_files", full)
    with pytest.raises(OSError, match="No space left"):
        finish(driver)
    assert len(driver.roles.learner.batches) < 6  # type: ignore[attr-defined]
    assert saved(tmp_path) == []


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("role", ["oracle-0", "learner-0", "learner-0's batch", "SIGTERM"])
def test_what_is_being_written_when_the_run_ends(tmp_path: Path, role: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is complete before the run ends with another role's failure, or at SIGTERM; also where a batch was lost on its way to a learner
    that lives. A learner that failed cannot complete it, and the log says so."""
    driver = make(tmp_path, prompts=24, held_out=0, loop={"iterations": 3}, checkpoint={"keep": 9})
    learner: Any = driver.roles.learner
    ended = False

    async def step(batch: Any, healthy: Any = learner.step) -> Any:
        nonlocal ended
        if len(learner.batches) < 3:
            return await healthy(batch)
        ended = True
        if role == "SIGTERM":
            raise asyncio.CancelledError
        if role == "learner-0's batch":
            raise ObjectLost("learner-0: step: Ray's object store: ObjectLostError: gone")
        raise ActorFailed(f"{role} died", [role])

    learner.step = step
    SlowWriter(driver, lambda steps: ended)
    with pytest.raises((ActorFailed, asyncio.CancelledError)):
        finish(driver)
    assert saved(tmp_path) == ([] if role == "learner-0" else ["iteration_0001"])
    assert ("the checkpoint iteration_0001 is not completed: a rank of the learner" in caplog.text) == (role == "learner-0")


def test_what_the_learner_has_written_is_completed_although_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make(tmp_path, prompts=24, held_out=0, loop={"iterations": 3})
    learner: Any = driver.roles.learner
    failed, complete = threading.Event(), driver.checkpoints.complete_files

    async def step(batch: Any, healthy: Any = learner.step) -> Any:
        if len(learner.batches) < 3:
            return await healthy(batch)
        failed.set()
        raise ActorFailed("learner-0 died", ["learner-0"])

    def slow(state: Any) -> None:
        assert failed.wait(20)
        complete(state)

    learner.step = step
    monkeypatch.setattr(driver.checkpoints, "complete_files", slow)
    with pytest.raises(ActorFailed, match="learner-0"):
        finish(driver)
    assert saved(tmp_path) == ["iteration_0001"]


@pytest.mark.parametrize("written", [True, False])
def test_a_save_that_the_end_of_the_run_meets_is_completed_and_not_begun_again(tmp_path: Path, written: bool) -> None:
    """SIGTERM while the learner copies its state: nobody could take that back, and its thread would write into what is begun anew."""
    driver = make(tmp_path, prompts=24, held_out=0, loop={"iterations": 3, "overlap": False})
    learner: Any = driver.roles.learner
    save, begun = learner.save, asyncio.Event()
    calls: list[Path] = []

    async def remote(directory: Path, policy: Path | None = None) -> None:
        async def work() -> None:
            calls.append(directory)
            begun.set()
            await asyncio.sleep(0.05)
            await save(directory, policy)
            if not written:
                raise OSError(errno.ENOSPC, "No space left on device", "x")

        await asyncio.wait([asyncio.ensure_future(work())])  # goes on although nobody waits for it
        if not written:
            raise OSError(errno.ENOSPC, "No space left on device", "x")

    async def stopped() -> None:
        run = asyncio.ensure_future(driver.run())
        await begun.wait()
        run.cancel()
        await run

    learner.save = remote
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped())
    driver.meter.writer.close()
    assert calls == [tmp_path / "checkpoints" / "iteration_0001" / "learner"]
    assert saved(tmp_path) == (["iteration_0001"] if written else [])


def worse_later(driver: Driver) -> None:
    """The policies of iterations 2 and 3 lose against the base policy."""
    oracle: Any = driver.roles.oracle
    compare = oracle.compare

    async def compared(challenger: Any, defender: Any) -> Any:
        found = await compare(challenger, defender)
        return replace(found, win_rate=0.3) if challenger.policy_version in (2, 3) and defender.policy_version == 0 else found

    oracle.compare = compared


def test_the_best_checkpoint_and_its_policy_stay_and_are_named(tmp_path: Path) -> None:
    """Win rates 1.0, 0.3, 0.3, 1.0, ...: the newest of the best is the last of five, and while it is not there yet the first one stays. A
    run that is resumed knows it, too."""
    sections: dict[str, Any] = {"prompts": 40, "loop": {"iterations": 5}, "checkpoint": {"keep": 1, "policies": 1}}
    stopped = make(tmp_path, **sections)
    worse_later(stopped)
    learner: Any = stopped.roles.learner
    learner.fail_at_step = 7
    with pytest.raises(Exception, match="loss is NaN"):
        finish(stopped)
    assert saved(tmp_path) == ["iteration_0001", "iteration_0003"]
    assert {path.name for path in (tmp_path / "policies").iterdir()} == {"iteration_0001", "iteration_0003"}
    continued = make(tmp_path, **sections | {"loop": {"iterations": 4}})
    worse_later(continued)

    async def compare(challenger: Any, defender: Any, instead: Any = continued.roles.oracle.compare) -> Any:  # type: ignore[union-attr]
        found = await instead(challenger, defender)
        return replace(found, win_rate=0.6) if challenger.policy_version == 4 and defender.policy_version == 0 else found

    continued.roles.oracle.compare = compare  # type: ignore[union-attr, method-assign]
    outcome = finish(continued, resume_from=continued.checkpoints.complete()[-1])
    assert saved(tmp_path) == ["iteration_0001", "iteration_0004"]
    assert outcome.best == {
        "checkpoint": str(tmp_path / "checkpoints" / "iteration_0001"),
        "policy": str(tmp_path / "policies" / "iteration_0001"),
        "iteration": 1,
        "step": 2,
        "win_rate_against_base": 1.0,
    }


def test_the_best_is_not_kept_where_nobody_wants_it(tmp_path: Path) -> None:
    driver = make(tmp_path, checkpoint={"keep": 1, "policies": 1, "best": False})
    worse_later(driver)
    assert finish(driver).best is None
    assert saved(tmp_path) == ["iteration_0003"]
