"""raypref: semi-online preference optimisation of language models on Ray. This is the public API, imported at first use.

>>> import raypref
>>> result = raypref.run(raypref.load_config("run.yaml", ["rollout.responses=8"]))

``losses``, ``selection`` and ``oracles`` are packages: their ``register`` names a class of yours. Start reading with ``loop/driver.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raypref import losses, oracles, selection
    from raypref.checks import check
    from raypref.compose import generate, run
    from raypref.config import RunConfig, load_config
    from raypref.errors import ConfigError, DataError, LossNotFinite, OracleError, PlacementError, Problem, RayprefError, SyncError
    from raypref.losses.base import Frozen, Loss, LossBatch, LossValue
    from raypref.metric_info import MetricInfo
    from raypref.metrics.progress import Callback
    from raypref.metrics.progress_line import ProgressLine
    from raypref.oracles.base import ABSTAIN, Answer, Oracle, Question
    from raypref.output.summary import RunResult
    from raypref.selection.base import Selection

__version__ = "0.1.0"
__all__ = [
    "ABSTAIN",
    "Answer",
    "Callback",
    "ConfigError",
    "DataError",
    "Frozen",
    "Loss",
    "LossBatch",
    "LossNotFinite",
    "LossValue",
    "MetricInfo",
    "Oracle",
    "OracleError",
    "PlacementError",
    "Problem",
    "ProgressLine",
    "Question",
    "RayprefError",
    "RunConfig",
    "RunResult",
    "Selection",
    "SyncError",
    "check",
    "generate",
    "load_config",
    "losses",
    "oracles",
    "run",
    "selection",
]

_MODULES = {
    "checks": ("check",),
    "compose": ("generate", "run"),
    "config": ("RunConfig", "load_config"),
    "errors": ("ConfigError", "DataError", "LossNotFinite", "OracleError", "PlacementError", "Problem", "RayprefError", "SyncError"),
    "losses.base": ("Frozen", "Loss", "LossBatch", "LossValue"),
    "oracles.base": ("ABSTAIN", "Answer", "Oracle", "Question"),
    "metric_info": ("MetricInfo",),
    "metrics.progress": ("Callback",),
    "metrics.progress_line": ("ProgressLine",),
    "output.summary": ("RunResult",),
    "selection.base": ("Selection",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_PACKAGES = ("losses", "oracles", "selection")


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import raypref`` stays quick."""
    import importlib

    if name in _PACKAGES:
        return importlib.import_module(f"raypref.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"raypref.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'raypref' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
