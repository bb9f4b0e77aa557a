"""What holds the policy near where it came from: the ``reference`` and ``regulariser`` sections of the config."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from raypref.errors import ConfigError
from raypref.section import Section


class ReferenceConfig(Section):
    """pi_ref. pi_t, the policy at the iteration's start, is a slot of its own, which a loss asks for by itself."""

    policy: Literal["fixed", "refreshed"] = "fixed"
    """fixed: the policy that the run started from; refreshed: the policy of every so many iterations ago."""
    every: PositiveInt = 1
    """Iterations between two refreshes: pi_ref is the policy at the start of iteration t - t mod every. Only with ``policy: refreshed``;
    1 makes pi_ref the same as pi_t."""


class RegulariserConfig(Section):
    """SPO's global regulariser: coefficient * mean over samples of the token-wise KL(pi_theta || pi_ref), over the whole vocabulary.

    Source: SPO (15), Algorithm 1. The samples are responses of pi_theta to prompts that are due around the step, one a prompt. Where
    pi_theta samples the training data too, an iteration's sampling is finished before its first step: nothing overlaps then.
    """

    type: Literal["none", "token_kl"] = "none"
    """none: no regulariser beyond the loss' own."""
    coefficient: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the KL, in units of loss for one nat a response (the paper: 0.01 and 0.1)."""
    every: PositiveInt = 8
    """T, optimiser steps between two sets of samples (the paper: 8); counted over the whole run."""
    samples: PositiveInt = 32
    """Responses in a set (the paper: 32)."""
    max_tokens: PositiveInt | None = None
    """Longest sample, in tokens; default: ``rollout.max_tokens``."""

    @property
    def on(self) -> bool:
        """Whether there is one."""
        return self.type != "none"

    @model_validator(mode="after")
    def _weighty(self) -> Self:
        if self.on and not self.coefficient:
            raise ConfigError("regulariser.coefficient: 0 has no effect and samples for nothing; set regulariser.type=none")
        return self
