"""What a vLLM engine holds on a GPU beside its weights, and what is left for its key-value cache.

Source: vLLM 0.32, ``v1/worker/gpu_worker.py``, ``determine_available_memory``: with ``gpu_memory_utilization`` the cache gets that share of
the GPU less weights, CUDA context, the activations of a pass over as many tokens as may be batched, and CUDA graphs. With a fixed cache the
share is not looked at, and all of these come on top.
"""

from __future__ import annotations

from typing import Literal

from raypref.plan.hardware import GIB
from raypref.plan.learner_memory import FP32, shard
from raypref.plan.memory_job import Job

CONTEXT_BYTES = GIB // 2
"""A process' CUDA context and the libraries' workspaces: 0.4 to 0.6 GiB on recent GPUs."""
GRAPHS_BYTES = GIB
"""CUDA graphs: vLLM's log says 0.5 to 1.0 GiB for models of 1B to 8B."""
LARGE_GPU_BYTES = 70 * GIB
BATCHED_TOKENS: dict[Literal["small", "large"], int] = {"small": 8192, "large": 16_384}
"""Tokens of one pass of an engine, by the size of its GPU (``EngineArgs``: the defaults of ``LLM``, for GPUs from 70 GiB on and others)."""


def overheads(job: Job, max_num_seqs: int, gpu_bytes: int, *, eager: bool) -> dict[str, int]:
    """Item -> bytes of what an engine needs beside weights and cache while it samples.

    Args:
        job: of the run.
        max_num_seqs: ``rollout.max_num_seqs``.
        gpu_bytes: memory of the GPU.
        eager: ``rollout.enforce_eager``: no CUDA graphs.
    """
    tokens = BATCHED_TOKENS["large" if gpu_bytes >= LARGE_GPU_BYTES else "small"]
    model = job.model
    widths = 3 * model.hidden + shard(3 * model.intermediate, job.tensor_parallel)
    logits = max_num_seqs * model.vocabulary * (job.dtype_bytes + 2 * FP32)  # as the head returns them, in fp32, and their softmax
    return {"passes": job.dtype_bytes * tokens * widths + logits, "context": CONTEXT_BYTES} | ({} if eager else {"graphs": GRAPHS_BYTES})


def cache_bytes(share: float, gpu_bytes: int, weights: int, beside: int) -> int:
    """The key-value cache of an engine that takes a share of the GPU; 0 where nothing is left.

    Args:
        share: ``rollout.gpu_memory_utilization``.
        gpu_bytes: memory of the GPU.
        weights: of the engine on this GPU.
        beside: ``overheads``, in all.
    """
    return max(0, int(share * gpu_bytes) - weights - beside)
