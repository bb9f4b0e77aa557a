"""Settings that cannot matter are told; nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import raypref
from raypref.checks import Task
from raypref.config import RunConfig
from raypref.settings.without_effect import notes

GOOD: dict[str, Any] = {
    "policy": {"path": "m"},
    "loss": {"type": "dpo"},
    "selection": {"type": "best_worst"},
    "oracle": {"type": "callable", "function": "builtins:len"},
    "data": {"path": "p.jsonl"},
}
GIVEN = {"type": "preferences", "path": "p.jsonl"}
OFFLINE = {"data": GIVEN, "oracle": None}


def told(task: Task | None = None, **sections: Any) -> list[str]:
    return [str(note) for note in notes(RunConfig.parse(GOOD | sections), task)]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"judging": {"opponents": 3}}, "judging.opponents: 3, which has no effect with judging.pairs=selection; set judging.pairs=random"),
        ({"judging": {"truncation_penalty": 0.5}}, "judging.truncation_penalty: 0.5, which has no effect with judging.truncated=keep; "),
        ({"reference": {"every": 2}}, "reference.every: 2, which has no effect with reference.policy=fixed; "),
        ({"data": {"path": "p", "score_scale": 2.0}}, "data.score_scale: 2.0, which has no effect with data.verdicts=hard; "),
        ({"regulariser": {"coefficient": 0.5}}, "regulariser.coefficient: 0.5, which has no effect with regulariser.type=none; "),
        (
            {"learner": {"optimizer": {"type": "rmsprop", "beta1": 0.8}}},
            "learner.optimizer.beta1: 0.8, which has no effect with learner.optimizer.type=rmsprop; set learner.optimizer.type=adamw, or",
        ),
        ({"loss": {"type": "spo", "coefficient": 0.5}}, "loss.coefficient: 0.5, which has no effect with loss.regulariser=none; "),
        (OFFLINE | {"rollout": {"responses": 8}}, "rollout.responses: 8, which has no effect with data.type=preferences"),
        (OFFLINE | {"rollout": {"temperature": 0.7}}, "rollout.temperature: 0.7, which has no effect: nothing is sampled"),
        (OFFLINE | {"reference": {"measure_kl": True}}, "reference.measure_kl: true, which has no effect with data.type=preferences"),
        ({"data": GIVEN}, "oracle.type: callable, which is never asked with data.type=preferences"),
        ({"evaluation": {"responses": 4}}, "evaluation.responses: 4, which has no effect without held-out prompts"),
        ({"evaluation": {"every": 2}}, "evaluation.every: 2, which has no effect without held-out prompts"),
        (
            {"data": GIVEN | {"held_out_prompts": 4}, "oracle": None, "evaluation": {"responses": 4}},
            "evaluation.responses: 4, which has no effect without an oracle; give an oracle section, or leave it out",
        ),
        (
            {"loop": {"sync_interval": 4}, "learner": {"epochs": 2}},
            "loop.iterations: 3, the default, which with loop.sync_interval=4 is a run of 24 optimiser steps; set loop.steps",
        ),
        ({"evaluation": {"texts": "t", "every": 0}}, "evaluation.texts: t, which has no effect with evaluation.every=0"),
        ({"loss": {"type": "sppo"}, "rollout": {"top_p": 0.9}}, "rollout.top_p: 0.9, so that responses are not drawn from pi_t"),
    ],
)
def test_a_setting_without_effect_is_told(sections: dict[str, Any], message: str) -> None:
    (note,) = told(**sections)
    assert note.startswith(message)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"judging": {"opponents": 3, "pairs": "random"}},
        {"judging": {"opponents": 2, "truncation_penalty": 1.0}},
        {"regulariser": {"type": "token_kl", "coefficient": 0.5, "every": 3}},
        {"loss": {"type": "spo", "form": "ranking", "decay": 0.5}, "selection": {"type": "ranking"}},
        {"rollout": {"temperature": 0.7, "responses": 8}},
        {"loss": {"type": "sppo"}},
        {"data": GIVEN | {"held_out": "h"}, "rollout": {"temperature": 0.7}, "evaluation": {"responses": 4}},
        OFFLINE | {"regulariser": {"type": "token_kl"}, "rollout": {"temperature": 0.7}},
        {"data": GIVEN | {"held_out": "h"}, "oracle": None, "evaluation": {"every": 2, "loss_every_steps": 10}},
        {"evaluation": {"every": 0, "responses": 4}},
        {"evaluation": {"every": 2, "texts": "t"}},
        {"loop": {"sync_interval": 1, "iterations": 3}},
        {"loop": {"sync_interval": 1, "steps": 30}},
        {"learner": {"schedule": {"horizon_iterations": 18, "span": "run"}}},
    ],
    ids=str,
)
def test_a_setting_that_may_matter_is_not(sections: dict[str, Any]) -> None:
    """The last one: a schedule over the run may be longer than the run."""
    assert told(**sections) == []


def test_held_out_prompts_as_objects_count() -> None:
    assert told(Task(held_out=True), evaluation={"responses": 4}) == []
    assert len(told(Task(held_out=False), evaluation={"responses": 4})) == 1
    assert told(Task("generate"), evaluation={"responses": 4}) == []


def test_the_resolved_config_is_told_the_same() -> None:
    config = RunConfig.parse(GOOD | {"judging": {"opponents": 3}, "loop": {"sync_interval": 2, "steps": 8}})
    again = RunConfig.parse(config.model_dump(mode="json"))
    assert [str(note) for note in notes(again)] == [str(note) for note in notes(config)]


def test_the_shipped_recipes_set_nothing_in_vain() -> None:
    """Only what departs from the theory on purpose is told: the authors' presets, and Self-Rewarding's and SPO's own sampling."""
    root = Path(raypref.__file__).parent.parent / "examples"
    lines = {
        f"{path.parent.name}/{path.stem} {str(note).partition(':')[0]}"
        for path in root.rglob("*.yaml")
        if path.name != "rayjob.yaml"
        for note in notes(raypref.load_config(path))
    }
    assert all(line.endswith(("rollout.temperature", "rollout.top_p")) for line in lines), lines


def test_the_check_of_the_command_line_tells_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from raypref.cli.check import problems_of

    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"judging": {"opponents": 3}}))
    problems_of(path, [])
    assert "judging.opponents: 3, which has no effect" in caplog.text
