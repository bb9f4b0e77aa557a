"""What to change when a run does not fit: sets of overrides, each of which was planned itself and fits.

Candidates come in an order: first those that change speed alone, then those that change how the policy is trained. All sets of up to three
are tried, the smallest first, and with each of them a smaller micro-batch if it is all that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from raypref.checks import check
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.plan.fit import Setting, fits, largest_micro_batch
from raypref.plan.model_shape import ModelShape
from raypref.sections import LoraConfig, PlacementConfig

Values = Mapping[str, Any]
"""Dotted path -> value."""
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


@dataclass(frozen=True, slots=True)
class _Candidate:
    values: Callable[[RunConfig], Values]
    """Empty where it changes nothing."""
    costs: str


def remedies(setting: Setting, shape_of: Callable[[LoraConfig | None], ModelShape]) -> Iterator[Remedy]:
    """Sets of changes with which the run fits; none where it fits, or nothing helps.

    Args:
        setting: that does not fit.
        shape_of: the policy's shape with another adapter.
    """
    found: list[frozenset[str]] = []
    for size in range(_LARGEST_SET + 1):
        for chosen in combinations(_CANDIDATES, size):
            remedy = _tried(setting, chosen, shape_of)
            if remedy is None:
                continue
            paths = frozenset(override.partition("=")[0] for override in remedy.overrides)
            if not any(smaller <= paths for smaller in found):
                found.append(paths)
                yield remedy
                if len(found) == _MOST:
                    return


def _tried(setting: Setting, chosen: Sequence[_Candidate], shape_of: Callable[[LoraConfig | None], ModelShape]) -> Remedy | None:
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
            values["learner.micro_batch_tokens"] = most
            costs.append("more and smaller passes")
    except ConfigError:  # such a layout cannot be made
        return None
    overrides = tuple(f"{path}={_shown(value)}" for path, value in values.items())
    return Remedy(overrides, tuple(costs)) if overrides else None


def with_values(config: RunConfig, values: Values) -> RunConfig:
    """The config with other values; unlike overrides of a file, objects of the caller's stay in it."""
    for path, value in values.items():
        config = _with_value(config, path.split("."), value)
    return config


def _with_value(section: Any, path: Sequence[str], value: Any) -> Any:
    name, *inside = path
    return section.model_copy(update={name: _with_value(getattr(section, name), inside, value) if inside else value})


def _shown(value: Any) -> str:
    if isinstance(value, LoraConfig | bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _checkpointing(config: RunConfig) -> Values:
    return {} if config.policy.gradient_checkpointing else {"policy.gradient_checkpointing": True}


def _zero_3(config: RunConfig) -> Values:
    return {} if config.learner.zero_stage == 3 or config.placement.learner.ranks == 1 else {"learner.zero_stage": 3}


def _wider_engines(config: RunConfig) -> Values:
    """Half as many engines, each over twice as many GPUs; colocated ones, and one alone, need no more GPUs than there are."""
    engines, width = config.placement.rollout.engines, config.placement.rollout.tensor_parallel
    if config.placement.layout == "colocated" and config.placement.learner.ranks % (2 * width):
        return {}
    return {"placement.rollout.tensor_parallel": 2 * width, "placement.rollout.engines": max(1, engines // 2)}


def _spread_references(config: RunConfig) -> Values:
    gpus = config.placement.reference.gpus
    if config.placement.layout == "colocated" or not config.frozen_logps:
        return {}
    return {"placement.reference.gpus": 2 * max(1, int(gpus))}


def _smaller_cache(config: RunConfig) -> Values:
    """Of an engine that shares its GPU."""
    share = config.rollout.gpu_memory_utilization
    if config.rollout.kv_cache_gib is not None:
        return {"rollout.kv_cache_gib": config.rollout.kv_cache_gib / 2}
    return {"rollout.gpu_memory_utilization": round(share / 2, 2)} if config.placement.layout == "colocated" and share > 0.2 else {}


def _in_turns(config: RunConfig) -> Values:
    """All GPUs that the run has for sampling and for training in turn."""
    placement = config.placement
    if placement.sleep or config.learner.zero_stage < 2:
        return {}
    if placement.layout == "colocated":
        return {"placement.sleep": True, "loop.overlap": False}
    return {"placement.layout": "colocated", "placement.sleep": True, "loop.overlap": False, **_shared(config, placement)}


def _shared(config: RunConfig, placement: PlacementConfig) -> Values:
    width = placement.rollout.tensor_parallel
    ranks = placement.learner.ranks + placement.rollout.engines * width
    ranks -= ranks % width
    values = {"placement.learner.ranks": ranks, "placement.rollout.engines": ranks // width, "rollout.gpu_memory_utilization": 0.6}
    return values | ({"placement.reference.gpus": 1.0} if config.frozen_logps and placement.reference.gpus > 1 else {})


def _rmsprop(config: RunConfig) -> Values:
    return {} if config.learner.optimizer.type == "rmsprop" else {"learner.optimizer.type": "rmsprop"}


def _adapter(config: RunConfig) -> Values:
    return {} if config.policy.lora is not None else {"policy.lora": LoraConfig()}


_CANDIDATES = (
    _Candidate(_checkpointing, "each block's forward pass is computed twice: a third more training time"),
    _Candidate(_smaller_cache, "engines decode fewer sequences at once"),
    _Candidate(_zero_3, "the parameters are gathered in every pass"),
    _Candidate(_wider_engines, "engines exchange activations at every layer"),
    _Candidate(_spread_references, "more GPUs for references, one of which computes at a time"),
    _Candidate(_in_turns, "sampling and training no longer overlap"),
    _Candidate(_rmsprop, "another optimiser: one moment in place of two"),
    _Candidate(_adapter, "an adapter is trained in place of all parameters"),
)
