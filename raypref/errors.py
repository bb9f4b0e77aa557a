"""Errors that a user can act on. Each message names the place, the value and the remedy."""

from __future__ import annotations


class RayprefError(Exception):
    """Base of the errors that the command line prints without a traceback."""


class ConfigError(RayprefError, ValueError):
    """A config file, an override or an argument is wrong."""


class DataError(RayprefError, ValueError):
    """A data file or a record in it is wrong."""


class OracleError(RayprefError, ValueError):
    """An oracle gave an answer that is no preference matrix, or can give no more answers."""


class PlacementError(RayprefError, RuntimeError):
    """The cluster cannot hold the roles."""


class SyncError(RayprefError, RuntimeError):
    """A replica does not hold the learner's weights."""


class LossNotFinite(RayprefError, ArithmeticError):
    """The loss or its gradient became NaN or infinite; the offending batch was written to disk."""
