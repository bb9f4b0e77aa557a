"""Checks what a run, ``generate`` or ``evaluate`` writes at its end before it starts, so that nothing computed is lost.

Each target must be writable, must be of the right kind (a file or a folder), and must not be one of the inputs. The disk must have room
for everything whose size is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypref.errors import ConfigError
from raypref.output.run_reference import RunReference

if TYPE_CHECKING:
    from raypref.config import RunConfig

FOLDERS = (
    "rollouts",
    "evaluation",
    "checkpoints",
    "failures",
    "logs",
    "tensorboard",
    "reference",
    "policies",
    "policy",
    "policy_before_failure",
    "capability",
)
"""What a run writes into ``output_dir``."""
FILES = (
    "config.yaml",
    "environment.json",
    "plan.json",
    "trackers.json",
    "warnings.jsonl",
    "summary.json",
    "set_aside.jsonl",
    "timeline.jsonl",
    "metrics.jsonl",
)
OPTIMISER_BYTES = {"adamw": 12, "rmsprop": 8}
"""Bytes per trained parameter in a checkpoint: the weights in float32 and the optimiser's moments."""


def check_file(key: str, path: Path, inputs: Mapping[str, Path] | None = None) -> None:
    """Refuse a target file that cannot be written, or that is also an input.

    Args:
        key: the option or config key that names it.
        path: it may exist, and is then replaced; its folder is made if need be.
        inputs: what is read: name -> file or directory.

    Raises:
        ConfigError: naming the file and the remedy.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{key}: {path} is a directory; give the name of a file")
    if os.path.exists(path) and not path.is_file():
        raise ConfigError(f"{key}: {path} is no regular file; give the name of a file")
    for name, source in (inputs or {}).items():
        if _same(path, source) or (os.path.exists(path) and source.is_dir() and _real(path).is_relative_to(_real(source))):
            raise ConfigError(f"{key}: {path} is read ({name}) and would be replaced; give another file")
    with _refusing(key, path), _made(path.parent):
        partial = path.with_name(path.name + ".partial")
        partial.open("ab").close()
        partial.unlink()
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"no permission to replace {path}")


def check_directory(key: str, directory: Path) -> None:
    """Refuse a target directory that cannot be written to.

    Raises:
        ConfigError: naming the directory and the remedy.
    """
    if os.path.exists(directory) and not directory.is_dir():
        raise ConfigError(f"{key}: {directory} is a file; give a directory")
    with _refusing(key, directory), _made(directory):
        probe = directory / ".raypref.partial"
        probe.open("ab").close()
        probe.unlink()


def check_answers(config: RunConfig, prompts: object, files: Sequence[Path]) -> None:
    """Refuse answer files that cannot be written, or that are also inputs.

    Args:
        config: of the policy that answers.
        prompts: a path or the name of a data set; anything else is no file.
        files: to be written.

    Raises:
        ConfigError: naming the file and the remedy.
    """
    inputs = dict(inputs_of(config)) | ({"prompts": Path(os.path.expanduser(prompts))} if isinstance(prompts, str) else {})
    for path in files:
        check_file("output", path, inputs)


def check_run(config: RunConfig) -> None:
    """Refuse an ``output_dir`` in which something is in the way of what the run writes, or that holds what the run reads.

    Raises:
        ConfigError: naming the file or folder and the remedy.
    """
    directory = config.output_dir
    check_directory("output_dir", directory)
    for name in FOLDERS:
        check_directory("output_dir", directory / name)
    for name in FILES:
        check_file("output_dir", directory / name)
    for key, path in inputs_of(config):
        inside = next((name for name in FOLDERS if _real(path).is_relative_to(_real(directory / name))), None)
        if inside is not None or any(_same(path, directory / name) for name in FILES):
            raise ConfigError(
                f"output_dir: {directory} holds {path}, which the run reads ({key}) and would replace; give another output_dir"
            )


def check_room(config: RunConfig) -> None:
    """Refuse a disk without room for the policy and the checkpoints that are kept, as far as their size is known.

    It is known of a policy in a local directory with safetensors files. The checkpoints of an adapter are small and not counted.

    Raises:
        ConfigError: saying what is needed and what is free.
    """
    parameters = stored_parameters(Path(config.policy.path))
    if not parameters:
        return
    weights = parameters * (4 if config.policy.dtype == "float32" else 2)
    every = config.checkpoint.every_steps
    written = config.iterations if every is None or config.loop.steps is None else 1 + config.loop.steps // every
    best = int(config.checkpoint.best and config.evaluation.every != 0)
    kept = min(config.checkpoint.keep + best + 1, written)  # the oldest one goes when the new one is complete
    if config.saves_within_iterations:
        written, kept = config.iterations, config.checkpoint.keep + best + 2  # and the one of the iteration's start stays
    weights *= 1 + min(config.checkpoint.policies + best + 1 if config.checkpoint.policies else 0, written)
    optimiser = 0 if config.policy.lora else kept * parameters * OPTIMISER_BYTES[config.learner.optimizer.type]
    existing = next(folder for folder in (config.output_dir, *config.output_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < weights + optimiser:
        raise ConfigError(
            f"output_dir: {_gib(free)} are free on the disk of {config.output_dir}, but the policies take {_gib(weights)} and up to {kept} "
            f"checkpoints take {_gib(optimiser)}; free some space, lower checkpoint.keep or checkpoint.policies, or give another output_dir"
        )


def inputs_of(config: RunConfig) -> Iterator[tuple[str, Path]]:
    """Config key and path of everything local that a run reads."""
    named = {
        "policy.path": config.policy.path,
        "policy.tokenizer": config.policy.tokenizer,
        "data.path": getattr(config.data, "path", None),
        "data.held_out": getattr(config.data, "held_out", None),
        "evaluation.texts": config.evaluation.texts,
        "oracle.path": getattr(config.oracle, "path", None),
    }
    for key, path in named.items():
        if isinstance(path, str | Path) and Path(os.path.expanduser(path)).exists():
            yield key, Path(os.path.expanduser(path))
    for name, text in config.evaluation.against.items():
        with contextlib.suppress(ConfigError):  # a run without such answers: named when they are loaded
            run = RunReference.read(text)
            file = Path(os.path.expanduser(text)) if run is None else run.answers()
            if file.exists():
                yield f"evaluation.against.{name}", file


def stored_parameters(directory: Path) -> int:
    """Number of parameters in the safetensors files of a directory, from their headers; 0 where there are none."""
    count = 0
    for path in sorted(directory.glob("*.safetensors")) if directory.is_dir() else ():
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= path.stat().st_size:
                return 0  # damaged: whoever loads it says so
            header: dict[str, Any] = json.loads(file.read(length))
        count += sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return count


@contextlib.contextmanager
def _refusing(key: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be written: {error}; give another place") from error


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[None]:
    """Make a directory for the time of the block; what was there before stays."""
    missing = [folder for folder in (directory, *directory.parents) if not os.path.exists(folder)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # another process may have put something there
                folder.rmdir()


def _same(first: Path, second: Path) -> bool:
    if os.path.exists(first) and os.path.exists(second):
        return first.samefile(second)
    return _real(first) == _real(second)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
