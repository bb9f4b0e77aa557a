"""The output directory of a new run, or of one that is resumed.

    config.yaml      the resolved config
    metrics.jsonl    metrics by step (docs/metrics.md); also in tensorboard/
    rollouts/        iteration_0001-*.parquet: responses and preferences (docs/columns.md)
    evaluation/      iteration_0001_against_base.jsonl, ..._against_previous.jsonl: held-out comparisons (docs/columns.md)
    checkpoints/     iteration_0001/: the training state after iteration 1
    failures/        a batch whose loss was not finite
    logs/            one file per actor
    policy/          the final policy as a Hugging Face model directory
    summary.json     the report of a finished run

Iterations are counted from 1 everywhere: rollouts, checkpoint and evaluation of one iteration have the same number.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.output import targets
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.numbered import by_number, number_in

MAY_CHANGE = (
    "name",
    "output_dir",
    "placement",
    "evaluation",
    "reference.measure_kl",
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
"""What may change when a run is resumed: where it runs, how it is divided, the memory that it takes; never what it computes."""


def begin(config: RunConfig) -> None:
    """Create the directory and write the resolved config.

    Raises:
        ConfigError: the directory holds another run, or cannot be written (``targets.check_run``).
    """
    directory = config.output_dir
    if (directory / "metrics.jsonl").exists():
        resume_hint = "continue it with --resume, or " if Checkpoints.of(config).complete() else ""
        raise ConfigError(f"output_dir: {directory} holds another run; {resume_hint}choose or empty a directory")
    targets.check_run(config)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(_plain(config), sort_keys=False))


def resume(config: RunConfig) -> Path:
    """The newest checkpoint of the run in ``output_dir``. Metrics and rollouts written after it are removed, since they are repeated.

    Raises:
        ConfigError: there is no checkpoint, the directory cannot be written, or the run had a config that computes something else.
    """
    newest = Checkpoints.of(config).latest()
    before = yaml.safe_load((config.output_dir / "config.yaml").read_text())
    if changed := sorted(_differences(before, _plain(config))):
        raise ConfigError(
            f"--resume: {', '.join(changed)} differ from the run in {config.output_dir}; set them as its config.yaml has them"
        )
    targets.check_run(config)
    state, _ = Checkpoints.read(newest)
    _remove_after(config.output_dir, state)
    return newest


def _plain(config: RunConfig) -> dict[str, Any]:
    dumped: dict[str, Any] = config.model_dump(mode="json")
    return dumped


def _differences(before: Any, now: Any, path: str = "") -> set[str]:
    """Dotted paths of the values that differ and must not."""
    if path in MAY_CHANGE:
        return set()
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            difference
            for key in before.keys() | now.keys()
            for difference in _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        }
    return set() if before == now else {path}


def _remove_after(directory: Path, state: RunState) -> None:
    """Remove metrics and rollouts of the iteration that was interrupted."""
    metrics = directory / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.step))
    shutil.rmtree(directory / "rollouts" / ".open", ignore_errors=True)
    for part in by_number((directory / "rollouts").glob("iteration_*.parquet")):
        if (number_in(part.name) or 0) > state.iteration:
            part.unlink()
