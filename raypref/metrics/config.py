"""The ``metrics`` section: where a run's metrics go, beside ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import BeforeValidator, PositiveFloat

from raypref.errors import Problem
from raypref.registry import Section


class WandbConfig(Section):
    """A run of Weights & Biases, through its own client."""

    project: str = "raypref"
    """Made if there is none of this name."""
    entity: str | None = None
    """User or team; default: the account's own."""
    mode: Literal["online", "offline"] | None = None
    """offline: everything stays below ``output_dir/wandb`` until ``wandb sync``. Default: WANDB_MODE, else online."""
    tags: tuple[str, ...] = ()
    """Of the run, to find it by."""


class MlflowConfig(Section):
    """A run of MLflow, through its own client."""

    tracking_uri: str | None = None
    """A server (``https://...``), or another place as MLflow understands it; default: MLFLOW_TRACKING_URI."""
    experiment: str = "raypref"
    """Made if there is none of this name."""


class MetricsConfig(Section):
    """Every run writes ``metrics.jsonl`` and ``tensorboard/`` into ``output_dir``; these places come beside them."""

    ray: bool = True
    """Give the metrics to Ray, which exports them at its Prometheus port; the run's ``name`` is their tag."""
    wandb: Annotated[WandbConfig | None, BeforeValidator(lambda v: ({} if v else None) if isinstance(v, bool) else v)] = None
    """true: with its defaults."""
    mlflow: Annotated[MlflowConfig | None, BeforeValidator(lambda v: ({} if v else None) if isinstance(v, bool) else v)] = None
    """true: with its defaults."""
    peak_tflops: PositiveFloat | None = None
    """Peak of one of the learner's GPUs in ``policy.dtype``, in 10^12 operations per second, which ``mfu`` is a share of; default: that of
    the GPU's type, where it is known. Without one ``mfu`` is left out."""

    def missing(self) -> Iterator[Problem]:
        """What the trackers that are asked for need and do not find: their packages, and where MLflow is."""
        for name, wanted in (("wandb", self.wandb), ("mlflow", self.mlflow)):
            if wanted is not None and find_spec(name) is None:
                yield Problem(f"metrics.{name}", "given", f"but the package {name} is not installed", f'pip install "raypref[{name}]"')
        if self.mlflow is not None and self.mlflow.tracking_uri is None and "MLFLOW_TRACKING_URI" not in os.environ:
            yield Problem("metrics.mlflow.tracking_uri", None, "required", "give the address of a server, or set MLFLOW_TRACKING_URI")
