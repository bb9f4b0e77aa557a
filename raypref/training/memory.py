"""What a run holds in memory, by role and phase: one model of it, in plain arithmetic.

    model = ModelShape.of(transformers.AutoConfig.from_pretrained(path), config.policy.lora)
    for process in estimate(Job.of(config, model, kv_cache_bytes=20 * 2**30)):
        print(process.role, process.phase, process.gpu_bytes / 2**30, process.gpu)

Figures are bytes of one GPU (of a learner rank, an engine or a replica) and of the host memory beside it. Left out: CUDA contexts and
library workspaces, fragmentation, an engine's activations and CUDA graphs, and the full logits of a model without a plain linear head.
``learner_memory`` names the sources.
"""

from __future__ import annotations

from collections.abc import Iterable

from raypref.training.learner_memory import forward_bytes, learner_memory, nonzero, shard, transport_bytes
from raypref.training.memory_job import Job, Phase, ProcessMemory

PHASES: tuple[Phase, ...] = ("rollout", "train", "sync")


def estimate(job: Job) -> tuple[ProcessMemory, ...]:
    """One process of every role in every phase. A role without a model in memory is left out."""
    processes = [make(job, phase) for make in (learner_memory, _rollout) for phase in PHASES]
    if job.reference_slots:
        processes += [_reference(job, phase) for phase in PHASES]
    if job.oracle_bytes:
        processes += [ProcessMemory("oracle", phase, {"weights": job.oracle_bytes}) for phase in PHASES]
    return tuple(processes)


def colocated_peak(processes: Iterable[ProcessMemory]) -> tuple[Phase, int]:
    """The phase with the highest memory use of a GPU that holds one process of every role, and its bytes."""
    totals = dict.fromkeys(PHASES, 0)
    for process in processes:
        totals[process.phase] += process.gpu_bytes
    worst = max(PHASES, key=totals.__getitem__)
    return worst, totals[worst]


def kv_bytes_per_token(job: Job) -> int:
    """Keys and values of one token on one GPU of an engine, which has at least one key-value head."""
    heads = max(1, job.model.kv_heads // job.tensor_parallel)
    return 2 * job.model.layers * heads * job.model.head_width * job.dtype_bytes


def _rollout(job: Job, phase: Phase) -> ProcessMemory:
    """An engine may sleep while the learner trains. During a weight sync, one layer exists twice."""
    weights = shard(job.dtype_bytes * job.model.parameters, job.tensor_parallel)
    if job.sleep and phase == "train":
        return ProcessMemory("rollout", phase, {}, nonzero(weights=weights if job.model.adapter_parameters else 0))
    cache = 0 if job.sleep and phase == "sync" else job.kv_cache_bytes
    arriving = {}
    if phase == "sync":
        arriving = {"layer": shard(_largest_layer_bytes(job), job.tensor_parallel), "transport": transport_bytes(job)}
    return ProcessMemory("rollout", phase, nonzero(weights=weights, cache=cache, **arriving))


def _reference(job: Job, phase: Phase) -> ProcessMemory:
    """Computes log-probs while engines sample and while the learner trains."""
    weights = job.reference_slots * job.dtype_bytes * job.model.parameters
    if phase == "sync":
        return ProcessMemory("reference", phase, nonzero(weights=weights, transport=transport_bytes(job) if job.reference_receives else 0))
    return ProcessMemory("reference", phase, nonzero(weights=weights, forward=forward_bytes(job)))


def _largest_layer_bytes(job: Job) -> int:
    """The fused gate and up projections of an engine, those of all experts of a layer, or the embedding."""
    model = job.model
    return job.dtype_bytes * max(2 * model.hidden * model.intermediate, model.hidden * model.vocabulary, model.largest_parameter)
