"""Whether the models of a run fit its GPUs, before any of them is loaded."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.output.environment import Machine
from raypref.plan.memory import check_fits
from raypref.plan.memory_job import Job
from raypref.plan.model_shape import ModelShape

logger = logging.getLogger(__name__)


def check_gpu_memory(config: RunConfig, model_config: Any, machines: Collection[Machine]) -> None:
    """Compare what the models take with the smallest GPU of the run's nodes.

    Args:
        config: the run's.
        model_config: of the policy, as transformers reads it.
        machines: on which bundles were reserved.

    Raises:
        ConfigError: a model does not fit; with the sum and the remedy.
    """
    try:
        shape = ModelShape.of(model_config, config.policy.lora, trust_remote_code=config.policy.trust_remote_code)
    except ConfigError as error:  # an architecture that the memory model does not know
        logger.info("whether the models fit the GPUs was not checked: %s", error)
        return
    if sizes := [gpu.memory_bytes for machine in machines for gpu in machine.gpus]:
        check_fits(Job.of(config, shape), min(sizes), colocated=config.placement.layout == "colocated")
