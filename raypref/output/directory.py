"""The output directory: a new run's, or one that goes on.

``config.yaml``, ``metrics.jsonl``, ``tensorboard/``, ``rollouts/``, ``evaluation/``, ``checkpoints/``, ``logs/``, ``policy/``,
``summary.json``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.output.checkpoint import Checkpoints, RunState

MAY_CHANGE = (
    "name",
    "output_dir",
    "placement",
    "evaluation",
    "checkpoint",
    "sync",
    "loop.window_groups",
    "loop.overlap",
    "policy.gradient_checkpointing",
    "rollout.max_num_seqs",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_gib",
    "rollout.enforce_eager",
    "learner.micro_batch_tokens",
    "learner.timeout_s",
)
"""What a run that goes on may set otherwise: where and how it runs and the memory that it takes, never what it computes."""


def begin(config: RunConfig) -> None:
    """Make the directory and write the resolved config.

    Raises:
        ConfigError: another run is there, or the directory cannot be written.
    """
    directory = config.output_dir
    if (directory / "metrics.jsonl").exists():
        go_on = "continue it with --resume, or " if Checkpoints.of(config).complete() else ""
        raise ConfigError(f"output_dir: {directory} holds another run; {go_on}choose or empty a directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.yaml").write_text(yaml.safe_dump(_plain(config), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"output_dir: {directory} cannot be written: {error}") from error


def resume(config: RunConfig) -> Path:
    """The newest checkpoint of the run in ``output_dir``; what was written after it is removed, since it comes again.

    Raises:
        ConfigError: there is none, or its run computed something else.
    """
    newest = Checkpoints.of(config).latest()
    before = yaml.safe_load((config.output_dir / "config.yaml").read_text())
    if changed := sorted(_differences(before, _plain(config))):
        raise ConfigError(
            f"--resume: {', '.join(changed)} differ from the run in {config.output_dir}; set them as its config.yaml has them"
        )
    state, _ = Checkpoints.read(newest)
    _forget_after(config.output_dir, state)
    return newest


def _plain(config: RunConfig) -> dict[str, Any]:
    dumped: dict[str, Any] = config.model_dump(mode="json")
    return dumped


def _differences(before: Any, now: Any, path: str = "") -> set[str]:
    """Dotted paths of the values that differ, without those that may."""
    if path in MAY_CHANGE:
        return set()
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            found
            for key in before.keys() | now.keys()
            for found in _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        }
    return set() if before == now else {path}


def _forget_after(directory: Path, state: RunState) -> None:
    """Remove metrics and rollouts of the iteration that was under way."""
    metrics = directory / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.step))
    shutil.rmtree(directory / "rollouts" / ".open", ignore_errors=True)
    for part in (directory / "rollouts").glob("iteration_*.parquet"):
        if int(part.name.split("-")[0].removeprefix("iteration_")) >= state.iteration:
            part.unlink()
