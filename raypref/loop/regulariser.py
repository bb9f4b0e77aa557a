"""Fresh samples for the regulariser: responses of the policy as it is now, every T optimiser steps.

    step s, s a multiple of T:  weights -> engines (references keep pi_t) -> samples -> learner

Source: SPO Algorithm 1. pi_t does not move: it is the policy of the last data sync, and what depends on it (the iteration's own
responses, the log-probs under pi_t) has been sampled, or is computed by the references, which keep pi_t.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from raypref.config import RunConfig
from raypref.roles import Audience, LearnerRole, RolloutRole
from raypref.seeds import seed_for
from raypref.types import Prompt, SampleRequest

Sync = Callable[[int, Audience], Awaitable[None]]
"""(version, audience): see ``raypref.roles.LearnerRole.sync``."""


def fresh_version(step: int, iterations: int) -> int:
    """The version of the weights after ``step`` steps where they are not pi_t; pi_t's versions are 0 to ``iterations``."""
    return iterations + 1 + step


class FreshSamples:
    """Keeps the learner's regulariser supplied."""

    def __init__(self, config: RunConfig, learner: LearnerRole, rollout: RolloutRole, prompts: Sequence[Prompt], sync: Sync) -> None:
        """
        Args:
            prompts: of the training data, in the run's order.
            sync: copies the learner's weights to the engines under a version, and checks that they arrived.
        """
        self._config = config
        self._learner = learner
        self._rollout = rollout
        self._prompts = prompts
        self._sync = sync

    async def before_step(self, step: int, held: int | None) -> None:
        """Sample anew where the step is a multiple of T.

        Args:
            step: optimiser steps of the run so far.
            held: the version that the engines hold of these very weights; None when they hold older ones.
        """
        if step % self._config.regulariser.every:
            return
        version = fresh_version(step, self._config.loop.iterations) if held is None else held
        if held is None:
            await self._sync(version, "engines")
        samples = [self._rollout.sample(self._request(prompt, step, version)) for prompt in self._due(step)]
        await self._learner.regularise(await asyncio.gather(*samples))

    def _due(self, step: int) -> list[Prompt]:
        """The prompts that training comes to around this step, from the first again when there are fewer."""
        start = step * self._config.learner.global_batch
        return [self._prompts[(start + k) % len(self._prompts)] for k in range(self._config.regulariser.samples)]

    def _request(self, prompt: Prompt, step: int, version: int) -> SampleRequest:
        """At temperature 1: the expectation is under pi_theta itself."""
        return SampleRequest(
            prompt=prompt,
            count=1,
            seed=seed_for(self._config.seed, "regulariser", step, prompt.id),
            temperature=1.0,
            top_p=1.0,
            max_tokens=self._config.regulariser.max_tokens or self._config.rollout.max_tokens,
            policy_version=version,
        )
