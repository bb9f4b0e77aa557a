"""``plan.json`` in a run's directory: what was planned when it started, to be compared with what was measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.output.whole_file import write_whole
from raypref.plan.hardware import Cluster
from raypref.plan.known import known
from raypref.plan.run_plan import Options, plan
from raypref.types import RunData

logger = logging.getLogger(__name__)
NAME = "plan.json"


def write_plan(config: RunConfig, data: RunData, gpu_types: Iterable[str], device: str) -> None:
    """Plan a run that starts, and write the plan; no remedies are looked for.

    Args:
        config: of the run.
        data: of the run.
        gpu_types: of the cluster, as Ray names them.
        device: ``cpu`` or ``cuda``.
    """
    try:
        made = plan(config, Cluster.of_types(gpu_types, device), known(config, data), Options(searches=False))
    except ConfigError as error:  # an architecture that the memory model does not know
        logger.info("the run was not planned: %s", error)
        return
    write_whole(config.output_dir / NAME, json.dumps(made.record(), indent=2) + "\n")
