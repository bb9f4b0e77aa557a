"""What a failure costs: a finished iteration is never lost to the failure of something else than the learner."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raypref.errors import ActorFailed, InputSetAside, LossNotFinite, RunFailed
from raypref.loop.driver import Driver
from raypref.output.failure import as_run_failure
from raypref.output.set_aside import SetAside
from tests.loop.test_driver import finish, make


def saved(driver: Driver) -> list[str]:
    return [path.name for path in driver.checkpoints.complete()]


def failing(actor: str, when: Any) -> Any:
    """A method that fails, as that of an actor that died, once ``when()``; before, it does what ``instead`` does."""

    def method(instead: Any) -> Any:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            if when():
                raise ActorFailed(f"{actor} died", [actor])
            return await instead(*arguments, **keywords)

        return call

    return method


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("role", "method"), [("oracle", "seal"), ("learner", "sync"), ("oracle", "judge"), ("reference", "score")])
def test_a_trained_iteration_outlives_the_failure_of_another_role(tmp_path: Path, role: str, method: str, overlap: bool) -> None:
    """The oracle or the reference fails after the two steps of iteration 1: while it is sealed, in the sync, or as iteration 2 begins."""
    driver = make(tmp_path, prompts=16, held_out=0, loop={"iterations": 2, "overlap": overlap})
    part = getattr(driver.roles, role)
    setattr(part, method, failing("oracle-0", lambda: len(driver.roles.learner.batches) == 2)(getattr(part, method)))
    with pytest.raises(ActorFailed, match="oracle-0 died"):
        finish(driver)
    assert saved(driver) == ["iteration_0001"]
    state, _ = driver.checkpoints.read(driver.checkpoints.complete()[0])
    assert (state.iteration, state.step, state.cursor) == (1, 2, 8)


def test_a_save_under_way_is_not_cancelled_by_a_failure_beside_it(tmp_path: Path) -> None:
    driver = make(tmp_path, prompts=16, held_out=0, loop={"iterations": 2})
    save, saving, failed = driver.roles.learner.save, asyncio.Event(), asyncio.Event()

    async def slow(directory: Path, policy: Path | None = None) -> None:
        saving.set()
        await failed.wait()
        await asyncio.sleep(0.05)
        await save(directory, policy)

    async def judge(*_: Any) -> Any:
        await saving.wait()
        failed.set()
        raise ActorFailed("oracle-0 died", ["oracle-0"])

    healthy = driver.roles.oracle.judge
    driver.roles.learner.save = slow
    driver.roles.oracle.judge = lambda *arguments: judge() if len(driver.roles.learner.batches) == 2 else healthy(*arguments)
    with pytest.raises(ActorFailed, match="oracle-0 died"):
        finish(driver)
    assert saved(driver) == ["iteration_0001"]


def test_the_policy_of_an_open_iteration_is_not_taken_for_that_of_a_finished_one(tmp_path: Path) -> None:
    """The reference fails between the two steps of iteration 2. What the learner holds then is not pi_1."""
    driver = make(tmp_path, prompts=16, held_out=0, loop={"iterations": 2, "window_groups": 4}, checkpoint={"keep": 5})
    part, save = driver.roles.reference, driver.roles.learner.save
    steps: list[int] = []

    async def watched(directory: Path, policy: Path | None = None) -> None:
        steps.append(len(driver.roles.learner.batches))
        await save(directory, policy)

    driver.roles.learner.save = watched
    part.score = failing("reference-0", lambda: len(driver.roles.learner.batches) == 3)(part.score)
    with pytest.raises(ActorFailed):
        finish(driver)
    assert saved(driver) == ["iteration_0001"]
    assert steps == [2]


def test_a_learner_that_failed_is_not_asked_to_save(tmp_path: Path) -> None:
    driver = make(tmp_path, prompts=16, held_out=0, loop={"iterations": 2})
    part = driver.roles.learner
    part.sync = failing("learner-1", lambda: len(part.batches) == 2)(part.sync)
    with pytest.raises(ActorFailed, match="learner-1"):
        finish(driver)
    assert not driver.checkpoints.directory.exists()


def test_who_cannot_be_saved_does_not_hide_the_first_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    driver = make(tmp_path, prompts=16, held_out=0, loop={"iterations": 2})

    async def full(*_: Path | None) -> None:
        raise OSError(28, "No space left on device")

    driver.roles.learner.save = full
    part = driver.roles.oracle
    part.seal = failing("oracle-0", lambda: True)(part.seal)
    with pytest.raises(ActorFailed, match="oracle-0 died"):
        finish(driver)
    assert "the policy of iteration 1 could not be saved" in caplog.text
    assert saved(driver) == []


def test_a_failed_run_says_what_where_why_and_how_it_goes_on(tmp_path: Path) -> None:
    driver = make(tmp_path, prompts=16, held_out=0, loop={"iterations": 2})
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "oracle-1.log").write_text("".join(f"line {k}\n" for k in range(1000)))
    part = driver.roles.oracle
    part.seal = failing("oracle-1", lambda: True)(part.seal)
    with pytest.raises(RunFailed) as caught, as_run_failure(driver.config, lambda: driver.iterations.moment(driver.state)):
        finish(driver)
    assert str(caught.value).splitlines() == [
        "oracle-1 died (iteration 2, after step 2)",
        f"the end of its log, {tmp_path}/logs/oracle-1.log:",
        *(f"  line {k}" for k in range(995, 1000)),
        f"--resume continues from {tmp_path}/checkpoints/iteration_0001 (after iteration 1, step 2)",
    ]


def test_a_full_disk_is_the_runs_failure_and_a_missing_file_is_not(tmp_path: Path) -> None:
    driver = make(tmp_path)
    driver.meter.writer.close()
    config = driver.config
    with pytest.raises(RunFailed, match=r"No space left on device.*metrics\.jsonl.*\(at the start\)\nno iteration"):
        with as_run_failure(config, lambda: "at the start"):
            raise OSError(28, "No space left on device", str(tmp_path / "metrics.jsonl"))
    with pytest.raises(FileNotFoundError), as_run_failure(config, lambda: "at the start"):
        raise FileNotFoundError("the user's own")


def test_what_was_judged_before_the_interruption_is_not_sampled_again(tmp_path: Path) -> None:
    """Stopped in iteration 2. What the journal holds of pi_1 is recalled, to the same result; groups of other weights are not."""
    whole = make(tmp_path / "whole", prompts=16, held_out=0, loop={"iterations": 2})
    finish(whole)
    stopped = make(tmp_path / "part", prompts=16, held_out=0, loop={"iterations": 2, "window_groups": 4})
    part = stopped.roles.reference
    part.score = failing("reference-0", lambda: len(stopped.roles.learner.batches) == 3)(part.score)
    with pytest.raises(ActorFailed):
        finish(stopped)
    judged = {item.origin: item for item in stopped.roles.oracle.judged}
    assert len(judged) == len(stopped.roles.oracle.judged), "every group has an origin of its own"
    assert set(judged) <= {item.origin for item in whole.roles.oracle.judged}, "and the same one in every run"
    kept = {origin: item for origin, item in judged.items() if item.policy_version == 1}
    assert len(kept) >= 4

    continued = make(tmp_path / "part", prompts=16, held_out=0, loop={"iterations": 2}, recorded=frozenset(judged))
    continued.roles.oracle.recorded = kept
    finish(continued, resume_from=continued.checkpoints.complete()[-1])
    asked = [item.prompt.index for item in continued.roles.rollout.requests if item.origin]
    assert sorted(asked) == sorted({*range(8, 16)} - {item.prompt.index for item in kept.values()})
    assert continued.roles.learner.batches == whole.roles.learner.batches[2:]
    assert continued.roles.learner.value == whole.roles.learner.value


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("stopped_at", [1, 2])
def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path: Path, stopped_at: int, every: int) -> None:
    """Stopped after pi_t was saved and before it was evaluated; the results are those of the run that went through."""
    sections: dict[str, Any] = {"prompts": 24, "loop": {"iterations": 3}, "evaluation": {"every": every}, "checkpoint": {"keep": 5}}
    whole = make(tmp_path / "whole", **sections)
    planned = finish(whole)
    stopped = make(tmp_path / "part", **sections)
    part = stopped.roles.oracle
    part.compare = failing("oracle-0", lambda: stopped.state.iteration == stopped_at)(part.compare)
    part.judge = failing("oracle-0", lambda: stopped.state.iteration == stopped_at)(part.judge)
    with pytest.raises(ActorFailed):
        finish(stopped)
    continued = make(tmp_path / "part", **sections)
    outcome = finish(continued, resume_from=continued.checkpoints.choose(Path(f"iteration_{stopped_at:04d}")))
    assert outcome.evaluations == planned.evaluations
    assert [entry["iteration"] for entry in outcome.evaluations] == ([1, 2, 3] if every == 1 else [2, 3])
    names = {path.name: path.read_text() for path in (tmp_path / "whole" / "evaluation").iterdir()}
    assert {path.name: path.read_text() for path in (tmp_path / "part" / "evaluation").iterdir()} == names
    assert continued.roles.learner.value == whole.roles.learner.value


def test_a_resumed_run_writes_no_metric_of_what_it_repeats(tmp_path: Path) -> None:
    import json

    def lines(directory: Path) -> list[tuple[int, list[str]]]:
        read = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], sorted(name for name in line if not name.startswith(("time", "tokens_per")))) for line in read]

    whole = make(tmp_path / "whole", prompts=16, held_out=0, loop={"iterations": 2, "overlap": False})
    finish(whole)
    stopped = make(tmp_path / "part", prompts=16, held_out=0, loop={"iterations": 2, "overlap": False})
    part = stopped.roles.oracle
    part.judge = failing("oracle-0", lambda: stopped.state.iteration == 1)(part.judge)
    with pytest.raises(ActorFailed):
        finish(stopped)
    continued = make(tmp_path / "part", prompts=16, held_out=0, loop={"iterations": 2, "overlap": False})
    finish(continued, resume_from=continued.checkpoints.complete()[-1])
    assert lines(tmp_path / "part") == lines(tmp_path / "whole")


def test_other_weights_settings_or_prompts_have_another_origin(tmp_path: Path) -> None:
    def origins(name: str, shift: float = 0.0, **sections: Any) -> set[str]:
        driver = make(tmp_path / name, prompts=8, held_out=0, loop={"iterations": 1}, **sections)
        driver.roles.learner.value += shift
        finish(driver)
        return {item.origin for item in driver.roles.oracle.judged}

    base = origins("base")
    assert len(base) == 8
    assert origins("again") == base
    assert origins("moved", placement={"rollout": {"engines": 2}}) == base, "where it runs changes no group"
    for name, change in (
        ("eta", {"loss": {"type": "sppo", "eta": 7}}),
        ("seed", {"seed": 5}),
        ("judging", {"judging": {"tie_margin": 0.1}}),
    ):
        assert not origins(name, **change) & base, name
    assert not origins("weights", shift=1.0) & base


@pytest.mark.parametrize(("role", "method"), [("oracle", "judge"), ("reference", "score")])
def test_the_group_of_an_input_that_kills_is_dropped_named_and_counted(tmp_path: Path, role: str, method: str) -> None:
    """The third of 16 prompts; the others are trained on: 15 examples, in batches of 4."""
    driver = make(tmp_path, prompts=16, held_out=0, loop={"iterations": 1})
    part = getattr(driver.roles, role)
    instead, calls = getattr(part, method), iter(range(100))

    async def kills_at_the_third(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise InputSetAside("an input killed oracle-1 and another replica before it", ["oracle-1"])
        return await instead(*arguments)

    setattr(part, method, kills_at_the_third)
    outcome = finish(driver)
    assert sum(map(len, driver.roles.learner.batches)) == 15  # type: ignore[attr-defined]
    (entry,) = outcome.set_aside
    assert entry["prompt"].startswith("p")
    assert "killed oracle-1" in entry["reason"]
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert '"failures/set_aside": 1.0' in lines


@pytest.mark.parametrize("method", ["judge", "score"])
@pytest.mark.parametrize("given", [False, True])
def test_a_resumed_run_leaves_out_what_was_set_aside(tmp_path: Path, method: str, given: bool) -> None:
    """The third of 16 inputs; the run fails in its third step, and goes on from the checkpoint after the second, or from its start. Nothing
    kills any more, and the batches are those of the run that had gone on: 4 examples each, the 3 last ones in the fourth."""
    from tests.loop.test_held_out_loss import offline

    if given and method == "judge":
        pytest.skip("given examples are not judged")
    sections: dict[str, Any] = {"loop": {"iterations": 1}, "checkpoint": {"every_steps": 2}}

    def built(directory: Path, *, kills: bool) -> Any:
        driver = offline(directory, 16, 0, **sections) if given else make(directory, prompts=16, held_out=0, **sections)
        part = driver.roles.oracle if method == "judge" else driver.roles.reference
        instead, calls = getattr(part, method), iter(range(100))

        async def killing(*arguments: Any) -> Any:
            if kills and next(calls) == 2:
                raise InputSetAside("an input killed reference-1 and another replica before it", ["reference-1"])
            return await instead(*arguments)

        setattr(part, method, killing)
        return driver

    whole = built(tmp_path / "whole", kills=True)
    finish(whole)
    (entry,) = whole.outcome.set_aside
    for fail_at, step in ((2, 2), (1, 0)):
        directory = tmp_path / str(step)
        stopped = built(directory, kills=True)
        stopped.roles.learner.fail_at_step = fail_at
        with pytest.raises(LossNotFinite):
            finish(stopped)
        continued = built(directory, kills=False)
        outcome = finish(continued, resume_from=continued.checkpoints.choose(None))
        if not given:  # the fake engines answer in an order that is drawn, so the third group is another one in each run
            dropped = {item["prompt"] for item in outcome.set_aside}
            trained = {f"p{index}" for batch in stopped.roles.learner.batches[:step] + continued.roles.learner.batches for index in batch}
            assert len(dropped) == 1
            assert trained == {f"p{index}" for index in range(16)} - dropped
        else:
            assert continued.roles.learner.batches == whole.roles.learner.batches[step:]
            assert [item["prompt"] for item in outcome.set_aside] == [entry["prompt"]]


def test_a_line_that_was_cut_off_is_no_input_that_was_set_aside(tmp_path: Path) -> None:
    aside = SetAside(tmp_path)
    assert aside.entries == []
    aside.add("a", {"prompt": "p1"})
    aside.add("b", {"prompt": "p2"})
    path = tmp_path / "set_aside.jsonl"
    path.write_text(path.read_text()[:-5])
    again = SetAside(tmp_path)
    assert ("a" in again, "b" in again, again.entries) == (True, False, [{"prompt": "p1"}])
    again.add("c", {"prompt": "p3"})
    assert SetAside(tmp_path).entries == [{"prompt": "p1"}, {"prompt": "p3"}]


def test_replacements_are_counted_by_role_and_listed(tmp_path: Path) -> None:
    driver = make(tmp_path, prompts=8, held_out=0)
    for actor in ("rollout-1", "oracle-0", "rollout-0"):
        driver.failures.replaced(actor, f"{actor} died")
    driver.meter.writer.close()
    assert [(entry["actor"], entry["step"]) for entry in driver.outcome.replacements] == [
        ("rollout-1", 0),
        ("oracle-0", 0),
        ("rollout-0", 0),
    ]
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert '"failures/restarts/rollout": 2.0' in lines
    assert '"failures/restarts/oracle": 1.0' in lines
