"""What to change when a run does not fit: sets of overrides, each of which was planned itself and fits.

Candidates come in an order: first those that change speed alone, then those that change how the policy is trained. All sets of up to three
are tried, the smallest first, until some help, and with each of them a smaller micro-batch if it is all that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from raypref.checks import check
from raypref.errors import ConfigError
from raypref.plan.candidates import CANDIDATES, Candidate, with_values
from raypref.plan.fit import fits, largest_micro_batch
from raypref.plan.model_shape import ModelShape
from raypref.plan.setting import Setting
from raypref.sections import LoraConfig

LEAST_MICRO_BATCH = 1024
"""Smaller ones are not proposed unless every example is shorter: a GPU would mostly wait."""
_MOST = 4
_LARGEST_SET = 3


@dataclass(frozen=True, slots=True)
class Remedy:
    """Overrides with which the run fits."""

    overrides: tuple[str, ...]
    """``section.key=value``, as the command takes them."""
    costs: tuple[str, ...]
    """What each change costs."""

    @property
    def paths(self) -> frozenset[str]:
        """The keys that it sets."""
        return frozenset(override.partition("=")[0] for override in self.overrides)


def remedies(setting: Setting, shape_of: Callable[[LoraConfig | None], ModelShape]) -> list[Remedy]:
    """Sets of changes with which the run fits; none where it fits, or nothing helps.

    Args:
        setting: that does not fit.
        shape_of: the policy's shape with another adapter.
    """
    found: list[Remedy] = []
    for size in range(_LARGEST_SET + 1):
        tried = (_tried(setting, chosen, shape_of) for chosen in combinations(CANDIDATES, size))
        found += [remedy for remedy in tried if remedy is not None]
        if len(found) >= _MOST:
            break
    return [remedy for remedy in found if not any(other.paths < remedy.paths for other in found)][:_MOST]


def _tried(setting: Setting, chosen: Sequence[Candidate], shape_of: Callable[[LoraConfig | None], ModelShape]) -> Remedy | None:
    config, values = setting.config, dict[str, Any]()
    for candidate in chosen:
        changes = candidate.values(config)
        if not changes:
            return None
        config = with_values(config, changes)
        values |= changes
    shape = setting.shape if config.policy.lora == setting.config.policy.lora else shape_of(config.policy.lora)
    costs = [candidate.costs for candidate in chosen]
    changed = replace(setting, config=config, shape=shape)
    if check(config, setting.task):
        return None
    try:
        if not fits(changed):
            most = largest_micro_batch(changed, config.learner.micro_batch_tokens)
            if most is None or most < min(LEAST_MICRO_BATCH, config.learner.micro_batch_tokens):
                return None
            if not fits(replace(changed, config=with_values(config, {"learner.micro_batch_tokens": most}))):
                return None  # other roles do not
            values["learner.micro_batch_tokens"] = most
            costs.append("more and smaller passes")
    except ConfigError:  # such a layout cannot be made
        return None
    overrides = tuple(f"{path}={_shown(value)}" for path, value in values.items())
    return Remedy(overrides, tuple(costs)) if overrides else None


def _shown(value: Any) -> str:
    if isinstance(value, LoraConfig | bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
