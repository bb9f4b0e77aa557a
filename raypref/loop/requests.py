"""The one place that builds what engines are asked."""

from __future__ import annotations

from raypref.sections import RolloutConfig
from raypref.seeds import seed_for
from raypref.types import Prompt, SampleRequest


class RequestBuilder:
    """Builds the requests of a run; the seed of each follows from what it is for."""

    def __init__(self, run_seed: int, rollout: RolloutConfig) -> None:
        """
        Args:
            run_seed: ``seed`` of the config.
            rollout: how to sample, unless a request says otherwise.
        """
        self._run_seed = run_seed
        self._rollout = rollout

    def build(
        self,
        prompt: Prompt,
        count: int,
        *,
        purpose: str,
        iteration: int,
        policy_version: int,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
    ) -> SampleRequest:
        """A request for ``count`` responses to ``prompt``.

        Args:
            prompt: what the policy is given.
            count: K, responses.
            purpose: requests for different purposes draw different responses.
            iteration: the seed depends on it; 0 where the same policy must always give the same responses.
            policy_version: the weights that the engine must hold.
            temperature: default: ``rollout.temperature``.
            top_p: default: ``rollout.top_p``.
            max_tokens: longest response; default: ``rollout.max_tokens``.
        """
        return SampleRequest(
            prompt=prompt,
            count=count,
            seed=seed_for(self._run_seed, purpose, iteration, prompt.id),
            temperature=self._rollout.temperature if temperature is None else temperature,
            top_p=self._rollout.top_p if top_p is None else top_p,
            max_tokens=self._rollout.max_tokens if max_tokens is None else max_tokens,
            policy_version=policy_version,
        )
