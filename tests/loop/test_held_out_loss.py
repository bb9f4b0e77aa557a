"""When the loss on held-out examples is measured, against which frozen policies, and that nothing else depends on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypref.errors import LossNotFinite
from raypref.loop.driver import Driver
from raypref.losses.dpo import DPO
from raypref.metrics.writer import MetricsWriter
from raypref.roles import Roles
from raypref.types import RunData
from tests.fakes import FakeLearner, prompt
from tests.loop.test_driver import finish, make
from tests.loop.test_driver_data import TwoReferences, example

OFFLINE: dict[str, Any] = {"loss": DPO(), "selection": None, "data": {"type": "preferences"}}


def offline(directory: Path, examples: int = 12, held_out: int = 3, *, sampled: bool = False, **sections: Any) -> Driver:
    """A run on given examples, in batches of 4, with the engines' roles only if ``sampled``."""
    driver = make(directory, **OFFLINE | sections)
    driver.meter.writer.close()
    roles = driver.roles if sampled else Roles(learner=driver.roles.learner, reference=driver.roles.reference)
    data = RunData(
        prompts=[prompt(k) for k in range(examples)],
        examples=[example(k) for k in range(examples)],
        held_out_examples=[example(100 + k) for k in range(held_out)],
    )
    return Driver(driver.config, roles, data, metrics=MetricsWriter(directory))


def steps(driver: Driver) -> list[tuple[int, int]]:
    return [(point["iteration"], point["step"]) for point in driver.outcome.held_out]


@pytest.mark.parametrize(
    ("sections", "measured"),
    [
        ({"loop": {"iterations": 1}}, [(1, 0), (1, 3)]),
        ({"loop": {"iterations": 3}}, [(1, 0), (1, 1), (2, 2), (3, 3)]),
        ({"loop": {"iterations": 3}, "evaluation": {"every": 2}}, [(1, 0), (2, 2), (3, 3)]),
        ({"loop": {"iterations": 1}, "evaluation": {"loss_every_steps": 2}}, [(1, 0), (1, 2), (1, 3)]),
        ({"loop": {"iterations": 1}, "evaluation": {"loss_every_steps": 3}}, [(1, 0), (1, 3)]),
        ({"loop": {"iterations": 1}, "learner": {"global_batch": 4, "epochs": 2}}, [(1, 0), (1, 3), (1, 6)]),
        ({"loop": {"steps": 3, "sync_interval": 1}, "evaluation": {"every_steps": 2}}, [(1, 0), (2, 2), (3, 3)]),
        (
            {"loop": {"steps": 3, "sync_interval": 1}, "evaluation": {"every_steps": 3, "loss_every_steps": 1}},
            [(1, 0), (1, 1), (2, 2), (3, 3)],
        ),
        ({"loop": {"iterations": 1}, "evaluation": {"every": 0}}, []),
    ],
    ids=str,
)
def test_when_it_is_measured(tmp_path: Path, sections: dict[str, Any], measured: list[tuple[int, int]]) -> None:
    """12 examples are 3 steps of 4. The start, the ends of evaluated iterations and of their epochs, and each multiple; each step once."""
    driver = offline(tmp_path, **sections)
    finish(driver)
    assert steps(driver) == measured
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    written = [(line["step"], line["eval/loss"], line["eval/rewards/accuracies"]) for line in lines if "eval/loss" in line]
    assert written == [(point["step"], point["loss"], 0.5) for point in driver.outcome.held_out]
    assert all(point["examples"] == 3 for point in driver.outcome.held_out)


@pytest.mark.parametrize("held_out", [0, 3, 9])
def test_training_is_the_same_whatever_is_held_out(tmp_path: Path, held_out: int) -> None:
    """The batches are those of the training examples, and the learner gets every held-out example each time, 9 in parts of 4, 4, 1."""
    driver = offline(tmp_path, held_out=held_out, loop={"iterations": 1}, evaluation={"loss_every_steps": 1})
    finish(driver)
    learner = driver.roles.learner
    assert isinstance(learner, FakeLearner)
    assert learner.batches == [list(range(k, k + 4)) for k in range(0, 12, 4)]
    expected = [100 + k for k in range(held_out)]
    assert [[item.prompt_index for item in batch] for batch in learner.evaluated] == [expected] * (4 if held_out else 0)


def test_frozen_policies_are_those_of_the_iteration(tmp_path: Path) -> None:
    """The fake policy is 0, 4, 8, 12 after its steps, and its loss is its number less pi_t's: at the start 0 - 0, then after each iteration
    4 - 0, 8 - 4, 12 - 8. With a fixed pi_ref alone, held-out examples are scored once."""
    driver = offline(tmp_path / "two", loss=TwoReferences(), loop={"iterations": 3})
    finish(driver)
    assert [point["loss"] for point in driver.outcome.held_out] == [0, 4, 4, 4]
    for loss, times in ((TwoReferences(), 3), (DPO(), 1)):
        driver = offline(tmp_path / f"{times}", loss=loss, loop={"iterations": 3})
        finish(driver)
        scored = [item.prompt_index for item in driver.roles.reference.scored]  # type: ignore[union-attr]
        assert sum(index >= 100 for index in scored) == 3 * times


@pytest.mark.parametrize("loss", [TwoReferences(), DPO()], ids=["two", "dpo"])
def test_a_resumed_run_measures_what_the_uninterrupted_one_does(tmp_path: Path, loss: DPO) -> None:
    """Four iterations of two steps, stopped in the sixth step, after it was measured before it; continued from iteration 2's end."""
    sections: dict[str, Any] = {
        "loss": loss,
        "loop": {"iterations": 4},
        "learner": {"global_batch": 2},
        "evaluation": {"loss_every_steps": 1},
        "checkpoint": {"best": False},
    }
    whole = offline(tmp_path / "whole", 16, **sections)
    finish(whole)
    stopped = offline(tmp_path / "stopped", 16, **sections)
    stopped.roles.learner.fail_at_step = 5  # type: ignore[attr-defined]
    with pytest.raises(LossNotFinite):
        finish(stopped)
    continued = offline(tmp_path / "stopped", 16, **sections)
    outcome = finish(continued, resume_from=continued.checkpoints.complete()[-1])
    assert continued.checkpoints.read(continued.checkpoints.complete()[0])[0].iteration > 1
    assert outcome.held_out == whole.outcome.held_out
    assert [point["step"] for point in outcome.held_out] == list(range(9))


def test_texts_in_an_online_run(tmp_path: Path) -> None:
    """Two iterations of 8 prompts in batches of 4. The fake policy is a number, 0 at first, and as its checkpoints have it after each
    iteration; a token's negative log-likelihood is 1 more. The texts are not trained on, and the rest is as in a run without them."""
    plain, driver = (make(tmp_path / name, prompts=16, loop={"iterations": 2}) for name in ("plain", "texts"))
    driver.meter.writer.close()
    texts = [example(200 + k) for k in range(5)]
    driver = Driver(driver.config, driver.roles, replace(driver.data, texts=texts), metrics=MetricsWriter(tmp_path / "texts"))
    finish(plain)
    outcome = finish(driver)
    learner = driver.roles.learner
    assert isinstance(learner, FakeLearner)
    assert learner.batches == plain.roles.learner.batches  # type: ignore[attr-defined]
    after = [json.loads((path / "learner" / "value.json").read_text()) for path in plain.checkpoints.complete()]
    points = [(1, 0, 1.0), (1, 2, 1.0 + after[0]), (2, 4, 1.0 + after[1])]
    assert outcome.held_out == [{"iteration": t, "step": step, "texts": 5, "text_nll": nll} for t, step, nll in points]
    assert (learner.evaluated, [[item.prompt_index for item in batch] for batch in learner.texts]) == ([], [[200, 201, 202, 203, 204]] * 3)
    lines = [json.loads(line) for line in (tmp_path / "texts" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["eval/text_nll"]) for line in lines if "eval/text_nll" in line] == [point[1:] for point in points]
    assert outcome.evaluations == plain.outcome.evaluations


@pytest.mark.parametrize("every", [0, 1])
def test_texts_beside_the_loss(tmp_path: Path, every: int) -> None:
    driver = offline(tmp_path, loop={"iterations": 1}, evaluation={"every": every})
    driver.meter.writer.close()
    driver = Driver(driver.config, driver.roles, replace(driver.data, texts=[example(200)]), metrics=MetricsWriter(tmp_path))
    finish(driver)
    found = [(point["step"], point["examples"], point["loss"], point["texts"], point["text_nll"]) for point in driver.outcome.held_out]
    assert found == ([(0, 3, 0.0, 1, 1.0), (3, 3, 12.0, 1, 13.0)] if every else [])


def test_win_rates_need_the_oracle_and_prompts(tmp_path: Path) -> None:
    """Held-out examples alone: the engines are asked nothing, though they are there."""
    driver = offline(tmp_path, sampled=True, loop={"iterations": 2})
    outcome = finish(driver)
    assert driver.roles.rollout.requests == outcome.evaluations == []  # type: ignore[union-attr]
    assert len(outcome.held_out) == 3
