"""The ``evaluation`` section: how the policy is evaluated on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, model_validator

from raypref.registry import Section
from raypref.sections import one_of


class EvaluationConfig(Section):
    """Of the policy on held-out data: win rates on prompts, judged by the run's oracle; the learner's loss on records of given data."""

    responses: PositiveInt = 1
    """Responses per prompt and policy, for win rates."""
    every: Annotated[int, Field(ge=0)] | None = 1
    """Iterations between two evaluations; the last policy is always evaluated. 0: none at all. None: ``every_steps`` is given. A resumed
    run compares its next policy with the one evaluated last, or with the one from which it continues if that one's checkpoint is gone."""
    every_steps: PositiveInt | None = None
    """Optimiser steps between two evaluations, at the next sync, in place of ``every``; only with ``loop.sync_interval``: default 100."""
    loss_every_steps: PositiveInt | None = None
    """Optimiser steps between two losses on held-out data, beside the start and the ends of evaluated iterations and of their epochs."""
    revisions: Annotated[int, Field(ge=0)] = 0
    """Times that the policy revises its answers; each revision is compared with the base policy's answers (SRPO Figure 3)."""
    bootstrap_resamples: PositiveInt = 2000
    """Resamples of the prompts for the confidence interval of a win rate."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals of win rates."""

    def wanted(self, held_out: Sequence[Any] | bool) -> bool:
        """Whether a run with these held-out prompts or examples is evaluated."""
        return self.every != 0 and bool(held_out)

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        one_of(self, "evaluation", "every", "every_steps")
        return self
