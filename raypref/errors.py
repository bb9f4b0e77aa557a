"""Errors that a user can act on. Each message names the place, the value and the remedy.

The command line prints them without a traceback, and exits with a code that tells a script what to do: 2 means that the same command
would fail again, 3 that it may succeed (``--resume``), 4 that the run stopped because its results would have been wrong.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self


class RayprefError(Exception):
    """Base class."""

    exit_code: ClassVar[int] = 2
    """Of the command that fails with this error."""


class ConfigError(RayprefError, ValueError):
    """A config file, an override or an argument is wrong."""


class DataError(RayprefError, ValueError):
    """A data file or a record in it is wrong."""


class OracleError(RayprefError, ValueError):
    """An oracle's answer is not a preference matrix, or the oracle cannot answer any more."""

    exit_code = 4


class PlacementError(RayprefError, RuntimeError):
    """The cluster has no room for the actors of the run."""


class NetworkError(RayprefError, ConnectionError):
    """Two nodes of the run cannot exchange messages."""


class SyncError(RayprefError, RuntimeError):
    """An engine or reference does not hold the weights that it should hold."""

    exit_code = 4


class LossNotFinite(RayprefError, ArithmeticError):
    """The loss or its gradient is NaN or infinite; the batch was written to disk."""

    exit_code = 4


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
"""Of an ``OSError``: the disk is full, read-only, broken or gone."""


class ActorFailed(RayprefError, RuntimeError):
    """An actor died, gave no answer in time, or could not write to its disk."""

    exit_code = 3

    def __init__(self, message: str, actors: Sequence[str] = ()) -> None:
        """
        Args:
            message: what happened, and during which call.
            actors: names of the actors (``rollout-1``), whose logs may say why.
        """
        super().__init__(message)
        self.actors = tuple(actors)


class ActorDied(ActorFailed):
    """An actor's process is gone."""


class ObjectLost(ActorFailed):
    """Ray's object store lost what travels with a call, or has no room for it. The actor that was asked lives."""


class InputSetAside(ActorFailed):
    """What an actor was asked has killed it twice; the run may go on without this input."""


class ActorSilent(ActorFailed, TimeoutError):
    """An actor gave no answer in time."""


class TransferFailed(ActorFailed, SyncError):
    """A weight sync did not come to its end: a receiver died, hung or failed. Nothing was sampled from what it holds."""


class RunFailed(RayprefError, RuntimeError):
    """A run stopped because of something that a restart may mend; the message says what, where, and how the run goes on."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a config. Several are reported together; an error is the first one alone."""

    path: str
    """The dotted path of the key to change, or another place."""
    value: Any
    """What stands there; None where the key is missing, or the reason says it."""
    reason: str
    remedy: str
    """Empty where the reason says it."""

    @classmethod
    def of(cls, error: RayprefError) -> Self:
        """The problem that an error names; it reads the same, on one line."""
        path, _, rest = str(error).replace("\n", " ").partition(": ")
        reason, _, remedy = rest.rpartition("; ")
        return cls(path, None, reason, remedy) if reason else cls(path, None, remedy, "")

    def __str__(self) -> str:
        value = "" if self.value is None else f"{str(self.value).lower() if isinstance(self.value, bool) else self.value}, "
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.path}: {value}{self.reason}{remedy}"


def refuse(problems: Iterable[Problem], error: type[RayprefError] = ConfigError) -> None:
    """Raise all problems as one error, one per line; nothing happens without a problem."""
    if lines := [str(problem) for problem in problems]:
        raise error("\n".join(lines))


def reason_of(error: Exception) -> str:
    """What a library's error says, on one line; of an error in YAML also the line and the column, from 1."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    context = getattr(error, "context", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{f' ({context})' if context else ''}"
