"""Win rates of the policy, as it is trained, against its base and against itself an iteration ago."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from raypref.config import RunConfig
from raypref.evaluation.revisions import compare_rounds, revision_curve
from raypref.evaluation.win_rate import summarise
from raypref.judging.diagnostics import mean_tokens
from raypref.loop.generation import Revise, chain, chains
from raypref.output.metrics import Averages
from raypref.roles import OracleRole, Ref
from raypref.types import Comparison, Prompt

Sample = Callable[[Prompt, int, str, int], Awaitable[Ref]]


class Evaluator:
    """Keeps the answers of the base policy and of the last evaluated one, and has the oracle compare new answers with them.

    The answers' seeds depend on the prompt alone, so a policy that did not change gives the same answers and a win rate of one half.
    """

    def __init__(
        self, sample: Sample, oracle: OracleRole | None, config: RunConfig, prompts: Sequence[Prompt], revise: Revise | None = None
    ) -> None:
        """
        Args:
            sample: (prompt, count, purpose, iteration) -> reference to a rollout of the current policy.
            oracle: the judge.
            config: the run's.
            prompts: held-out ones.
            revise: makes prompts for revisions; needed for ``evaluation.revisions``.
        """
        self._revise = revise
        assert oracle is not None
        self._sample = sample
        self._oracle = oracle
        self._config = config
        self._prompts = prompts
        self._answers: dict[str, list[Ref]] = {}

    async def evaluate(self, iteration: int) -> dict[str, Any] | None:
        """Sample the current policy's answers and compare them. The base policy has nobody to be compared with: None.

        Returns:
            ``iteration``, ``response_tokens``, for each opponent (``base``, ``previous``) the win rate with its interval, and under
            ``oracle`` what the oracle observed: means, and sums over this evaluation of each ``Total``.
        """
        answers = await self._ask()
        opponents = dict(self._answers)
        self._answers = {"base": opponents.get("base", answers), "previous": answers}
        if not opponents:
            return None
        result: dict[str, Any] = {"iteration": iteration}
        observed = Averages()
        evaluation = self._config.evaluation
        for name, defenders in opponents.items():
            matches = await asyncio.gather(*(self._oracle.compare(a, b) for a, b in zip(answers, defenders, strict=True)))
            summary = summarise(
                [match.win_rate for match in matches],
                resamples=evaluation.bootstrap_resamples,
                confidence=evaluation.confidence,
                seed=self._config.seed,
            )
            result[name] = asdict(summary)
            result["response_tokens"] = sum(match.challenger_tokens for match in matches) / len(matches)
            result[f"{name}_response_tokens"] = sum(match.defender_tokens for match in matches) / len(matches)
            for match in matches:
                observed.add(match.metrics)
            self._write(iteration, name, matches)
        if evaluation.revisions:
            result["revisions"] = await self._revisions(opponents["base"], iteration, observed)
        result["oracle"] = observed.take()
        return result

    async def resume(self) -> None:
        """Sample the current policy's answers again: it is the opponent of the next evaluation in a run that was resumed."""
        self._answers["previous"] = await self._ask()

    async def _revisions(self, defenders: Sequence[Ref], policy_version: int, observed: Averages) -> list[dict[str, Any]]:
        """Win rates of the current policy's answers after 0, 1, ... revisions of its own, against the base policy's first answers.

        What the oracle observes is added to ``observed``.
        """
        evaluation = self._config.evaluation

        async def sample(prompt: Prompt, count: int, purpose: str) -> Ref:
            return await self._sample(prompt, count, "evaluation" if purpose == "generate" else purpose, 0)

        settings: dict[str, Any] = {"responses": evaluation.responses, "revisions": evaluation.revisions, "revise": self._revise}
        in_flight = self._config.groups_in_flight(evaluation.responses)
        made = await chains(self._prompts, in_flight, lambda prompt: chain(prompt, sample, **settings))
        rounds = [[item.rollout(number, policy_version) for item in made] for number in range(evaluation.revisions + 1)]
        matches = await compare_rounds(rounds, defenders, self._oracle.compare, in_flight=in_flight)
        for match in (match for own in matches for match in own):
            observed.add(match.metrics)
        curve = revision_curve(
            matches,
            [sum(mean_tokens(answers.responses) for answers in own) / len(own) for own in rounds],
            "tokens",
            resamples=evaluation.bootstrap_resamples,
            confidence=evaluation.confidence,
            seed=self._config.seed,
        )
        return [asdict(point) for point in curve]

    async def _ask(self) -> list[Ref]:
        count = self._config.evaluation.responses
        return list(await asyncio.gather(*(self._sample(prompt, count, "evaluation", 0) for prompt in self._prompts)))

    def _write(self, iteration: int, opponent: str, matches: Sequence[Comparison]) -> None:
        directory = self._config.output_dir / "evaluation"
        directory.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(asdict(match), ensure_ascii=False) for match in matches]
        (directory / f"iteration_{iteration:04d}_against_{opponent}.jsonl").write_text("\n".join(lines) + "\n")
