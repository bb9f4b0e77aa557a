"""Errors that a user can act on. Each message names the place, the value and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self


class RayprefError(Exception):
    """Base class; the command line prints these errors without a traceback."""


class ConfigError(RayprefError, ValueError):
    """A config file, an override or an argument is wrong."""


class DataError(RayprefError, ValueError):
    """A data file or a record in it is wrong."""


class OracleError(RayprefError, ValueError):
    """An oracle's answer is not a preference matrix, or the oracle cannot answer any more."""


class PlacementError(RayprefError, RuntimeError):
    """The cluster has no room for the actors of the run."""


class NetworkError(RayprefError, ConnectionError):
    """Two nodes of the run cannot exchange messages."""


class SyncError(RayprefError, RuntimeError):
    """An engine or reference does not hold the weights that it should hold."""


class LossNotFinite(RayprefError, ArithmeticError):
    """The loss or its gradient is NaN or infinite; the batch was written to disk."""


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
