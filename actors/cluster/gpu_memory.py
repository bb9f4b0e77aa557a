"""Whether the models of a run fit its GPUs, before any of them is loaded."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Collection
from typing import Any

import ray

from actors.cluster.nodes import Node, answers_of, on
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.plan.memory import check_fits
from raypref.plan.memory_job import Job
from raypref.plan.model_shape import ModelShape

logger = logging.getLogger(__name__)


def check_gpu_memory(config: RunConfig, model_config: Any, nodes: Collection[Node], timeout_s: float) -> None:
    """Compare what the models take with the smallest GPU of the run's nodes.

    Args:
        config: the run's.
        model_config: of the policy, as transformers reads it.
        nodes: on which bundles were reserved.
        timeout_s: longest wait for a node's answer.

    Raises:
        ConfigError: a model does not fit; with the sum and the remedy.
        NetworkError: a node does not answer.
    """
    try:
        shape = ModelShape.of(model_config, config.policy.lora, trust_remote_code=config.policy.trust_remote_code)
    except ConfigError as error:  # an architecture that the memory model does not know
        logger.info("whether the models fit the GPUs was not checked: %s", error)
        return
    ask = ray.remote(gpu_memories)
    answers = answers_of({node: ask.options(**on(node)).remote() for node in nodes}, timeout_s)
    if sizes := [size for found in answers.values() for size in found]:
        check_fits(Job.of(config, shape), min(sizes), colocated=config.placement.layout == "colocated")


def gpu_memories() -> list[int]:
    """Bytes of each GPU of this machine, from NVIDIA's own tool, which needs no CUDA context; empty where it is not installed."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [int(line) << 20 for line in answer.stdout.split() if line.isdigit()]
