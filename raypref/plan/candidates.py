"""Changes that may make a run fit, each with what it costs: first those that change speed alone, then those that change training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from raypref.config import RunConfig
from raypref.sections import LoraConfig

Values = Mapping[str, Any]
"""Dotted path -> value."""


@dataclass(frozen=True, slots=True)
class Candidate:
    values: Callable[[RunConfig], Values]
    """Empty where it changes nothing."""
    costs: str


def with_values(config: RunConfig, values: Values) -> RunConfig:
    """The config with other values; unlike overrides of a file, objects of the caller's stay in it."""
    for path, value in values.items():
        config = _with_value(config, path.split("."), value)
    return config


def _with_value(section: Any, path: Sequence[str], value: Any) -> Any:
    name, *inside = path
    return section.model_copy(update={name: _with_value(getattr(section, name), inside, value) if inside else value})


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


def _more_ranks(config: RunConfig) -> Values:
    ranks = config.placement.learner.ranks
    return {} if config.placement.layout == "colocated" or not config.learner.zero_stage else {"placement.learner.ranks": 2 * ranks}


def _in_turns(config: RunConfig, share: float) -> Values:
    """All GPUs that the run has for sampling and for training in turn, with a share of each for an engine while it is awake."""
    placement = config.placement
    if placement.sleep or config.learner.zero_stage < 2:
        return {}
    taking_turns: dict[str, Any] = {"placement.sleep": True, "loop.overlap": False}
    if config.rollout.kv_cache_gib is None:
        taking_turns["rollout.gpu_memory_utilization"] = share
    return taking_turns if placement.layout == "colocated" else {"placement.layout": "colocated", **taking_turns, **_shared(config)}


def _shared(config: RunConfig) -> Values:
    """All of the GPUs for the ranks, and for as many engines as that makes."""
    placement, width = config.placement, config.placement.rollout.tensor_parallel
    ranks = placement.learner.ranks + placement.rollout.engines * width
    ranks -= ranks % width
    values = {"placement.learner.ranks": ranks, "placement.rollout.engines": ranks // width}
    return values | ({"placement.reference.gpus": 1.0} if config.frozen_logps and placement.reference.gpus > 1 else {})


def _rmsprop(config: RunConfig) -> Values:
    return {} if config.learner.optimizer.type == "rmsprop" else {"learner.optimizer.type": "rmsprop"}


def _adapter(config: RunConfig) -> Values:
    return {} if config.policy.lora is not None else {"policy.lora": LoraConfig()}


CANDIDATES = (
    Candidate(_checkpointing, "each block's forward pass is computed twice: a third more training time"),
    Candidate(_smaller_cache, "engines decode fewer sequences at once"),
    Candidate(_zero_3, "the parameters are gathered in every pass"),
    Candidate(_wider_engines, "engines exchange activations at every layer"),
    Candidate(_spread_references, "more GPUs for references, one of which computes at a time"),
    Candidate(_more_ranks, "more GPUs for the learner"),
    Candidate(partial(_in_turns, share=0.5), "sampling and training no longer overlap"),
    Candidate(partial(_in_turns, share=0.3), "sampling and training no longer overlap, and engines decode fewer sequences at once"),
    Candidate(_rmsprop, "another optimiser: one moment in place of two"),
    Candidate(_adapter, "an adapter is trained in place of all parameters"),
)
