"""The output directory of a new run, or of one that is resumed.

    config.yaml      the resolved config
    environment.json what it runs on: machines with their actors, device, versions
    plan.json        what was planned for it: memory by role and phase, steps, seconds by stage (``raypref plan``)
    metrics.jsonl    metrics by step (docs/metrics.md); also in tensorboard/
    warnings.jsonl   what left its healthy range, when, and what to do (docs/watching.md)
    trackers.json    the run's ids at Weights & Biases and MLflow, where it has them (``metrics`` section)
    timeline.jsonl   when which stage was at work: [stage, begin, end] in seconds since the start of the attempt
    rollouts/        iteration_0001-*.parquet: responses and preferences (docs/columns.md)
    evaluation/      iteration_0001_against_base.jsonl, ..._against_previous.jsonl: held-out comparisons (docs/columns.md);
                     iteration_0001.jsonl: the policy's answers, as raypref generate writes them (iteration_0000: the base policy's)
    checkpoints/     iteration_0001/: the training state after iteration 1; iteration_0001-step_000350/: within the next, after step 350
    policies/        iteration_0001/: the policy after iteration 1 as a Hugging Face model directory (``checkpoint.policies``)
    failures/        a batch whose loss was not finite
    set_aside.jsonl  prompts whose group killed actors twice; they are not asked again
    logs/            one file per actor
    policy/          the final policy as a Hugging Face model directory; with LoRA its adapter, too, in adapter/
    summary.json     the report of a finished run
    run.lock         who writes here, while the run goes on (``raypref.output.run_lock``)

Iterations are counted from 1 everywhere: rollouts, checkpoint and evaluation of one iteration have the same number.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml

from raypref.config import RunConfig
from raypref.errors import ConfigError, DataError, reason_of, refuse
from raypref.output import recorded, targets
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.numbered import by_number, number_in, step_in
from raypref.output.removal import clear, remove, take_away
from raypref.output.resumption import config_problems
from raypref.output.whole_file import write_whole
from raypref.types import RunData

logger = logging.getLogger(__name__)


def begin_or_resume(
    config: RunConfig, data: RunData, resumed_from: bool | Literal["auto"] | Path, *, overwrite: bool = False
) -> tuple[bool, Path | None]:
    """Begin a run, or find from where it continues.

    Args:
        config: of the run.
        data: as it was loaded now.
        resumed_from: as ``raypref.run`` takes ``resume``.
        overwrite: as for ``begin``.

    Returns:
        Whether a run is continued, and its checkpoint; None: from its start.

    Raises:
        ConfigError, DataError: as ``begin`` and ``resume``; or what would be continued is to be removed.
    """
    if resumed_from and overwrite:
        raise ConfigError("overwrite: removes the run that resume would continue; give one of the two")
    if resumed_from and (resumed_from != "auto" or holds_run(config)):
        return True, resume(config, data, resumed_from if isinstance(resumed_from, Path) else None)
    begin(config, overwrite=overwrite)
    return False, None


def begin(config: RunConfig, *, overwrite: bool = False) -> None:
    """Create the directory and write the resolved config.

    Args:
        config: of the run.
        overwrite: remove what an earlier run has written there; other files stay.

    Raises:
        ConfigError: the directory holds another run, or cannot be written (``targets.check_run``).
    """
    directory = config.output_dir
    holds_another = (directory / "metrics.jsonl").exists()
    if holds_another and not overwrite:
        resume_hint = "continue it with --resume, or " if holds_run(config) and Checkpoints.of(config).complete() else ""
        raise ConfigError(
            f"output_dir: {directory} holds another run; {resume_hint}choose or empty a directory, or replace it with --overwrite"
        )
    targets.check_run(config)
    if holds_another:
        logger.warning("%s: the run there is removed (--overwrite)", directory)
        (directory / "config.yaml").unlink(missing_ok=True)  # first: what is left if this is interrupted cannot be resumed
        for folder in (directory / name for name in targets.FOLDERS):
            if folder.is_dir():
                take_away(folder)
        clear(directory)
        for name in targets.FILES:  # metrics.jsonl comes last: until then nobody begins among what is left
            (directory / name).unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    _write_config(config)


def holds_run(config: RunConfig) -> bool:
    """Whether a run was begun in ``output_dir``."""
    return (config.output_dir / "config.yaml").exists()


def resume(config: RunConfig, data: RunData, checkpoint: Path | None = None) -> Path | None:
    """The checkpoint from which the run in ``output_dir`` continues. Nothing is changed.

    Args:
        config: with which the run is resumed.
        data: as it was loaded now.
        checkpoint: of this run; its name is enough. Default: the newest one.

    Returns:
        None where the run was stopped before its first checkpoint: it starts again.

    Raises:
        ConfigError: there is no run or no such checkpoint, a file of the run is damaged, the directory cannot be written, or the run had a
            config that computes something else.
        DataError: the run had other data.
    """
    if not holds_run(config):
        raise ConfigError(f"--resume: {config.output_dir} holds no run; start one without --resume")
    source = Checkpoints.of(config).choose(checkpoint)
    state = Checkpoints.read(source)[0] if source is not None else RunState()
    fingerprint = Checkpoints.read_fingerprint(source) if source is not None else None
    refuse(config_problems(_read_config(config.output_dir), config, state, data_compared=fingerprint is not None))
    if fingerprint is None:
        if source is not None:
            logger.warning("%s has no hash of the data: whether the data is that of the run cannot be checked", source)
    elif changes := fingerprint.changes(data):
        raise DataError(
            f"--resume: the data is not that of the run in {config.output_dir}: {'; '.join(changes)}. Give the same data (it may have "
            "another path), or start a new run with another output_dir"
        )
    targets.check_run(config)
    return source


def rewind(config: RunConfig, checkpoint: Path | None) -> frozenset[str]:
    """Take the run back to a checkpoint, once all checks have passed.

    What was written after it, checkpoints among it, is removed, since it is repeated; the config is written in place of the earlier one.
    Groups that were sampled and judged after it are kept: ``raypref.output.recorded`` gives them out.

    Args:
        config: with which the run is resumed.
        checkpoint: None: back to the start.

    Returns:
        The origins of these groups.
    """
    state = RunState() if checkpoint is None else Checkpoints.read(checkpoint)[0]
    if state.iteration < config.iterations:
        (config.output_dir / "summary.json").unlink(missing_ok=True)  # of a run that had ended, and does not stand at its end any more
    _remove_after(config.output_dir, state, last_step=-1 if checkpoint is None else state.step)  # a start writes step 0's metrics anew
    _write_config(config)
    rollouts = config.output_dir / "rollouts"
    if count := recorded.gather(rollouts, state.iteration):
        logger.info("%d groups that were judged after the checkpoint are read back", count)
    return recorded.RecordedGroups(rollouts).origins


def _read_config(directory: Path) -> Any:
    path = directory / "config.yaml"
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--resume: {path} cannot be read: {reason_of(error)}; restore it, or start a new run with another output_dir"
        ) from error
    if not isinstance(before, dict):
        raise ConfigError(f"--resume: {path} holds no config; restore it, or start a new run with another output_dir")
    return before


def resolved(config: RunConfig) -> str:
    """The whole config with its defaults, as ``config.yaml`` has it."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _write_config(config: RunConfig) -> None:
    write_whole(config.output_dir / "config.yaml", resolved(config))


def _remove_after(directory: Path, state: RunState, last_step: int) -> None:
    """Remove what is repeated (checkpoints, policies, their figures, metrics), and what an interrupted change of a checkpoint left."""
    now = (state.iteration, state.step if state.steps_within else 0)

    def later(paths: Iterable[Path]) -> list[Path]:
        return [path for path in by_number(paths) if (number_in(path.name) or 0, step_in(path.name)) > now]

    for path in later(directory.glob("capability/iteration_*.json")):
        path.unlink()
    repeated = later(path for name in ("checkpoints", "policies") for path in (directory / name).glob("iteration_*"))
    for path in reversed(repeated):  # a checkpoint goes before the one that it needs
        take_away(path)
    for path in directory.glob("checkpoints/iteration_*"):
        if not (path / "state.json").exists():
            take_away(path)
    for name in ("checkpoints", "policies", "reference"):
        clear(directory / name)
    for converted in directory.glob("checkpoints/iteration_*/learner.universal"):
        remove(converted)
    metrics = directory / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    partial = metrics.with_name("metrics.jsonl.partial")
    partial.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= last_step))
    partial.rename(metrics)
