"""Win rates of the policy as it is trained."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raypref import types
from raypref.config import RunConfig
from raypref.evaluation.response_files import read_responses, read_rounds
from raypref.loop.evaluation import Evaluator, evaluation_metrics
from raypref.loop.requests import RequestBuilder
from raypref.output.run_reference import answers_file
from raypref.roles import Roles
from tests.fakes import FakeLearner, FakeOracle, FakeRollout, prompt
from tests.groups import rollout


class Engines(FakeRollout):
    """Says 1, and to the prompt of a revision the number in it."""

    async def sample(self, request: types.SampleRequest) -> types.Rollout:
        text = request.prompt.text
        return rollout(text if text.isdigit() else "1", prompt_id=request.prompt.id)


def test_what_the_oracle_observes_of_revisions_is_counted(tmp_path: Path) -> None:
    """Three prompts against the base and the last evaluated policy, and 0, 1, 2 revisions against the base: 3 (2 + 3) comparisons.

    The policy says 1, its revisions 2 and 3: even with the base, then better. A token is a character.
    """
    config = RunConfig.parse(
        {
            "output_dir": str(tmp_path),
            "policy": {"path": "unused"},
            "loss": {"type": "sppo"},
            "selection": {"type": "best_worst"},
            "evaluation": {"revisions": 2, "responses": 1, "bootstrap_resamples": 20},
        }
    )

    def revise(item: types.Prompt, answer: str) -> types.Prompt:
        return types.Prompt(item.index, item.id, f"{int(answer) + 1}", item.token_ids)

    data = types.RunData(held_out=[prompt(k) for k in range(3)], revise=revise)
    roles = Roles(learner=FakeLearner(), rollout=Engines(), oracle=FakeOracle())
    evaluator = Evaluator(config, roles, data, RequestBuilder(0, config.rollout))
    assert asyncio.run(evaluator.evaluate(0)) is None
    result = asyncio.run(evaluator.evaluate(1))
    assert result["oracle"] == {"oracle/requests_total": 15.0}
    assert [(point["revisions"], point["win_rate"], point["length"], point["unit"]) for point in result["revisions"]] == [
        (0, 0.5, 1.0, "tokens"),
        (1, 1.0, 1.0, "tokens"),
        (2, 1.0, 1.0, "tokens"),
    ]
    base, revised = (read_responses(answers_file(tmp_path, iteration)) for iteration in (0, 1))
    assert [answers.responses for answers in base.answers] == [("1",)] * 3
    assert [answers.responses for answers in revised.answers] == [("3",)] * 3, "after two revisions"
    assert [answers.responses for answers in read_rounds(answers_file(tmp_path, 1))[0].answers] == [("1",)] * 3


def test_opponents_from_a_file_are_met_beside_base_and_previous(tmp_path: Path) -> None:
    """The policy says 1 to every prompt; the references 1, 2 and 0: even, lost, won, one half on average."""
    sections = {"policy": {"path": "unused"}, "loss": {"type": "sppo"}, "evaluation": {"bootstrap_resamples": 20}}
    config = RunConfig.parse({"output_dir": str(tmp_path), **sections})
    given = [rollout(text, prompt_id=f"p{k}") for k, text in enumerate("120")]
    data = types.RunData(held_out=[prompt(k) for k in range(3)], opponents={"gold": given})
    evaluator = Evaluator(
        config, Roles(learner=FakeLearner(), rollout=Engines(), oracle=FakeOracle()), data, RequestBuilder(0, config.rollout)
    )
    assert asyncio.run(evaluator.evaluate(0)) is None
    result = asyncio.run(evaluator.evaluate(1))
    assert result is not None
    assert evaluation_metrics(result)["eval/win_rate_against_gold"] == result["gold"]["win_rate"] == pytest.approx(0.5)
    assert (tmp_path / "evaluation" / "iteration_0001_against_gold.jsonl").exists()


def test_held_out_answers_are_sampled_as_the_evaluation_says(tmp_path: Path) -> None:
    asked: list[types.SampleRequest] = []

    class Recording(Engines):
        async def sample(self, request: types.SampleRequest) -> types.Rollout:
            asked.append(request)
            return await super().sample(request)

    sections = {"policy": {"path": "unused"}, "loss": {"type": "sppo"}, "evaluation": {"temperature": 0, "max_tokens": 7}}
    config = RunConfig.parse({"output_dir": str(tmp_path), **sections})
    data = types.RunData(held_out=[prompt(0)])
    roles = Roles(learner=FakeLearner(), rollout=Recording(), oracle=FakeOracle())
    asyncio.run(Evaluator(config, roles, data, RequestBuilder(0, config.rollout)).evaluate(0))
    assert [(request.temperature, request.top_p, request.max_tokens) for request in asked] == [(0.0, 1.0, 7)]
