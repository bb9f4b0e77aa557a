"""What may be different when a run is resumed: where it runs and how long, never what it has computed so far."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from raypref.config import RunConfig
from raypref.errors import ConfigError, Problem
from raypref.output.checkpoint import RunState

MAY_CHANGE = (
    "name",
    "output_dir",
    "placement",
    "evaluation",
    "reference.measure_kl",
    "checkpoint",
    "sync",
    "supervision",
    "metrics",
    "loop.window_groups",
    "loop.overlap",
    "policy.gradient_checkpointing",
    "rollout.max_num_seqs",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_gib",
    "rollout.enforce_eager",
    "learner.micro_batch_tokens",
    "learner.zero_stage",
    "learner.timeout_s",
)
"""Where the run takes place, how it is divided, the memory that it takes."""

DATA_PLACES = ("data.path", "data.split", "data.held_out", "data.held_out_split", "evaluation.texts")
"""Where the data is. These may change if the data itself was compared: the same file under another path is the same data."""

LENGTH = ("loop.iterations", "loop.steps")
"""How long the run is. It may change where nothing that was computed so far depends on it."""


def settings_hash(config: RunConfig) -> str:
    """A hash of all settings that a run keeps when it is resumed."""
    shaping = dict(_shaping(config.model_dump(mode="json")))
    return hashlib.blake2b(json.dumps(shaping, sort_keys=True).encode(), digest_size=16).hexdigest()


def _shaping(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each setting that may not change."""
    if path in (*MAY_CHANGE, *LENGTH, *DATA_PLACES):
        return
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _shaping(inner, f"{path}.{key}" if path else str(key))


def config_problems(before: Any, config: RunConfig, state: RunState, *, data_compared: bool) -> list[Problem]:
    """What a resumed run may not change, one problem for each key.

    Args:
        before: the config of the run, as its ``config.yaml`` has it.
        config: the one with which it is to be resumed.
        state: of the checkpoint.
        data_compared: whether the data was found to be the same.
    """
    problems = []
    for path, (old, new) in sorted(_differences(_complete(before), config.model_dump(mode="json")).items()):
        differs = f"but the run has {_written(old)}"
        if path in LENGTH:
            problems += [
                Problem(path, _written(new), f"{differs}, and {reason}", remedy) for reason, remedy in _fixed_length(config, state)
            ]
        elif not (data_compared and path in DATA_PLACES):
            problems.append(Problem(path, _written(new), differs, "set it as its config.yaml has it"))
    return problems


def _written(value: Any) -> str:
    """A value as YAML has it, in one line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _fixed_length(config: RunConfig, state: RunState) -> Iterator[tuple[str, str]]:
    """Why the run cannot have another length than before, and what would allow it; nothing where it can."""
    loop, schedule = config.loop, config.learner.schedule
    begun = state.iteration + (state.steps_within > 0)
    if config.iterations < begun:
        yield f"{begun} iterations are finished" if begun == state.iteration else f"iteration {begun} has begun", "give at least as many"
    elif loop.prompts_per_iteration is None and loop.sync_interval is None:
        reason = "its prompts are split evenly over the iterations: the finished ones would have taken others"
        yield reason, "a new run with loop.prompts_per_iteration or loop.sync_interval can be made longer"
    elif schedule.span == "run" and (schedule.type != "constant" or schedule.warmup_ratio):
        reason = "its learning rate falls over the whole run (learner.schedule.span: run): the finished steps would have had another one"
        yield reason, "a new run with learner.schedule.span=iteration, or with type=constant and warmup_ratio=0, can be made longer"


def _complete(before: Any) -> Any:
    """The config with the defaults of keys that did not exist when it was written; as it is where it cannot be read any more."""
    try:
        return RunConfig.parse(before).model_dump(mode="json")
    except ConfigError:
        return before


def _differences(before: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted path -> the value before and the value now, where they differ and are not among ``MAY_CHANGE``."""
    if path in MAY_CHANGE or before == now:
        return {}
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return {path: (before, now)}
    differences: dict[str, tuple[Any, Any]] = {}
    for key in before.keys() | now.keys():
        differences |= _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    return differences
