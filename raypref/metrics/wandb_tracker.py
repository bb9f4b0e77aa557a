"""Weights & Biases, through its own client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raypref.metrics import tracker_ids
from raypref.metrics.config import WandbConfig
from raypref.metrics.sinks import finite

if TYPE_CHECKING:
    from raypref.config import RunConfig

_STEP = "optimizer_step"
"""The horizontal axis in W&B, whose own steps may not go back: a resumed run repeats some."""


class Wandb:
    """A sink: a run of W&B, with the config as its settings."""

    def __init__(self, config: RunConfig, section: WandbConfig) -> None:
        """Log in, and begin the run or go on with it."""
        import wandb

        known = tracker_ids.known(config.output_dir, "wandb")
        self._run: Any = wandb.init(
            project=section.project,
            entity=section.entity,
            mode=section.mode,
            tags=list(section.tags) or None,
            name=config.name,
            id=known,
            resume=None if known is None else "allow",
            dir=str(config.output_dir),
            config=config.model_dump(mode="json"),
        )
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)
        tracker_ids.remember(config.output_dir, "wandb", self._run.id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({_STEP: step, **finite(values)})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
