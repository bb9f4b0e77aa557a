"""Samples for the regulariser: responses of the policy as it is now, every T optimiser steps.

    step s, s a multiple of T:  weights -> engines (references keep pi_t) -> samples -> learner

Source: SPO Algorithm 1. pi_t stays the policy of the iteration's start: the iteration's responses have all been sampled by then, and the
references, which compute log-probs under pi_t, do not take these weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from raypref.config import RunConfig
from raypref.loop.requests import RequestBuilder
from raypref.roles import Audience, Roles
from raypref.types import Prompt, RunData, SampleRequest

Sync = Callable[[int, Audience], Awaitable[None]]
"""(version, audience): see ``raypref.roles.LearnerRole.sync``."""


def version_between_iterations(step: int, iterations: int) -> int:
    """A version for the policy after ``step`` steps that no pi_t has: theirs are 0 to ``iterations``."""
    return iterations + 1 + step


class RegulariserSamples:
    """Gives the learner new samples when they are due."""

    def __init__(self, config: RunConfig, roles: Roles, data: RunData, *, requests: RequestBuilder, sync: Sync) -> None:
        """
        Args:
            config: of the run; ``regulariser`` says how often and how many.
            roles: engines, and the learner, which gets the samples.
            data: its training prompts, in the run's order.
            requests: builds what the engines are asked.
            sync: copies the learner's weights to the engines under a version, and checks that they arrived.
        """
        assert roles.rollout is not None
        self._config = config
        self._learner, self._rollout = roles.learner, roles.rollout
        self._prompts = data.prompts
        self._requests = requests
        self._sync = sync

    async def before_step(self, step: int, held_version: int | None) -> None:
        """Sample if the step is a multiple of T.

        Args:
            step: optimiser steps of the run so far.
            held_version: the version under which the engines hold the learner's present weights; None if they hold older ones.
        """
        if step % self._config.regulariser.every:
            return
        version = held_version
        if version is None:
            version = version_between_iterations(step, self._config.iterations)
            await self._sync(version, "engines")
        samples = [self._rollout.sample(self._request(prompt, step, version)) for prompt in self._prompts_of(step)]
        await self._learner.regularise(await asyncio.gather(*samples))

    def _prompts_of(self, step: int) -> list[Prompt]:
        """The prompts that training reaches around this step; the first follows the last when there are fewer."""
        start = step * self._config.learner.global_batch
        return [self._prompts[(start + k) % len(self._prompts)] for k in range(self._config.regulariser.samples)]

    def _request(self, prompt: Prompt, step: int, version: int) -> SampleRequest:
        """At temperature 1: the expectation is under pi_theta itself."""
        return self._requests.build(
            prompt,
            1,
            purpose="regulariser",
            iteration=step,
            policy_version=version,
            temperature=1.0,
            top_p=1.0,
            max_tokens=self._config.regulariser.max_tokens,
        )
