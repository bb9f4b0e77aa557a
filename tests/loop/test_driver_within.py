"""Checkpoints within iterations: a run that is stopped in any step ends as the one that went through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypref.errors import DataError, LossNotFinite
from raypref.loop.driver import Driver
from raypref.losses.dpo import DPO
from raypref.metrics.writer import MetricsWriter
from raypref.output import directory as output
from tests.loop.test_driver import finish, make
from tests.loop.test_driver_data import REGULARISER, Doubled, TwoReferences
from tests.loop.test_held_out_loss import offline

EVERY = 2
"""``checkpoint.every_steps``: of iterations of four steps."""

SAMPLED: dict[str, dict[str, Any]] = {
    "whole data": {"loop": {"iterations": 2}},
    "synced every four steps": {"loop": {"steps": 8, "sync_interval": 4}},
    "one after another": {"loop": {"iterations": 2, "overlap": False}},
    "dropped groups": {"loop": {"iterations": 2}, "drops": frozenset({1, 2, 9, 15, 17, 24}), "learner": {"global_batch": 3}},
    "two epochs": {"loop": {"iterations": 2}, "prompts": 16, "learner": {"global_batch": 4, "epochs": 2}},
    "mismatched partners": {"loop": {"iterations": 2}, "loss": Doubled()},
    "regulariser": {"loop": {"iterations": 2}, "regulariser": REGULARISER | {"every": 3}},
    "refreshed pi_ref": {"loop": {"iterations": 2}, "loss": TwoReferences(), "reference": {"policy": "refreshed", "every": 1}},
    "one evaluation": {"loop": {"iterations": 2}, "evaluation": {"every": 2}},
}


def built(directory: Path, sections: dict[str, Any], **more: Any) -> Driver:
    return make(directory, **{"prompts": 32, "checkpoint": {"every_steps": EVERY}} | sections, **more)


def stop(driver: Driver, step: int) -> None:
    driver.roles.learner.fail_at_step = step  # type: ignore[attr-defined]
    output._write_config(driver.config)
    with pytest.raises(LossNotFinite):
        finish(driver)


def lines(directory: Path, *, groups: bool) -> list[tuple[int, dict[str, Any]]]:
    """Step and values of each line of metrics, without times; without means over groups, whose lines depend on the time, too."""
    left_out = ("time", "step", "tokens_per", "waiting/", "overlap_efficiency", "in_flight/") + (() if groups else ("rollout/",))
    read = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    kept = [(line["step"], {name: value for name, value in line.items() if not name.startswith(left_out)}) for line in read]
    return [(step, values) for step, values in kept if values]


def drawn(driver: Any, first: int = 0) -> dict[int, list[str]]:
    """Step -> texts of the regulariser's samples before it. The fake learner counts the steps of its process, which begins at ``first``."""
    return {first + k: [rollout.responses[0].text for rollout in rollouts] for k, rollouts in driver.roles.learner.samples.items()}


def loss_left_out(entries: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """The fake learner's loss counts the steps of its own process."""
    return [(step, {name: value for name, value in values.items() if name != "loss"}) for step, values in entries]


QUICK = ("one after another", "dropped groups", "regulariser")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SAMPLED])
def test_a_run_stopped_in_any_step_ends_as_the_whole_one(tmp_path: Path, name: str) -> None:
    """Batches, policy, evaluations and metrics are the same; no group is sampled again; at most as many steps are repeated as are between
    two checkpoints."""
    sections = SAMPLED[name]
    whole = built(tmp_path / "whole", sections)
    planned = finish(whole)
    learner: Any = whole.roles.learner
    assert planned.steps >= 7
    for step in range(1, planned.steps):
        directory = tmp_path / str(step)
        stopped: Any = built(directory, sections)
        stop(stopped, step)
        judged = {item.origin: item for item in stopped.roles.oracle.judged}
        continued: Any = built(directory, sections, recorded=frozenset(judged))
        continued.meter.writer.close()
        continued.roles.oracle.recorded = judged
        newest = output.resume(continued.config, continued.data)
        first = 0 if newest is None else continued.checkpoints.read(newest)[0].step
        output.rewind(continued.config, newest)
        continued.meter.writer = MetricsWriter(directory)
        outcome = finish(continued, resume_from=newest)
        assert step - EVERY <= first <= step, "so many steps are repeated"
        assert continued.roles.learner.batches == learner.batches[first:]
        assert continued.roles.learner.value == learner.value
        assert outcome.steps == planned.steps
        assert outcome.evaluations == planned.evaluations
        assert not {request.origin for request in continued.roles.rollout.requests} & set(judged)
        later = first + (newest is not None and "step" in newest.name)  # the checkpoint within an iteration has its step's samples
        assert drawn(continued, first) == {at: texts for at, texts in drawn(whole).items() if at >= later}
        in_order = not continued.config.loop.overlap
        assert loss_left_out(lines(directory, groups=in_order)) == loss_left_out(lines(tmp_path / "whole", groups=in_order))


GIVEN: dict[str, dict[str, Any]] = {
    "pi_ref": {"loss": DPO(), "loop": {"iterations": 1}},
    "both, three iterations": {"loss": TwoReferences(), "loop": {"iterations": 3}},
    "two epochs": {"loss": TwoReferences(), "loop": {"iterations": 2}, "learner": {"global_batch": 2, "epochs": 2}},
}


@pytest.mark.parametrize("name", GIVEN)
def test_given_examples_and_the_held_out_loss(tmp_path: Path, name: str) -> None:
    """The same, for given examples; those that were trained are scored again only for a further epoch."""
    sections: dict[str, Any] = {
        "learner": {"global_batch": 2},
        "checkpoint": {"every_steps": 3, "keep": 99},
        "evaluation": {"loss_every_steps": 2},
    } | GIVEN[name]
    whole: Any = offline(tmp_path / "whole", 24, **sections)
    planned = finish(whole)
    assert planned.steps >= 12
    stopped: Any = offline(tmp_path / "part", 24, **sections)
    output._write_config(stopped.config)
    outcome_of_part = finish(stopped)
    checkpoints = stopped.checkpoints.complete()
    assert sum("step" in path.name for path in checkpoints) >= 3
    read = [(path.name, stopped.checkpoints.read(path)[0].step) for path in checkpoints]
    losses = {entry["step"]: entry["loss"] for entry in planned.held_out}
    measured = [(name, losses[step]) for name, step in read if step in losses]
    best_so_far = {name for k, (name, loss) in enumerate(measured) if loss <= min(before for _, before in measured[: k + 1])}
    with_policy = {path.name for path in (tmp_path / "part" / "policies").iterdir()}
    assert {name for name in with_policy if "step" in name} <= {name for name in best_so_far if "step" in name}
    best = min(loss for _, loss in measured)
    assert outcome_of_part.best is not None
    assert (outcome_of_part.best["held_out_loss"], Path(outcome_of_part.best["policy"]).name) in [(best, name) for name in with_policy]
    for checkpoint in reversed(checkpoints[:-1]):
        continued: Any = offline(tmp_path / "part", 24, **sections)
        continued.meter.writer.close()
        output.rewind(continued.config, output.resume(continued.config, continued.data, checkpoint))
        assert continued.checkpoints.complete()[-1] == checkpoint
        continued.meter.writer = MetricsWriter(tmp_path / "part")
        outcome = finish(continued, resume_from=checkpoint)
        state, _ = continued.checkpoints.read(checkpoint)
        assert continued.roles.learner.batches == whole.roles.learner.batches[state.step :]
        assert continued.roles.learner.value == whole.roles.learner.value
        assert outcome.held_out == planned.held_out
        assert loss_left_out(lines(tmp_path / "part", groups=True)) == loss_left_out(lines(tmp_path / "whole", groups=True))
        trained = [item.prompt_index for item in continued.roles.reference.scored if item.prompt_index < 100]
        if continued.config.learner.epochs == 1:
            assert trained == list(range(max(0, state.step * 2 - bool(state.steps_within)), 24))


def test_groups_that_were_lost_and_came_out_otherwise_are_noticed(tmp_path: Path) -> None:
    """The third step took the groups 4 and 5; now group 4 is dropped. Without that checkpoint the run goes on from the one before."""
    sections = SAMPLED["whole data"] | {"learner": {"global_batch": 2}, "checkpoint": {"every_steps": 3}}
    stop(built(tmp_path, sections), 4)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert checkpoint.name == "iteration_0000-step_000003"
    again: Any = built(tmp_path, sections, drops=frozenset({4}))
    with pytest.raises(DataError, match=r"after 3 steps of its iteration, which took 6 groups, but now 3 steps take 7: .* Remove this"):
        finish(again, resume_from=checkpoint)
    assert again.roles.learner.batches == []


def test_a_short_iteration_has_no_checkpoint_within(tmp_path: Path) -> None:
    driver = built(tmp_path, {"loop": {"steps": 8, "sync_interval": 2}, "checkpoint": {"every_steps": 2, "keep": 9}})
    finish(driver)
    assert [path.name for path in driver.checkpoints.complete()] == [f"iteration_000{k}" for k in range(1, 5)]
