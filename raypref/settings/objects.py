"""What a caller gives ``raypref.run`` in place of a section of the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raypref.config import RunConfig
from raypref.losses.base import Loss
from raypref.oracles.base import Oracle
from raypref.oracles.callable import CallableOracle
from raypref.selection.base import Selection


def with_objects(
    config: RunConfig, oracle: Oracle | Callable[..., Any] | None, selection: Selection | None, loss: Loss | None
) -> RunConfig:
    """The config with the caller's objects in place of its sections, and with absolute paths."""
    if oracle is not None and not isinstance(oracle, Oracle):
        oracle = CallableOracle.parse({"function": oracle}, path="oracle")
    objects = {"oracle": oracle, "selection": selection, "loss": loss}
    return config.model_copy(update={name: section for name, section in objects.items() if section is not None}).located()
