"""The peak of the learner's GPUs, which its ``mfu`` is a share of."""

from __future__ import annotations

import ray

from actors.cluster.connection import Device
from actors.policy_model import model_config
from raypref.config import RunConfig
from raypref.metrics.throughput import Speed
from raypref.plan.model_shape import ModelShape

_PEAK_TFLOPS = {
    "A100": 312.0,
    "A10G": 70.0,
    "A30": 165.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H100": 989.0,
    "H20": 148.0,
    "H200": 989.0,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
}
"""GPU type, as Ray names it -> dense bfloat16 operations of its tensor cores per second, in 10^12, from NVIDIA's data sheets."""


def speed_of(config: RunConfig, device: Device) -> Speed | None:
    """Operations per token, and the peak: as stated, or as known for the one type of GPU in the cluster. None: it is not known."""
    peak = config.metrics.peak_tflops
    if peak is None and device == "cuda" and config.policy.dtype == "bfloat16":
        peak = _peak_of({name.partition(":")[2] for name in ray.cluster_resources() if name.startswith("accelerator_type:")})
    if peak is None:
        return None
    lora = config.policy.lora
    shape = ModelShape.of(model_config(config.policy), trust_remote_code=config.policy.trust_remote_code)
    return Speed((6 if lora is None else 4) * passed_through(shape), peak * 1e12)


def passed_through(shape: ModelShape) -> int:
    """Parameters that a token is multiplied with: projections, its MLPs, the head; not the embedding, which is looked up."""
    attention = shape.hidden * shape.head_width * (2 * shape.heads + 2 * shape.kv_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.intermediate) + shape.embedding


def _peak_of(types: set[str]) -> float | None:
    """Ray's names have the memory behind the type, as in ``A100-80G``."""
    known = {_PEAK_TFLOPS.get(name.partition("-")[0]) for name in types}
    return known.pop() if len(known) == 1 else None
