"""The arguments of ``raypref evaluate``, read and checked before a policy answers or an oracle is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raypref.errors import ConfigError, DataError
from raypref.evaluation.response_files import ResponseSet, read_responses
from raypref.evaluation.response_formats import FORMATS, Asked
from raypref.output import targets
from raypref.output.run_reference import RunReference, policy_path
from raypref.output.terminal import counted

if TYPE_CHECKING:
    from raypref.config import RunConfig


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy that answers the prompts first."""

    name: str
    model: str
    target: Path
    """Where its responses are written."""


def path_of(argument: str) -> tuple[str | None, Path]:
    """Name and path of ``NAME=FILE``, divided at the first ``=``, or of ``FILE``. A path that exists is a file, also with a ``=`` in it.

    In place of FILE a run and an iteration (``runs/x@2``) mean that policy's answers to the run's held-out prompts; their name is ``x@2``.

    Raises:
        ConfigError: there is nothing before or after the ``=``, or the run has no such answers.
    """
    name, path = None, argument
    if "=" in argument and not Path(argument).exists() and RunReference.read(argument) is None:
        name, _, path = argument.partition("=")
        if not name or not path:
            raise ConfigError(f"{argument!r}: expected NAME=FILE, or FILE")
    if (run := RunReference.read(path)) is not None:
        return name or run.name, run.answers()
    return name, Path(os.path.expanduser(path))  # a shell leaves the ~ behind a = as it is


def run_config(argument: Path, overrides: Sequence[str]) -> RunConfig:
    """The config of a YAML file, or of a run (``runs/x``, ``runs/x@2``), which then has that run's policy.

    Raises:
        ConfigError: it cannot be read, or the run has no such policy.
    """
    from raypref.config import load_config

    run = RunReference.read(str(argument))
    if run is None:
        directory, at, _ = str(argument).rpartition("@")
        if at and directory and not argument.exists():
            what = "holds no run (there is no config.yaml)" if Path(directory).is_dir() else "does not exist"
            raise ConfigError(f"{argument}: {directory} {what}; give a run's YAML file, or the output_dir of a run before the @")
        return load_config(argument, overrides)
    return load_config(run.config, [f"policy.path={json.dumps(run.policy())}", *overrides])


def formats_of(arguments: Sequence[str]) -> dict[str | None, str]:
    """Name of a set -> the name of its format, from ``NAME=FORMAT``; None -> that of every other set, from ``FORMAT``.

    Raises:
        ConfigError: there is no such format, or two for one set.
    """
    known = [layout.name for layout in FORMATS]
    formats: dict[str | None, str] = {}
    for argument in arguments:
        name, _, layout = argument.rpartition("=")
        if layout not in known:
            raise ConfigError(f"--format {argument!r}: expected one of {', '.join(known)}, or NAME= and one of them")
        if formats.setdefault(name or None, layout) != layout:
            raise ConfigError(f"--format {argument!r}: {formats[name or None]} was given before; give one format per set")
    return formats


def read_set(
    argument: str,
    questions: Mapping[str, Asked] | None = None,
    column: str | None = None,
    formats: Mapping[str | None, str] | None = None,
) -> ResponseSet:
    """The responses that ``NAME=FILE`` or ``FILE`` names.

    Args:
        argument: names of the set and of the file.
        questions: id -> prompt, for a file without prompts.
        column: the field of the responses.
        formats: from ``formats_of``; a set without a name of its own has that of its file, without the suffix.

    Raises:
        ConfigError: it is neither.
        DataError: from ``read_responses``.
    """
    name, path = path_of(argument)
    formats = formats or {}
    layout = formats.get(name or path.stem, formats.get(None))
    return read_responses(path, name, questions=questions, column=column, layout=layout)


def policies_of(arguments: Sequence[str], prompts: str | None, directory: Path) -> list[NamedPolicy]:
    """The policies of ``--policy NAME=MODEL``.

    Args:
        arguments: one per policy.
        prompts: what they answer.
        directory: where their responses are written.

    Raises:
        ConfigError: one is not of that form, or there are no prompts.
    """
    policies = []
    for argument in arguments:
        name, _, model = argument.partition("=")
        if not name or not model or Path(name).name != name:
            raise ConfigError(f"--policy {argument!r}: expected NAME=MODEL; the name is also that of a file, so without a /")
        policies.append(NamedPolicy(name, policy_path(model), directory / f"{name}.jsonl"))
    if policies and prompts is None:
        raise ConfigError("--prompts: required with --policy")
    return policies


def check_names(names: Sequence[str], least: int) -> None:
    """Refuse too few sets of responses, and two sets of one name.

    Raises:
        ConfigError: naming them.
    """
    if len(names) < least:
        raise ConfigError(f"--responses, --policy: {counted(len(names), 'set')} of responses ({', '.join(names)}); at least {least}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--responses, --policy, --against: {', '.join(twice)} twice; give each set another name, NAME=...")


def check_targets(directory: Path, responses: Sequence[Path], results: Sequence[Path], inputs: Sequence[Path]) -> list[Path]:
    """Refuse to replace anything but an earlier result.

    Args:
        directory: where everything is written.
        responses: files of responses, which cost work to produce.
        results: tables and figures, which may be replaced.
        inputs: files that are read.

    Returns:
        The earlier results that will be replaced.

    Raises:
        ConfigError: naming the file that is in the way.
    """
    targets.check_directory("--output", directory)
    for path in responses:
        if path.exists():
            raise ConfigError(f"{path}: exists, and responses would be written there; pass it as --responses, or give another --output")
    earlier = [path for path in results if path.exists()]
    for path in earlier:
        if any(path.samefile(file) for file in inputs if file.exists()):
            raise ConfigError(f"{path}: is read, and would be replaced by a result; give another --output")
    for path in (*responses, *results):
        targets.check_file("--output", path)
    return earlier


def check_counts(answered: ResponseSet) -> None:
    """Refuse prompts with different numbers of responses, or with one response (best of n).

    Raises:
        DataError: naming the place of the first such prompt.
    """
    first = answered.answers[0]
    size = len(first.responses)
    for answer in answered.answers:
        if len(answer.responses) != size or size < 2:
            wanted = "at least 2 are needed to choose from" if size < 2 else f"{first.place} has {size}"
            raise DataError(f"{answer.place}: {counted(len(answer.responses), 'response')}; {wanted}")
