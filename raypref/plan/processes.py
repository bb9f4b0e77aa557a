"""What one process of each role holds on a GPU, with all that its libraries take beside the memory model's items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from raypref.plan.engine_memory import CONTEXT_BYTES, cache_bytes, overheads
from raypref.plan.learner_memory import shard
from raypref.plan.memory import estimate
from raypref.plan.memory_job import Job, Phase, ProcessMemory
from raypref.plan.placement import Role
from raypref.plan.setting import Setting


def processes(setting: Setting) -> dict[tuple[Role, Phase], ProcessMemory]:
    """What one process of each role holds: the memory model's items, and on a GPU the CUDA context, and what vLLM needs beside them."""
    job, rollout = setting.job, setting.config.rollout
    gpu_bytes = setting.gpu_bytes
    beside: dict[str, int] = {}
    if job.device == "cuda":
        beside = overheads(job, rollout.max_num_seqs, gpu_bytes or 0, eager=rollout.enforce_eager)
        if rollout.kv_cache_gib is None and gpu_bytes is not None:
            weights = shard(job.dtype_bytes * job.model.parameters, job.tensor_parallel)
            job = replace(job, kv_cache_bytes=cache_bytes(rollout.gpu_memory_utilization, gpu_bytes, weights, sum(beside.values())))
    found = {(process.role, process.phase): process for process in estimate(job)}
    return {key: _with_overheads(process, job, beside) for key, process in found.items()} if job.device == "cuda" else found


def _with_overheads(process: ProcessMemory, job: Job, beside: Mapping[str, int]) -> ProcessMemory:
    extra: dict[str, int] = {"context": CONTEXT_BYTES}
    if process.role == "rollout":  # asleep, or during a sync, nothing is computed; its graphs stay
        extra = dict(beside) if process.phase == "rollout" or (process.phase == "train" and not job.sleep) else {**extra, **_graphs(beside)}
    return replace(process, gpu={**process.gpu, **extra})


def _graphs(beside: Mapping[str, int]) -> dict[str, int]:
    return {item: size for item, size in beside.items() if item == "graphs"}
