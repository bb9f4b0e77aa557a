"""What ``raypref evaluate`` is given, checked as a whole before a policy answers or an oracle is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypref.errors import ConfigError, DataError
from raypref.evaluation.response_files import ResponseSet, read_responses


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy that answers first."""

    name: str
    model: str
    target: Path
    """Where its responses are written."""


def path_of(given: str) -> tuple[str | None, Path]:
    """Name and path of ``NAME=FILE``, divided at the first ``=``, or of ``FILE``; what exists is a file, whatever ``=`` is in it.

    Raises:
        ConfigError: there is nothing before or after the ``=``.
    """
    if Path(given).exists() or "=" not in given:
        return None, Path(given)
    name, _, path = given.partition("=")
    if not name or not path:
        raise ConfigError(f"{given!r}: expected NAME=FILE, or FILE")
    return name, Path(path)


def read_given(given: str, questions: Mapping[str, str] | None = None, column: str | None = None) -> ResponseSet:
    """The responses that ``NAME=FILE`` or ``FILE`` names.

    Raises:
        ConfigError: it is neither.
        DataError: from ``read_responses``.
    """
    name, path = path_of(given)
    return read_responses(path, name, questions=questions, column=column)


def policies_of(given: Sequence[str], prompts: str | None, directory: Path) -> list[NamedPolicy]:
    """The policies of ``--policy NAME=MODEL``.

    Args:
        given: as often as there are policies.
        prompts: what they answer.
        directory: of their responses.

    Raises:
        ConfigError: one is not of that form, or there are no prompts.
    """
    made = []
    for one in given:
        name, _, model = one.partition("=")
        if not name or not model or Path(name).name != name:
            raise ConfigError(f"--policy {one!r}: expected NAME=MODEL; the name is also that of a file, so without a /")
        made.append(NamedPolicy(name, model, directory / f"{name}.jsonl"))
    if made and prompts is None:
        raise ConfigError("--prompts: required with --policy")
    return made


def check_names(names: Sequence[str], least: int) -> None:
    """That there are so many sets of responses, of different names.

    Raises:
        ConfigError: there are not.
    """
    if len(names) < least:
        raise ConfigError(f"--responses, --policy: {len(names)} sets of responses ({', '.join(names)}); at least {least} are needed")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--responses, --policy, --against: {', '.join(twice)} twice; give each set a name of its own, NAME=...")


def check_targets(directory: Path, responses: Iterable[Path], results: Iterable[Path], inputs: Sequence[Path]) -> None:
    """That what will be written replaces nothing but an earlier result.

    Args:
        directory: of all of it.
        responses: files of responses, which took work to make.
        results: tables and figures, which may be replaced.
        inputs: files that are read.

    Raises:
        ConfigError: naming what is in the way.
    """
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--output {str(directory)!r}: a file; expected a directory")
    for path in responses:
        if path.exists():
            raise ConfigError(f"{path}: exists, and responses would be written there; pass it as --responses, or give another --output")
    for path in results:
        if path.exists() and any(path.samefile(own) for own in inputs if own.exists()):
            raise ConfigError(f"{path}: is read, and would be replaced by a result; give another --output")


def check_counts(answered: ResponseSet) -> None:
    """That all prompts have the same number of responses, two or more (best of n).

    Raises:
        DataError: naming the place of one that does not.
    """
    size = len(answered.answers[0].responses)
    for own in answered.answers:
        if len(own.responses) != size or size < 2:
            wanted = "at least 2 are needed to choose from" if size < 2 else f"{answered.answers[0].place} has {size}"
            raise DataError(f"{own.place}: {len(own.responses)} responses; {wanted}")
