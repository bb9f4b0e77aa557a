"""Win rates of the policy as it is trained."""

import asyncio

from raypref.config import RunConfig
from raypref.loop.evaluation import Evaluator
from raypref.types import Prompt
from tests.fakes import FakeOracle, prompt
from tests.groups import rollout


def test_what_the_oracle_observes_of_revisions_is_counted(tmp_path):
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

    async def sample(own, count, purpose, iteration):
        return rollout(own.text if purpose.startswith("revision") else "1", prompt_id=own.id)

    def revise(own, answer):
        return Prompt(own.index, own.id, f"{int(answer) + 1}", own.token_ids)

    evaluator = Evaluator(sample, FakeOracle(), config, [prompt(k) for k in range(3)], revise)
    assert asyncio.run(evaluator.evaluate(0)) is None
    result = asyncio.run(evaluator.evaluate(1))
    assert result["oracle"] == {"oracle/requests_total": 15.0}
    assert [(point["revisions"], point["win_rate"], point["length"], point["unit"]) for point in result["revisions"]] == [
        (0, 0.5, 1.0, "tokens"),
        (1, 1.0, 1.0, "tokens"),
        (2, 1.0, 1.0, "tokens"),
    ]
