"""raypref: semi-online preference optimisation of language models on Ray.

>>> import raypref
>>> config = raypref.load_config("run.yaml", ["rollout.responses=8"])
>>> result = raypref.run(config)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["RunConfig", "RunResult", "load_config", "run"]

if TYPE_CHECKING:
    from raypref.compose import RunResult, run
    from raypref.config import RunConfig, load_config

_HOMES = {"RunConfig": "config", "load_config": "config", "RunResult": "compose", "run": "compose"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import raypref`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'raypref' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"raypref.{_HOMES[name]}"), name)
