"""Partners for losses that train on mismatched responses (``Loss.mismatched``): each prompt's rollout comes with another prompt's.

The partner of a prompt is the prompt before it in the run's order, however groups finish; the partner of an iteration's first prompt is
the one after it. Prompts with the same turns are passed over: their responses would answer this prompt, too. A rollout that two groups need
is sampled once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain

from raypref.data.identity import differ, turns_of_prompt
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
            DataError: all prompts are the same.
        """
        if not differ(prompts):
            raise DataError(
                "data: mismatched sequences need the responses of another prompt, and there is only one; give different prompts"
            )
        self._sample = sample
        self._prompts = prompts
        self._first = first
        self._rollouts: dict[int, asyncio.Future[RolloutRef]] = {}
        self._sampled: set[int] = set()
        self._judged: set[int] = set()

    async def rollout_and_partner(self, prompt: Prompt) -> tuple[RolloutRef, RolloutRef]:
        """References to the prompt's rollout and to its partner's. Called in the order of the prompts."""
        other = self._partner_of(prompt)
        self._judged.add(prompt.index)
        rollout, partner = self._start(prompt.index), self._start(other)
        self._rollouts = {index: future for index, future in self._rollouts.items() if index >= prompt.index or index == other}
        return await rollout, await partner

    def unused(self) -> dict[str, float]:
        """The metric of the rollouts that were partners alone."""
        return {"rollout/unjudged_partners": float(len(self._sampled - self._judged))}

    def _partner_of(self, prompt: Prompt) -> int:
        """The nearest other prompt before it in the iteration; without one, the nearest after it, and after the last the run's first."""
        turns, count = turns_of_prompt(prompt.text, prompt.chat), len(self._prompts)
        places = chain(
            range(prompt.index - 1, self._first - 1, -1), (place % count for place in range(prompt.index + 1, prompt.index + count))
        )
        return next(place for place in places if turns_of_prompt(self._prompts[place].text, self._prompts[place].chat) != turns)

    def _start(self, index: int) -> asyncio.Future[RolloutRef]:
        if index not in self._rollouts:
            self._sampled.add(index)
            self._rollouts[index] = asyncio.ensure_future(self._sample(self._prompts[index]))
        return self._rollouts[index]
