"""Partners for losses that train on mismatched responses (``Loss.mismatched``): each prompt's rollout comes with another prompt's.

The partner of a prompt is the prompt before it in the run's order, however groups finish; the partner of an iteration's first prompt is
the one after it. A rollout that two groups need is sampled once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from raypref.errors import DataError
from raypref.types import Prompt, RolloutRef


class MismatchedPartners:
    """The rollouts of one iteration, each with its partner."""

    def __init__(self, sample: Callable[[Prompt], Awaitable[RolloutRef]], prompts: Sequence[Prompt], first: int) -> None:
        """
        Args:
            sample: samples a rollout of a prompt under pi_t.
            prompts: all prompts of the run; ``Prompt.index`` is the position here.
            first: index of the iteration's first prompt.

        Raises:
            DataError: there is only one prompt.
        """
        if len(prompts) < 2:
            raise DataError("data: mismatched sequences need the responses of another prompt, and there is only one")
        self._sample = sample
        self._prompts = prompts
        self._first = first
        self._rollouts: dict[int, asyncio.Future[RolloutRef]] = {}

    async def rollout_and_partner(self, prompt: Prompt) -> tuple[RolloutRef, RolloutRef]:
        """References to the prompt's rollout and to its partner's. Called in the order of the prompts."""
        other = prompt.index - 1 if prompt.index > self._first else (prompt.index + 1) % len(self._prompts)
        rollout, partner = self._start(prompt.index), self._start(other)
        self._rollouts = {index: future for index, future in self._rollouts.items() if index >= prompt.index}
        return await rollout, await partner

    def _start(self, index: int) -> asyncio.Future[RolloutRef]:
        if index not in self._rollouts:
            self._rollouts[index] = asyncio.ensure_future(self._sample(self._prompts[index]))
        return self._rollouts[index]
