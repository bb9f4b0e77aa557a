"""The one place that builds what engines are asked."""

from __future__ import annotations

import hashlib

from raypref.sections import RolloutConfig
from raypref.seeds import seed_for
from raypref.types import Prompt, SampleRequest


class RequestBuilder:
    """Builds the requests of a run; the seed of each follows from what it is for."""

    def __init__(self, run_seed: int, rollout: RolloutConfig, settings: str = "") -> None:
        """
        Args:
            run_seed: ``seed`` of the config.
            rollout: how to sample, unless a request says otherwise.
            settings: a hash of all settings that shape a group; default: what is sampled is not recorded.
        """
        self._run_seed = run_seed
        self._rollout = rollout
        self._settings = settings
        self.weights = ""
        """A hash of the weights that the engines hold; set by every weight sync."""

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
        seed = seed_for(self._run_seed, purpose, iteration, prompt.id)
        return SampleRequest(
            prompt=prompt,
            count=count,
            seed=seed,
            temperature=self._rollout.temperature if temperature is None else temperature,
            top_p=self._rollout.top_p if top_p is None else top_p,
            max_tokens=self._rollout.max_tokens if max_tokens is None else max_tokens,
            policy_version=policy_version,
            origin=self._origin(prompt, seed) if purpose == "train" else "",
        )

    def _origin(self, prompt: Prompt, seed: int) -> str:
        if not self._settings:
            return ""
        shaping = f"{self._settings} {self.weights} {seed} {prompt.index} ".encode() + prompt.token_ids.tobytes()
        return hashlib.blake2b(shaping, digest_size=16).hexdigest()
