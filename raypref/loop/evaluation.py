"""Win rates of the policy during training: against the base policy, and against the policy that was evaluated before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raypref.config import RunConfig
from raypref.evaluation.revisions import compare_rounds, revision_curve
from raypref.evaluation.win_rate import summarise
from raypref.judging.diagnostics import mean_tokens
from raypref.loop.generation import chain, chains, resolve
from raypref.loop.iterations import due
from raypref.loop.requests import RequestBuilder
from raypref.metrics.progress import Callback
from raypref.metrics.writer import Averages, RunMeter
from raypref.output.checkpoint import RunState
from raypref.output.generated_answers import write_chains
from raypref.output.numbered import iteration_name
from raypref.output.outcome import Outcome
from raypref.output.run_reference import answers_file
from raypref.output.summary import opponents_in
from raypref.output.whole_file import write_whole
from raypref.roles import Roles
from raypref.types import Chain, Comparison, Prompt, RolloutRef, RunData


class Evaluator:
    """Keeps the rollouts of the base policy and of the policy evaluated last, and has the oracle compare new rollouts with them.

    The seeds depend on the prompt alone, so a policy that did not change gives the same responses and a win rate of one half.
    """

    def __init__(self, config: RunConfig, roles: Roles, data: RunData, requests: RequestBuilder) -> None:
        """
        Args:
            config: of the run.
            roles: engines and oracle.
            data: its held-out prompts, and ``revise``, which ``evaluation.revisions`` needs.
            requests: builds what the engines are asked.
        """
        self._config = config
        assert roles.rollout is not None
        assert roles.oracle is not None
        self._rollout, self._oracle = roles.rollout, roles.oracle
        self._prompts = data.held_out
        self._revise = data.revise
        self._requests = requests
        sampling = config.evaluation_sampling
        self._sampling: dict[str, Any] = {key: getattr(sampling, key) for key in ("temperature", "top_p", "max_tokens")}
        self._given = data.opponents
        self._kept: dict[str, Sequence[RolloutRef]] = {}
        """Opponent (``base``, ``previous``) -> its rollouts."""

    def due(self, iteration: int) -> bool:
        """Whether pi_t is evaluated: every ``evaluation.every`` iterations or ``evaluation.every_steps`` steps, and the final policy."""
        evaluation = self._config.evaluation
        return due(self._config, iteration, every=evaluation.every, every_steps=evaluation.every_steps)

    async def report(self, state: RunState, outcome: Outcome, meter: RunMeter, callbacks: Callback) -> None:
        """Evaluate pi_t and add the result to the outcome and the metrics; the base policy has none."""
        with meter.stage("evaluate"):
            result = await self.evaluate(state.iteration)
        if result is None:
            return
        result["step"] = state.step
        outcome.evaluations.append(result)
        meter.write(state.step, evaluation_metrics(result))
        callbacks.on_evaluation(result)

    async def evaluate(self, iteration: int) -> dict[str, Any] | None:
        """Sample from pi_t and compare its rollouts with the opponents'. None for the base policy, which has no opponent.

        Returns:
            ``iteration``, ``response_tokens``, for each opponent (``base``, ``previous``, those of ``evaluation.against``) the win rate
            with its interval, and under ``oracle`` what the oracle observed: means, and sums over this evaluation of each ``Total``.
        """
        rollouts = await self._sample_all(iteration)
        await self._write_answers(iteration, rollouts)
        opponents = dict(self._kept)
        self._kept = {"base": opponents.get("base", rollouts), "previous": rollouts}
        if not opponents:
            return None
        opponents |= self._given
        result: dict[str, Any] = {"iteration": iteration}
        observed = Averages()
        evaluation = self._config.evaluation
        for name, defenders in opponents.items():
            matches = await asyncio.gather(*(self._oracle.compare(a, b) for a, b in zip(rollouts, defenders, strict=True)))
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
            result["revisions"] = await self._revision_curve(opponents["base"], iteration, observed)
        result["oracle"] = observed.take()
        return result

    async def resume(self, iteration: int) -> None:
        """In a resumed run: sample from pi_t again, since the next evaluation compares with it. The engines hold pi_t."""
        self._kept["previous"] = await self._sample_all(iteration)

    async def _revision_curve(self, defenders: Sequence[RolloutRef], iteration: int, observed: Averages) -> list[dict[str, Any]]:
        """Win rates against the base policy's first responses, after pi_t revised its responses 0, 1, ... times.

        Args:
            defenders: the base policy's rollouts.
            iteration: t.
            observed: gets what the oracle observes.
        """
        evaluation = self._config.evaluation

        async def sample(prompt: Prompt, count: int, purpose: str) -> RolloutRef:
            return await self._sample(prompt, count, "evaluation" if purpose == "generate" else purpose, iteration)

        settings: dict[str, Any] = {"responses": evaluation.responses, "revisions": evaluation.revisions, "revise": self._revise}
        in_flight = self._config.groups_in_flight(evaluation.responses)
        revised = await chains(self._prompts, in_flight, lambda prompt: chain(prompt, sample, **settings))
        write_chains(answers_file(self._config.output_dir, iteration), revised)
        rounds = [[item.rollout(number, iteration) for item in revised] for number in range(evaluation.revisions + 1)]
        matches = await compare_rounds(rounds, defenders, self._oracle.compare, in_flight=in_flight)
        for match in (match for round_matches in matches for match in round_matches):
            observed.add(match.metrics)
        curve = revision_curve(
            matches,
            [sum(mean_tokens(rollout.responses) for rollout in answers) / len(answers) for answers in rounds],
            "tokens",
            resamples=evaluation.bootstrap_resamples,
            confidence=evaluation.confidence,
            seed=self._config.seed,
        )
        return [asdict(point) for point in curve]

    async def _sample_all(self, iteration: int) -> list[RolloutRef]:
        count = self._config.evaluation.responses
        return list(await asyncio.gather(*(self._sample(prompt, count, "evaluation", iteration) for prompt in self._prompts)))

    async def _sample(self, prompt: Prompt, count: int, purpose: str, policy_version: int) -> RolloutRef:
        request = self._requests.build(prompt, count, purpose=purpose, iteration=0, policy_version=policy_version, **self._sampling)
        return await self._rollout.sample(request)

    async def _write_answers(self, iteration: int, rollouts: Sequence[RolloutRef]) -> None:
        answered = [await resolve(rollout) for rollout in rollouts]
        own = [Chain(prompt, (rollout.responses,), 0) for prompt, rollout in zip(self._prompts, answered, strict=True)]
        write_chains(answers_file(self._config.output_dir, iteration), own)

    def _write(self, iteration: int, opponent: str, matches: Sequence[Comparison]) -> None:
        directory = self._config.output_dir / "evaluation"
        directory.mkdir(parents=True, exist_ok=True)
        about = {"iteration": iteration, "opponent": opponent}
        lines = [json.dumps(about | asdict(match), ensure_ascii=False) for match in matches]
        write_whole(directory / f"{iteration_name(iteration)}_against_{opponent}.jsonl", "\n".join(lines) + "\n")


def evaluation_metrics(result: dict[str, Any]) -> dict[str, float]:
    """The metrics of what ``Evaluator.evaluate`` returns; names under ``eval/``."""
    rates = {f"eval/win_rate_against_{opponent}": result[opponent]["win_rate"] for opponent in opponents_in(result)}
    observed = {name.replace("oracle/", "eval/oracle/", 1): value for name, value in result["oracle"].items()}
    return rates | observed | {"eval/response_tokens": result["response_tokens"]}
