"""The ``evaluation`` section: how the policy is evaluated on held-out data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, model_validator

from raypref.errors import ConfigError
from raypref.registry import Section, UserPath
from raypref.sections import one_of

TAKEN = ("base", "previous", "iteration", "step", "oracle", "revisions")
"""Names in the record of an evaluation that no opponent can have."""


class EvaluationConfig(Section):
    """Of the policy on held-out data: win rates on prompts, judged by the run's oracle; the learner's loss on records of given data; its
    likelihood of given texts."""

    responses: PositiveInt = 1
    """Responses per prompt and policy, for win rates."""
    every: Annotated[int, Field(ge=0)] | None = 1
    """Iterations between two evaluations; the last policy is always evaluated. 0: none at all. None: ``every_steps`` is given. A resumed
    run compares its next policy with the one evaluated last, or with the one from which it continues if that one's checkpoint is gone."""
    every_steps: PositiveInt | None = None
    """Optimiser steps between two evaluations, at the next sync, in place of ``every``; only with ``loop.sync_interval``: default 100."""
    loss_every_steps: PositiveInt | None = None
    """Optimiser steps between two losses on held-out data or ``texts``, beside the start and the ends of evaluated iterations and of their
    epochs."""
    revisions: Annotated[int, Field(ge=0)] = 0
    """Times that the policy revises its answers; each revision is compared with the base policy's answers (SRPO Figure 3)."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Sampling of the held-out answers; default: ``rollout.temperature``. 0: the most likely token each time (greedy)."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Likewise; default: ``rollout.top_p``."""
    max_tokens: PositiveInt | None = None
    """Longest held-out answer, in tokens; default, and at most: ``rollout.max_tokens``."""
    against: dict[str, UserPath] = Field(default_factory=dict)
    """Further opponents by name: files with responses to the held-out prompts, in any format that ``raypref evaluate`` reads, such as
    references (``gold: gold.jsonl``) or another policy's answers (``sft: runs/sft@1``). Each policy's win rate against them is reported as
    ``eval/win_rate_against_<name>``."""
    texts: UserPath | None = None
    """A file of prompts with answers, in the fields ``data.prompt_field`` and ``data.response_field``, whatever the run trains on: the
    policy's negative log-likelihood of these answers, per token, is measured like the loss on held-out data (``eval/text_nll``). Records
    of ``data.path`` with one of these prompts are left out and counted."""
    bootstrap_resamples: PositiveInt = 2000
    """Resamples of the prompts for the confidence interval of a win rate."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals of win rates."""

    def wanted(self, held_out: Sequence[Any] | bool) -> bool:
        """Whether a run with these held-out prompts or examples is evaluated."""
        return self.every != 0 and bool(held_out)

    @model_validator(mode="after")
    def _names_of_opponents(self) -> Self:
        for name in self.against:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name in TAKEN:
                reason = f"must begin with a letter, hold letters, digits, _ and - alone, and be none of {', '.join(TAKEN)}"
                raise ConfigError(f"evaluation.against: {name!r} names an opponent; a name {reason}")
        return self

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        one_of(self, "evaluation", "every", "every_steps")
        return self
