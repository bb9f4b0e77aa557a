"""The loop against fakes, beyond plain sampling: given data, references, the regulariser's samples, mismatched responses."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from raypref import types
from raypref.errors import ConfigError, DataError
from raypref.loop.driver import Driver
from raypref.loop.reference_refresh import ReferenceRefresh
from raypref.losses.base import Frozen
from raypref.losses.dpo import DPO
from raypref.metrics.writer import MetricsWriter
from raypref.roles import Roles
from raypref.sections import ReferenceConfig
from raypref.types import RunData
from tests.fakes import FakeLearner, prompt
from tests.loop.test_driver import finish, make


class TwoReferences(DPO):
    """INPO's needs."""

    type: str = "two"
    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference", "previous"})


class Doubled(DPO):
    type: str = "doubled"
    mismatched: ClassVar[bool] = True


def example(index: int) -> types.Example:
    ids = np.array([index + 1], dtype=np.int32)
    return types.Example(index, f"p{index}", (ids, ids), (ids, ids), np.zeros(2), None)


def given(driver: Driver, count: int = 12) -> Driver:
    """The driver with given examples instead of prompts; their prompts are there for the regulariser."""
    data = RunData([prompt(k) for k in range(count)], [example(k) for k in range(count)], driver.data.held_out)
    driver.meter.writer.close()
    return Driver(driver.config, driver.roles, data, metrics=MetricsWriter(driver.config.output_dir))


@pytest.mark.parametrize(
    ("loop", "begun"),
    [
        ({"iterations": 1}, [(0, 3)]),
        ({"iterations": 2}, [(0, 2), (1, 2)]),
        ({"iterations": 3, "sync_interval": 1}, [(0, 1), (1, 1), (2, 1)]),
    ],
)
def test_given_data_from_offline_to_online_with_evaluation(tmp_path: Path, loop: dict[str, int], begun: list[tuple[int, int]]) -> None:
    """12 examples in batches of 4: whatever the sync interval, engines answer only held-out prompts, and every policy
    except pi_0 is evaluated."""
    driver = given(make(tmp_path, loop=loop, evaluation={"every": 1}))
    outcome = finish(driver)
    assert [index for batch in driver.roles.learner.batches for index in batch] == list(range(12))
    assert driver.roles.learner.begun == begun
    assert {request.prompt.id[:4] for request in driver.roles.rollout.requests} == {"held"}
    assert [entry["iteration"] for entry in outcome.evaluations] == list(range(1, loop["iterations"] + 1))
    assert driver.roles.oracle.sealed == []


def test_pi_t_of_given_data_is_the_policy_at_the_iterations_start(tmp_path: Path) -> None:
    """The fake policy's number grows by 2 with each batch of two (targets 0): online, pi_t is 0, 2, 4; pi_ref stays 0."""
    loop = {"iterations": 3, "sync_interval": 1}
    driver = given(make(tmp_path, loss=TwoReferences(), loop=loop, learner={"global_batch": 2}), 6)
    finish(driver)
    assert [float(item.previous_logps[0]) for item in driver.roles.reference.scored] == [0, 0, 2, 2, 4, 4]
    assert [float(item.reference_logps[0]) for item in driver.roles.reference.scored] == [0] * 6


def test_reference_refreshed_every_second_iteration(tmp_path: Path) -> None:
    """pi_ref of iterations 0 to 4: the policies of the starts of 0, 0, 2, 2, 4, that is 0, 0, 4, 4, 8; two copies stay on disk."""
    sections: dict[str, Any] = {
        "loss": TwoReferences(),
        "reference": {"policy": "refreshed", "every": 2},
        "loop": {"iterations": 5, "sync_interval": 1},
        "learner": {"global_batch": 2},
    }
    driver = given(make(tmp_path, **sections), 10)
    finish(driver)
    assert [float(item.reference_logps[0]) for item in driver.roles.reference.scored] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    kept = sorted((tmp_path / "reference").iterdir())
    assert [path.name for path in kept] == ["iteration_0002", "iteration_0004"]
    assert driver.roles.learner.references == kept


def test_resumed_run_finds_the_same_reference(tmp_path: Path) -> None:
    """Stopped in iteration 3, resumed at its start: pi_ref is still the policy of the start of iteration 2."""
    sections: dict[str, Any] = {
        "loss": TwoReferences(),
        "reference": {"policy": "refreshed", "every": 2},
        "loop": {"iterations": 5, "sync_interval": 1},
        "learner": {"global_batch": 2},
        "checkpoint": {"every_steps": 1},
    }
    stopped = given(make(tmp_path, **sections), 10)
    stopped.roles.learner.fail_at_step = 3
    with pytest.raises(ArithmeticError):
        finish(stopped)
    continued = given(make(tmp_path, **sections), 10)
    finish(continued, resume_from=continued.checkpoints.complete()[-1])
    assert [float(item.reference_logps[0]) for item in continued.roles.reference.scored] == [4, 4, 8, 8]
    lost = given(make(tmp_path, **sections), 10)
    for path in (tmp_path / "reference").glob("*/config.json"):
        path.unlink()
    with pytest.raises(ConfigError, match="pi_ref of iteration 3 should be in"):
        finish(lost, resume_from=_third_checkpoint(tmp_path / "checkpoints"))


def _third_checkpoint(checkpoints: Path) -> Path:
    """A checkpoint at the start of iteration 3, as a run that was stopped there leaves it."""
    directory = checkpoints / "iteration_0003"
    (directory / "learner").mkdir(parents=True, exist_ok=True)
    (directory / "learner" / "value.json").write_text("6.0")
    (directory / "state.json").write_text(json.dumps({"state": {"iteration": 3, "step": 3, "cursor": 6}, "evaluations": []}))
    return directory


REGULARISER = {"type": "token_kl", "every": 2, "samples": 3, "max_tokens": 5}


def test_regulariser_samples_on_given_data(tmp_path: Path) -> None:
    """Six steps in one iteration, T = 2: samples before steps 0, 2, 4 of the policies 0, 4, 8. At step 0 the engines hold pi_0 already;
    later the weights come as versions 1 + 1 + 2 = 4 and 1 + 1 + 4 = 6 (pi_0 and pi_1 are 0 and 1), and pi_t stays 0. Prompts go on with
    the steps: 0 1 2, from 2 * 2 = 4, from 4 * 2 = 8."""
    sections = {"regulariser": REGULARISER, "loop": {"iterations": 1}, "learner": {"global_batch": 2}, "evaluation": {"every": 0}}
    driver = given(make(tmp_path, loss=TwoReferences(), **sections), 12)
    finish(driver)
    samples = driver.roles.learner.samples
    assert {step: [rollout.prompt.index for rollout in rollouts] for step, rollouts in samples.items()} == {
        0: [0, 1, 2],
        2: [4, 5, 6],
        4: [8, 9, 10],
    }
    assert {step: float(rollouts[0].responses[0].text) for step, rollouts in samples.items()} == {0: 0.0, 2: 4.0, 4: 8.0}
    requests = driver.roles.rollout.requests
    assert sorted({request.policy_version for request in requests}) == [0, 4, 6]
    assert {(request.count, request.max_tokens, request.temperature) for request in requests} == {(1, 5, 1.0)}
    assert {float(item.previous_logps[0]) for item in driver.roles.reference.scored} == {0.0}


def test_regulariser_leaves_the_iterations_own_data_alone(tmp_path: Path) -> None:
    """Self-generated: the same batches and the same responses as without it; every training response is sampled before the first step."""
    runs = []
    for name, sections in (("with", {"regulariser": REGULARISER}), ("without", {})):
        driver = make(tmp_path / name, loop={"iterations": 2}, **sections)
        finish(driver)
        drawn = {r.prompt.index: (r.seed, r.policy_version) for r in driver.roles.rollout.requests if r.count == 3}
        runs.append((driver.roles.learner.batches, driver.roles.learner.value, drawn))
        if name == "with":
            training = [k for k, r in enumerate(driver.roles.rollout.requests) if r.count == 3]
            fresh = [k for k, r in enumerate(driver.roles.rollout.requests) if r.policy_version > 2]
            assert training[11] < fresh[0] < training[12], "of 12 prompts per iteration, the first twelve come before any fresh sample"
            assert sorted(driver.roles.learner.samples) == [0, 2, 4]
    assert runs[0] == runs[1]


def test_online_the_regulariser_needs_no_weight_sync(tmp_path: Path) -> None:
    """Sync interval 1: before every step the engines hold pi_theta."""
    driver = make(tmp_path, loop={"iterations": 4, "sync_interval": 1}, regulariser=REGULARISER)
    finish(driver)
    assert sorted(driver.roles.learner.samples) == [0, 2]
    assert all(request.policy_version <= 4 for request in driver.roles.rollout.requests)


def test_partners_are_the_prompts_before_and_no_prompt_is_sampled_twice(tmp_path: Path) -> None:
    """Two iterations of 4 prompts: partners 1 0 1 2, then 5 4 5 6; each prompt is sampled once."""
    driver = make(tmp_path, prompts=8, held_out=0, loss=Doubled(), loop={"iterations": 2, "window_groups": 3})
    finish(driver)
    partners = ["p1", "p0", "p1", "p2", "p5", "p4", "p5", "p6"]
    assert [driver.roles.oracle.partners[f"p{k}"] for k in range(8)] == partners
    assert sorted(request.prompt.index for request in driver.roles.rollout.requests) == list(range(8))


def test_partners_that_are_not_judged_are_counted(tmp_path: Path) -> None:
    """Steps of one prompt each: the partner of an iteration's only prompt is the next one, sampled for that alone."""
    loop = {"iterations": 2, "sync_interval": 1, "window_groups": 1}
    driver = make(tmp_path, prompts=8, held_out=0, loss=Doubled(), loop=loop, learner={"global_batch": 1})
    finish(driver)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    counted = [line["rollout/unjudged_partners"] for line in lines if "rollout/unjudged_partners" in line]
    assert counted == [1.0, 1.0]
    assert {line["rollout/unused_groups"] for line in lines if "rollout/unused_groups" in line} == {0.0}


def test_a_prompt_with_the_same_turns_is_no_partner(tmp_path: Path) -> None:
    """Two iterations over A A B A | A A C C. The nearest other prompt before, or else after: 2 2 1 2 | 6 6 5 5, all sampled once."""
    driver = make(tmp_path, prompts=8, held_out=0, loss=Doubled(), loop={"iterations": 2, "window_groups": 3})
    chats = [(), (("user", "A"),), (), (), (), (("user", "A"),), (), (("user", "C"),)]
    prompts = [replace(prompt(k), text=text, chat=chat) for k, (text, chat) in enumerate(zip("AABAAACC", chats, strict=True))]
    driver = Driver(driver.config, driver.roles, RunData(prompts), metrics=driver.meter.writer)
    finish(driver)
    assert [driver.roles.oracle.partners[f"p{k}"] for k in range(8)] == ["p2", "p2", "p1", "p2", "p6", "p6", "p5", "p5"]
    assert sorted(request.prompt.index for request in driver.roles.rollout.requests) == list(range(8))


def test_equal_prompts_have_no_partner(tmp_path: Path) -> None:
    driver = make(tmp_path, prompts=4, held_out=0, loss=Doubled(), loop={"iterations": 1})
    prompts = [replace(prompt(k), text="the same") for k in range(4)]
    with pytest.raises(DataError, match="there is only one; give different prompts"):
        finish(Driver(driver.config, driver.roles, RunData(prompts), metrics=driver.meter.writer))


def test_one_prompt_has_no_partner(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is only one"):
        finish(make(tmp_path, prompts=1, held_out=0, loss=Doubled(), loop={"iterations": 1}))


def test_given_data_with_pi_ref_alone_syncs_nothing(tmp_path: Path) -> None:
    """No engines, a loss that reads pi_ref: no receiver, so no sync."""
    driver = make(tmp_path, loss=DPO(), loop={"iterations": 1})
    driver.meter.writer.close()
    learner = FakeLearner()
    learner.sync = None  # type: ignore[assignment,method-assign]
    roles = Roles(learner=learner, reference=driver.roles.reference)
    data = RunData(examples=[example(k) for k in range(4)])
    finish(Driver(driver.config, roles, data, metrics=MetricsWriter(tmp_path)))
    assert learner.batches == [[0, 1, 2, 3]]


def test_pi_ref_of_every_checkpoint_stays_on_disk(tmp_path: Path) -> None:
    """Online, a new pi_ref every 2 steps, a checkpoint after step 7: its pi_ref is the policy after 6 steps, 12. Stopped in step 10, when
    pi_ref is the policy after 8 steps and a checkpoint is written, the run can go on from step 7 with 12, then with 16."""
    sections: dict[str, Any] = {
        "loss": TwoReferences(),
        "reference": {"policy": "refreshed", "every": 2},
        "loop": {"steps": 10, "sync_interval": 1},
        "learner": {"global_batch": 2},
        "checkpoint": {"every_steps": 7},
    }
    stopped = given(make(tmp_path, **sections), 20)
    stopped.roles.learner.fail_at_step = 9
    with pytest.raises(ArithmeticError):
        finish(stopped)
    assert [path.name for path in stopped.checkpoints.complete()] == ["iteration_0007", "iteration_0009"]
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == ["iteration_0006", "iteration_0008"]
    continued = given(make(tmp_path, **sections), 20)
    finish(continued, resume_from=continued.checkpoints.complete()[0])
    assert [float(item.reference_logps[0]) for item in continued.roles.reference.scored] == [12, 12, 16, 16, 16, 16]


def test_the_policies_that_stay_have_the_largest_numbers(tmp_path: Path) -> None:
    """pi_ref of iteration 10,000 is exported and read; iteration 9,998 is removed, not the new one."""
    config = ReferenceConfig(policy="refreshed")
    for iteration in (9998, 9999):
        (tmp_path / "reference" / f"iteration_{iteration}").mkdir(parents=True)
    asyncio.run(ReferenceRefresh(config, FakeLearner(), None, tmp_path).before(10000))
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == ["iteration_10000", "iteration_9999"]
