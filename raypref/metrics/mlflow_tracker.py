"""MLflow, through its own client."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from raypref.metrics import tracker_ids
from raypref.metrics.config import MlflowConfig
from raypref.metrics.sinks import finite

if TYPE_CHECKING:
    from raypref.config import RunConfig

_PARAMETERS_AT_ONCE = 100
_LONGEST_PARAMETER = 500
"""MLflow's limits for one call, and for one value in every release."""
_WAITED_FOR = 50
"""Calls of MLflow's client, which sends them in their order, that the end of a run waits for."""


class Mlflow:
    """A sink: a run of MLflow, with the config's keys as its parameters."""

    def __init__(self, config: RunConfig, section: MlflowConfig) -> None:
        """Begin the run in its experiment, or go on with it."""
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=section.tracking_uri, registry_uri=section.tracking_uri)  # the registry is not used
        self._sent: deque[Any] = deque(maxlen=_WAITED_FOR)
        known = tracker_ids.known(config.output_dir, "mlflow")
        if known is not None:
            self._run_id = known
            self._client.update_run(known, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(section.experiment)
        id_ = self._client.create_experiment(section.experiment) if experiment is None else experiment.experiment_id
        self._run_id = self._client.create_run(id_, run_name=config.name).info.run_id
        self._add_parameters(config)
        tracker_ids.remember(config.output_dir, "mlflow", self._run_id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in finite(values).items()]
        self._sent.append(self._client.log_batch(self._run_id, metrics=metrics, synchronous=False))

    def close(self, failed: bool) -> None:
        for sent in self._sent:
            sent.wait()
        self._client.set_terminated(self._run_id, status="FAILED" if failed else "FINISHED")

    def _add_parameters(self, config: RunConfig) -> None:
        from mlflow.entities import Param

        values = _flat(config.model_dump(mode="json"))
        parameters = [Param(path, str(value)[:_LONGEST_PARAMETER]) for path, value in values]
        for start in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self._run_id, params=parameters[start : start + _PARAMETERS_AT_ONCE])


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every key that is set."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif value is not None:
        yield path, value
