"""The peak of the learner's GPUs, which its ``mfu`` is a share of."""

from __future__ import annotations

import ray

from actors.cluster.connection import Device
from actors.policy_model import model_config
from raypref.config import RunConfig
from raypref.metrics.throughput import Speed
from raypref.plan.hardware import gpu_of
from raypref.plan.model_shape import ModelShape


def gpu_types() -> set[str]:
    """The types of the cluster's GPUs as Ray names them, such as ``A100-80G``."""
    return {name.partition(":")[2] for name in ray.cluster_resources() if name.startswith("accelerator_type:")}


def speed_of(config: RunConfig, device: Device) -> Speed | None:
    """Operations per token, and the peak: as stated, or as known for the one type of GPU in the cluster. None: it is not known."""
    peak = config.metrics.peak_tflops
    if peak is None and device == "cuda" and config.policy.dtype == "bfloat16":
        peak = _peak_of(gpu_types())
    if peak is None:
        return None
    lora = config.policy.lora
    shape = ModelShape.of(model_config(config.policy), trust_remote_code=config.policy.trust_remote_code)
    return Speed((6 if lora is None else 4) * shape.active, peak * 1e12)


def _peak_of(types: set[str]) -> float | None:
    known = {None if (gpu := gpu_of(name)) is None else gpu.teraflops for name in types}
    return known.pop() if len(known) == 1 else None
