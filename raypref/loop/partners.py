"""Each prompt's rollout once, though two groups ask for it: its own, and its neighbour's for mismatched sequences (``Loss.mismatched``).

The partner of a prompt is the one before it in the run's order, whatever the order in which groups finish; of an iteration's first
prompt it is the one after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from raypref.errors import DataError
from raypref.roles import Ref
from raypref.types import Prompt


class Partners:
    """The rollouts of one iteration."""

    def __init__(self, sample: Callable[[Prompt], Awaitable[Ref]], prompts: Sequence[Prompt], first: int) -> None:
        """
        Args:
            sample: a rollout of a prompt under pi_t.
            prompts: of the run; a prompt's ``index`` is its place.
            first: index of the iteration's first prompt.

        Raises:
            DataError: there is only one prompt.
        """
        if len(prompts) < 2:
            raise DataError("data: mismatched sequences need the responses of another prompt, and there is only one")
        self._sample = sample
        self._prompts = prompts
        self._first = first
        self._rollouts: dict[int, asyncio.Future[Ref]] = {}

    async def of(self, prompt: Prompt) -> tuple[Ref, Ref]:
        """References to the prompt's own rollout and to its partner's. Called in the order of the prompts."""
        partner = prompt.index - 1 if prompt.index > self._first else (prompt.index + 1) % len(self._prompts)
        own, other = self._rollout(prompt.index), self._rollout(partner)
        self._rollouts = {index: rollout for index, rollout in self._rollouts.items() if index >= prompt.index}
        rollouts: tuple[Ref, Ref] = (await own, await other)
        return rollouts

    def _rollout(self, index: int) -> asyncio.Future[Ref]:
        if index not in self._rollouts:
            self._rollouts[index] = asyncio.ensure_future(self._sample(self._prompts[index]))
        return self._rollouts[index]
