"""What is done with one item of an iteration: a prompt is answered and judged, a given example is as it is; both get frozen log-probs.

References travel; the data does not come by here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from raypref.config import RunConfig
from raypref.output.metrics import Averages, StageClock
from raypref.output.progress import Callback
from raypref.roles import Ref, Roles
from raypref.types import Example, Prompt, Slice


class Groups:
    """The work on groups, several at a time."""

    def __init__(self, config: RunConfig, roles: Roles, clock: StageClock, averages: Averages, callbacks: Sequence[Callback]) -> None:
        self._mismatched = config.loss.mismatched
        self._roles = roles
        self._clock = clock
        self._averages = averages
        self._callbacks = callbacks

    async def sampled(self, answer: Callable[[Prompt], Awaitable[Any]], prompt: Prompt) -> Slice:
        """Prompt -> rollout -> verdict -> examples with their frozen log-probs.

        Args:
            answer: the prompt's rollout; for a loss with mismatched sequences the pair of it and another prompt's.
            prompt: of the group.
        """
        assert self._roles.oracle is not None
        rollouts: tuple[Ref, Ref | None] = await answer(prompt) if self._mismatched else (await answer(prompt), None)
        with self._clock.stage("judge"):
            verdict, examples = await self._roles.oracle.judge(*rollouts)
        self._averages.add(verdict.metrics)
        for callback in self._callbacks:
            callback.on_group(verdict)
        if verdict.examples:
            examples = await self._frozen_logps(examples)
        return Slice(examples, 0, verdict.examples)

    async def given(self, example: Example) -> Slice:
        """A given example with its frozen log-probs."""
        return Slice(await self._frozen_logps((example,)), 0, 1)

    async def _frozen_logps(self, examples: Any) -> Any:
        if self._roles.reference is None:
            return examples
        with self._clock.stage("reference"):
            return await self._roles.reference.score(examples)
