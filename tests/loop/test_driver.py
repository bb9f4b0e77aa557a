"""The loop against fakes: what the roles are asked, in which order, with which version of the policy."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from raypref.config import RunConfig
from raypref.errors import DataError, LossNotFinite, SyncError
from raypref.loop.driver import Driver
from raypref.metrics import writer as metrics
from raypref.metrics.writer import MetricsWriter
from raypref.output import directory as output
from raypref.output.outcome import Outcome
from raypref.roles import Roles
from raypref.types import RunData
from tests.fakes import FakeLearner, FakeOracle, FakePolicy, FakeReference, FakeRollout, prompt


def make(
    tmp_path: Path,
    *,
    prompts: int = 24,
    held_out: int = 3,
    drops: frozenset[int] = frozenset(),
    recorded: frozenset[str] = frozenset(),
    **sections: Any,
) -> Driver:
    values: dict[str, Any] = {
        "output_dir": str(tmp_path),
        "policy": {"path": "unused", "dtype": "float32"},
        "loss": {"type": "sppo"},
        "selection": {"type": "best_worst"},
        "loop": {"iterations": 3},
        "rollout": {"responses": 3, "max_tokens": 8},
        "learner": {"global_batch": 4},
    }
    sections["evaluation"] = {"bootstrap_resamples": 50} | sections.get("evaluation", {})
    config = RunConfig.parse(values | sections)
    rollout, reference = FakeRollout(FakePolicy()), FakeReference()
    learner = FakeLearner(replicas=[rollout.policy, reference.policy])
    roles = Roles(learner=learner, rollout=rollout, oracle=FakeOracle(drops=drops), reference=reference)
    data = RunData(prompts=[prompt(k) for k in range(prompts)], held_out=[prompt(k, f"held{k}") for k in range(held_out)])
    return Driver(config, roles, data, metrics=MetricsWriter(tmp_path), recorded=recorded)


def finish(driver: Driver, **how: Any) -> Outcome:
    try:
        return asyncio.run(driver.run(**how))
    finally:
        driver.meter.writer.close()


def test_iterations_take_disjoint_prompts_in_order(tmp_path: Path) -> None:
    """24 prompts, 3 iterations of 8, batches of 4: steps 0-1 see prompts 0-7, steps 2-3 prompts 8-15, steps 4-5 prompts 16-23."""
    driver = make(tmp_path)
    outcome = finish(driver)
    assert driver.roles.learner.batches == [list(range(k, k + 4)) for k in range(0, 24, 4)]
    assert outcome.steps == 6
    assert driver.roles.learner.begun == [(0, 2), (1, 2), (2, 2)]
    assert driver.roles.oracle.sealed == [1, 2, 3]


def test_dropped_groups_leave_no_gap(tmp_path: Path) -> None:
    """Prompts 1 and 5 of the first eight are dropped: a full batch of four, then a short one of two; the next iteration starts at 8."""
    driver = make(tmp_path, prompts=16, drops=frozenset({1, 5}), loop={"iterations": 2})
    finish(driver)
    assert driver.roles.learner.batches == [[0, 2, 3, 4], [6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_groups_dropped_at_an_iterations_end_are_used_up(tmp_path: Path) -> None:
    """Prompts 4 to 7 of the first eight are dropped: the next iteration starts at 8 all the same."""
    driver = make(tmp_path, prompts=16, drops=frozenset({4, 5, 6, 7}), loop={"iterations": 2})
    finish(driver)
    assert driver.roles.learner.batches == [[0, 1, 2, 3], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_sync_interval_takes_as_many_prompts_as_its_steps_need(tmp_path: Path) -> None:
    """Interval 1 (online): each step's batch comes from the policy of the step before; the dropped prompt 2 pulls prompt 4 in."""
    driver = make(tmp_path, drops=frozenset({2}), loop={"iterations": 3, "sync_interval": 1})
    finish(driver)
    assert driver.roles.learner.batches == [[0, 1, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    versions = {r.prompt.index: r.policy_version for r in driver.roles.rollout.requests if r.prompt.id.startswith("p")}
    assert [versions[k] for k in (0, 4, 5, 8, 9, 12)] == [0, 0, 1, 1, 2, 2]


def test_an_online_run_seals_its_journal_where_a_checkpoint_is_due(tmp_path: Path) -> None:
    """Seven steps, each an iteration, with a checkpoint every three of them."""
    driver = make(tmp_path, prompts=40, held_out=0, loop={"steps": 7, "sync_interval": 1}, checkpoint={"every_steps": 3, "keep": 9})
    finish(driver)
    assert driver.roles.oracle.sealed == [3, 6, 7]
    assert [path.name for path in driver.checkpoints.complete()] == ["iteration_0003", "iteration_0006", "iteration_0007"]


def test_window_bounds_what_is_in_flight(tmp_path: Path) -> None:
    driver = make(tmp_path, held_out=0, loop={"iterations": 1, "window_groups": 5})
    finish(driver)
    assert 1 < driver.roles.rollout.most_in_flight <= 5


@pytest.mark.parametrize("interval", [{}, {"sync_interval": 2}])
def test_overlap_changes_nothing(tmp_path: Path, interval: dict[str, int]) -> None:
    drops = frozenset({3, 9, 10})
    runs = []
    for overlap in (True, False):
        driver = make(tmp_path / str(overlap), drops=drops, loop={"iterations": 2, "overlap": overlap} | interval)
        finish(driver)
        runs.append((driver.roles.learner.batches, driver.roles.learner.value))
    assert runs[0] == runs[1]


def test_learner_starts_while_engines_still_sample(tmp_path: Path) -> None:
    """With a window of 8 and batches of 4, the first step is taken before the last of 24 prompts is asked for."""
    asked_at_first_step: list[int] = []
    driver = make(tmp_path, held_out=0, loop={"iterations": 1, "window_groups": 8})
    step = driver.roles.learner.step

    async def watched(batch: Any) -> Any:
        asked_at_first_step.append(len(driver.roles.rollout.requests))
        return await step(batch)

    driver.roles.learner.step = watched  # type: ignore[method-assign]
    finish(driver)
    assert asked_at_first_step[0] <= 12


@pytest.mark.parametrize("overlap", [True, False])
def test_engines_sample_while_the_policy_before_is_evaluated_and_saved(tmp_path: Path, overlap: bool) -> None:
    """Iterations of 8 prompts, window 5. When the learner begins to save pi_1, the engines have been asked for the 5 prompts from 8 on,
    after the 3 held-out ones, and no step of that iteration is taken; without overlap pi_1 is saved before anything is asked. The
    checkpoint knows the evaluation."""
    asked: list[list[str]] = []
    driver = make(tmp_path, loop={"iterations": 2, "prompts_per_iteration": 8, "window_groups": 5, "overlap": overlap})
    save = driver.roles.learner.save

    async def watched(directory: Path, policy: Path | None = None) -> None:
        await asyncio.sleep(0.05)
        asked.append([r.prompt.id for r in driver.roles.rollout.requests if r.policy_version == len(asked) + 1])
        assert len(driver.roles.learner.batches) == 2 * len(asked)
        await save(directory, policy)

    driver.roles.learner.save = watched  # type: ignore[method-assign]
    finish(driver)
    held = ["held0", "held1", "held2"]
    assert asked == [held + [f"p{k}" for k in range(8, 13)] if overlap else [], []]
    state, evaluations = driver.checkpoints.read(driver.checkpoints.complete()[0])
    assert (state.iteration, state.step, state.cursor) == (1, 2, 8)
    assert [entry["iteration"] for entry in evaluations] == [1]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_failed_evaluation_does_not_lose_the_policy(tmp_path: Path, overlap: bool) -> None:
    """The judge goes down in the evaluation of pi_1: the checkpoint of iteration 1 is complete and can be continued from."""
    driver = make(tmp_path, loop={"iterations": 2, "overlap": overlap})

    async def down(challenger: Any, defender: Any) -> Any:
        await asyncio.sleep(0.05)
        raise OSError("judge down")

    driver.roles.oracle.compare = down  # type: ignore[method-assign]
    with pytest.raises(OSError, match="judge down"):
        finish(driver)
    state, evaluations = driver.checkpoints.read(driver.checkpoints.complete()[-1])
    assert (state.iteration, evaluations) == (1, [])


def test_a_failure_of_the_sampling_ahead_surfaces_at_once(tmp_path: Path) -> None:
    """Judging fails while pi_1 is evaluated for a minute: the judge's error surfaces, and the evaluation is not waited for."""
    driver = make(tmp_path, loop={"iterations": 2, "prompts_per_iteration": 8})
    judge = driver.roles.oracle.judge

    async def fails_later(rollout: Any, partner: Any = None) -> Any:
        if rollout.policy_version == 1:
            raise ValueError("first cause")
        return await judge(rollout, partner)

    async def slow(challenger: Any, defender: Any) -> Any:
        await asyncio.sleep(60)

    driver.roles.oracle.judge = fails_later  # type: ignore[method-assign]
    driver.roles.oracle.compare = slow  # type: ignore[method-assign]
    start = time.monotonic()
    with pytest.raises(ValueError, match="first cause"):
        finish(driver)
    assert time.monotonic() - start < 20


def test_failure_while_the_engines_sample_ahead_is_what_surfaces(tmp_path: Path) -> None:
    """The disk is full when pi_1 is saved: that error surfaces, no checkpoint is complete, and no task of the next iteration is left."""
    driver = make(tmp_path)

    async def full(*_: Path | None) -> None:
        await asyncio.sleep(0.001)
        raise OSError("no space left")

    driver.roles.learner.save = full  # type: ignore[method-assign]

    async def run() -> int:
        with pytest.raises(OSError, match="no space left"):
            await driver.run()
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1
    driver.meter.writer.close()
    assert driver.checkpoints.complete() == []


def test_second_epoch_sees_the_same_examples_in_another_order(tmp_path: Path) -> None:
    driver = make(tmp_path, prompts=8, loop={"iterations": 1}, learner={"global_batch": 4, "epochs": 2})
    finish(driver)
    first, second = driver.roles.learner.batches[:2], driver.roles.learner.batches[2:]
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second))
    assert first != second
    assert driver.roles.learner.begun == [(0, 4)]


def test_evaluation_against_base_and_previous(tmp_path: Path) -> None:
    """The fake policy only grows, so every later policy wins every match; the interval of a constant is a point."""
    outcome = finish(make(tmp_path))
    assert [entry["iteration"] for entry in outcome.evaluations] == [1, 2, 3]
    assert all(entry[opponent]["win_rate"] == 1.0 for entry in outcome.evaluations for opponent in ("base", "previous"))
    asked = [entry["oracle"]["oracle/requests_total"] for entry in outcome.evaluations]
    assert asked == [2.0 * 3] * 3, "against the base and against the iteration before"
    lines = (tmp_path / "evaluation" / "iteration_0003_against_base.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[0])["defender"] == "0"


def test_resume_continues_exactly(tmp_path: Path) -> None:
    """A run that is stopped after its first iteration and continued takes the same batches to the same value."""
    whole = make(tmp_path / "whole")
    finish(whole)
    stopped = make(tmp_path / "part")
    stopped.roles.learner.fail_at_step = 2
    with pytest.raises(LossNotFinite):
        finish(stopped)
    continued = make(tmp_path / "part")
    outcome = finish(continued, resume_from=continued.checkpoints.complete()[-1])
    assert stopped.roles.learner.batches + continued.roles.learner.batches == whole.roles.learner.batches
    assert continued.roles.learner.value == whole.roles.learner.value
    assert [entry["iteration"] for entry in outcome.evaluations] == [1, 2, 3]


@pytest.mark.parametrize("loop", [{"prompts_per_iteration": 6}, {"sync_interval": 2}])
def test_a_longer_run_is_the_one_that_was_planned_longer(tmp_path: Path, loop: dict[str, int]) -> None:
    """Two iterations, and two more after they are finished, are four: the same batches, value and evaluations."""
    schedule = {"global_batch": 3, "schedule": {"span": "iteration"}}
    whole = make(tmp_path / "whole", loop=loop | {"iterations": 4}, learner=schedule)
    planned = finish(whole)
    short = make(tmp_path / "part", loop=loop | {"iterations": 2}, learner=schedule)
    finish(short)
    longer = make(tmp_path / "part", loop=loop | {"iterations": 4}, learner=schedule)
    output._write_config(short.config)
    newest = output.resume(longer.config, longer.data)
    output.rewind(longer.config, newest)
    outcome = finish(longer, resume_from=newest)
    assert short.roles.learner.batches + longer.roles.learner.batches == whole.roles.learner.batches
    assert longer.roles.learner.value == whole.roles.learner.value
    assert outcome.evaluations[-1]["iteration"] == planned.evaluations[-1]["iteration"] == 4


def test_the_policy_of_every_iteration_is_a_model_directory(tmp_path: Path) -> None:
    """The newest two of four are kept; each holds the learner's value at the end of its iteration."""
    driver = make(tmp_path, loop={"iterations": 4}, checkpoint={"policies": 2})
    values: list[float] = []
    sync = driver.roles.learner.sync

    async def watched(*arguments: Any) -> Any:
        values.append(driver.roles.learner.value)
        return await sync(*arguments)

    driver.roles.learner.sync = watched
    finish(driver)
    policies = sorted(path.name for path in (tmp_path / "policies").iterdir())
    assert policies == ["iteration_0003", "iteration_0004"]
    assert [json.loads((tmp_path / "policies" / name / "config.json").read_text()) for name in policies] == values[3:]


def test_a_policy_that_a_killed_run_did_not_write_is_written_when_it_is_resumed(tmp_path: Path) -> None:
    """It was killed between the checkpoint and the model directory."""
    driver = make(tmp_path, checkpoint={"policies": 1})
    finish(driver)
    saved = tmp_path / "policies" / "iteration_0003"
    expected = (saved / "config.json").read_text()
    shutil.rmtree(saved)
    again = make(tmp_path, checkpoint={"policies": 1})
    finish(again, resume_from=again.checkpoints.complete()[-1])
    assert (saved / "config.json").read_text() == expected
    assert again.roles.learner.exported == [tmp_path / "policies" / ".partial", tmp_path / ".policy.partial"]


def test_no_policy_of_an_iteration_is_wanted(tmp_path: Path) -> None:
    driver = make(tmp_path, checkpoint={"policies": 0})
    finish(driver)
    assert driver.roles.learner.exported == [tmp_path / ".policy.partial"]


def test_loss_that_is_not_finite_stops_the_run_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    driver = make(tmp_path)
    driver.roles.learner.fail_at_step = 3
    with pytest.raises(LossNotFinite, match="batch written to"):
        finish(driver)
    assert (tmp_path / "policy_before_failure" / "config.json").exists()
    assert [path.name for path in driver.checkpoints.complete()] == ["iteration_0001"]


def test_engine_with_other_weights_stops_the_run(tmp_path: Path) -> None:
    driver = make(tmp_path)
    driver.roles.learner.replicas = []
    driver.roles.learner.value = 1.0
    with pytest.raises(SyncError, match="on their way to rollout-0; the first is weight"):
        finish(driver)


def test_given_examples_need_no_engine(tmp_path: Path) -> None:
    driver = make(tmp_path)
    rollouts = [
        driver.roles.rollout._answer(driver.requests.build(prompt(k), 2, purpose="train", iteration=0, policy_version=0)) for k in range(6)
    ]
    examples = [asyncio.run(driver.roles.oracle.judge(rollout))[1][0] for rollout in rollouts]
    driver.meter.writer.close()
    config = driver.config.model_copy(update={"selection": None, "loop": driver.config.loop.model_copy(update={"iterations": 1})})
    learner = FakeLearner()
    finish(Driver(config, Roles(learner=learner), RunData(examples=examples), metrics=MetricsWriter(tmp_path)))
    assert learner.batches == [[0, 1, 2, 3], [4, 5]]


def test_metrics_are_written(tmp_path: Path) -> None:
    finish(make(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0]["rollout/tokens"] == 6.0
    assert {line["sync/logprob_difference_max"] for line in lines if "sync/logprob_difference_max" in line} == {0.0}
    assert any((tmp_path / "tensorboard").iterdir())


def test_metrics_tell_where_the_time_of_each_iteration_went(tmp_path: Path) -> None:
    """Three iterations of two steps. The last evaluation comes after the last line; the three lines cover all of the training."""
    outcome = finish(make(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    times = [line for line in lines if "time/iteration_s" in line]
    assert [line["step"] for line in times] == [2, 4, 6]
    stages = {f"time/{stage}_s" for stage in ("rollout", "judge", "reference", "train", "sync", "evaluate")}
    assert all(stages <= line.keys() for line in times)
    assert all(line[stage] <= line["time/iteration_s"] for line in times for stage in stages)
    assert sum(line["time/train_s"] for line in times) == pytest.approx(outcome.seconds["train"], abs=0.01)


def test_time_before_the_run_is_not_the_first_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is built 1000 seconds before it runs; in between the roles are connected."""
    with monkeypatch.context() as earlier:
        now = time.monotonic()
        earlier.setattr(metrics.time, "monotonic", lambda: now - 1000.0)
        driver = make(tmp_path)
    finish(driver)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["time/iteration_s"] < 1000 for line in lines if "time/iteration_s" in line)


def test_online_evaluations_and_checkpoints_are_counted_in_steps(tmp_path: Path) -> None:
    """6 online steps, evaluated every 2 and saved every 4: after steps 2, 4 and 6, and after 4 and 6 (the end). The batches are those of
    ``iterations: 6``."""
    sections: dict[str, Any] = {"evaluation": {"every_steps": 2}, "checkpoint": {"every_steps": 4, "keep": 9}}
    driver = make(tmp_path / "steps", loop={"steps": 6, "sync_interval": 1}, **sections)
    outcome = finish(driver)
    assert [entry["iteration"] for entry in outcome.evaluations] == [2, 4, 6]
    assert [path.name for path in driver.checkpoints.complete()] == ["iteration_0004", "iteration_0006"]
    _, evaluations = driver.checkpoints.read(driver.checkpoints.complete()[0])
    assert [entry["iteration"] for entry in evaluations] == [2, 4]
    assert outcome.steps == 6
    counted = make(tmp_path / "iterations", loop={"iterations": 6, "sync_interval": 1}, evaluation={"every": 1})
    assert len(finish(counted).evaluations) == 6
    assert counted.roles.learner.batches == driver.roles.learner.batches


def test_a_checkpoint_in_steps_falls_on_the_first_sync_at_or_after_it(tmp_path: Path) -> None:
    """Syncs after steps 3, 6, 9, 12, 15: every 5 steps is after 6 (5 is past), 12 (10) and 15."""
    sections: dict[str, Any] = {"evaluation": {"every": 0}, "checkpoint": {"every_steps": 5, "keep": 9}}
    driver = make(tmp_path, prompts=60, loop={"steps": 15, "sync_interval": 3}, **sections)
    finish(driver)
    states = [driver.checkpoints.read(path)[0] for path in driver.checkpoints.complete()]
    assert [(state.iteration, state.step) for state in states] == [(2, 6), (4, 12), (5, 15)]


def test_short_online_runs_are_evaluated_and_saved_at_their_end_by_default(tmp_path: Path) -> None:
    driver = make(tmp_path, loop={"steps": 3, "sync_interval": 1})
    outcome = finish(driver)
    assert [entry["iteration"] for entry in outcome.evaluations] == [3]
    assert [path.name for path in driver.checkpoints.complete()] == ["iteration_0003"]


def test_an_online_run_continues_exactly_from_a_checkpoint_between_others(tmp_path: Path) -> None:
    """Stopped in step 6, saved after step 4, and after step 5 as the run failed. From the former, steps 5 and 6 are repeated."""
    sections: dict[str, Any] = {"loop": {"steps": 6, "sync_interval": 1}, "checkpoint": {"every_steps": 4, "keep": 9}}
    whole = make(tmp_path / "whole", **sections)
    finish(whole)
    stopped = make(tmp_path / "part", **sections)
    stopped.roles.learner.fail_at_step = 5
    with pytest.raises(LossNotFinite):
        finish(stopped)
    names = [path.name for path in stopped.checkpoints.complete()]
    assert names == ["iteration_0004", "iteration_0005"]
    for name, steps in zip(reversed(names), (5, 4), strict=True):
        continued = make(tmp_path / "part", **sections)
        finish(continued, resume_from=continued.checkpoints.choose(Path(name)))
        assert continued.roles.learner.batches == whole.roles.learner.batches[steps:]
        assert continued.roles.learner.value == whole.roles.learner.value


def test_when_the_prompts_are_used_up_the_policy_so_far_is_saved(tmp_path: Path) -> None:
    """24 prompts, 12 of them dropped: three online steps of four; the fourth has no example. The policy after step 3 is saved."""
    driver = make(tmp_path, drops=frozenset(range(1, 24, 2)), loop={"steps": 6, "sync_interval": 1})
    with pytest.raises(DataError, match=r"iteration 4 \(after step 3\) has no training example"):
        finish(driver)
    state, _ = driver.checkpoints.read(driver.checkpoints.complete()[-1])
    assert (state.iteration, state.step, driver.roles.learner.value) == (3, 3, json.loads(_saved(driver)))


def test_a_last_iteration_that_is_cut_short_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two iterations of 3 steps need 24 prompts; two are dropped, so that the last batch has two examples, and of 10 dropped a step is
    missing."""
    finish(make(tmp_path / "whole", loop={"steps": 6, "sync_interval": 3}))
    assert "used up" not in caplog.text
    finish(make(tmp_path / "short", drops=frozenset(range(14, 24)), loop={"steps": 6, "sync_interval": 3}))
    assert "the data was used up after step 4 of 6" in caplog.text


def _saved(driver: Driver) -> str:
    return (driver.checkpoints.complete()[-1] / "learner" / "value.json").read_text()
