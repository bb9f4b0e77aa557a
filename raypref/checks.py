"""What the parts that are not ours get wrong, refused before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raypref.errors import ConfigError

if TYPE_CHECKING:
    from raypref.sections import LearnerConfig, PolicyConfig


def check_learner(policy: PolicyConfig, learner: LearnerConfig) -> None:
    """Refuse what DeepSpeed trains wrongly, in silence.

    Raises:
        ConfigError: bfloat16 at ZeRO stage 0: DeepSpeed 0.19.8 steps the optimiser once on zero gradients when it starts, and the
            parameters end up 14% from plain AdamW's after five steps.
    """
    if policy.dtype == "bfloat16" and learner.zero_stage == 0:
        raise ConfigError(
            "learner.zero_stage: 0 trains wrongly in DeepSpeed with policy.dtype=bfloat16; use 1, which costs no more, or float32"
        )
