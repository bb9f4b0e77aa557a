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

from raypref.errors import ConfigError
from raypref.plan.learner_memory import forward_bytes, learner_memory, nonzero, shard, transport_bytes
from raypref.plan.memory_job import Job, Phase, ProcessMemory

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


STATES = ("parameters", "frozen", "optimizer", "gradients", "weights")
"""Items whose size follows from the model alone, and not from the batch."""
_REMEDIES = {
    "learner": "set learner.zero_stage=3, more placement.learner.ranks, learner.optimizer.type=rmsprop, or policy.lora",
    "rollout": "set a larger placement.rollout.tensor_parallel",
    "reference": "set placement.layout=separate and a larger placement.reference.gpus",
    "oracle": "give the oracle a GPU of its own (placement.layout=separate), or a smaller model",
}


def check_fits(job: Job, gpu_bytes: int, *, colocated: bool) -> None:
    """Refuse a run whose models cannot be held, whatever the batch.

    Args:
        job: of the run.
        gpu_bytes: memory of the smallest GPU.
        colocated: whether a GPU holds a process of every role.

    Raises:
        ConfigError: with the sum and the remedy.
    """
    by_gpu: dict[tuple[str, Phase], list[ProcessMemory]] = {}
    for process in estimate(job):
        by_gpu.setdefault(("" if colocated else process.role, process.phase), []).append(process)
    for (_, phase), processes in by_gpu.items():
        terms = [(process.role, item, size) for process in processes for item, size in process.gpu.items() if item in STATES]
        needed = sum(size for _, _, size in terms)
        if needed > gpu_bytes:
            largest = max(processes, key=lambda process: sum(size for item, size in process.gpu.items() if item in STATES)).role
            summed = " + ".join(f"{role} {item} {size / 2**30:.1f}" for role, item, size in terms)
            raise ConfigError(
                f"placement: in the phase {phase!r} one GPU would have to hold {summed} = {needed / 2**30:.1f} GiB, before any activations "
                f"or cache, but it has {gpu_bytes / 2**30:.1f} GiB; {_REMEDIES[largest]}"
            )


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
    """Computes log-probs while engines sample and while the learner trains. Of several GPUs the first: it holds embedding and head, and the
    weights of a sync arrive there; the blocks are divided so that all hold about equally much."""
    weights = job.reference_slots * job.dtype_bytes * job.model.parameters
    if job.reference_gpus > 1:
        block = (job.model.parameters - 2 * job.model.embedding) // job.model.layers
        around = 2 * job.model.embedding
        most = max(shard(job.model.parameters, job.reference_gpus) + block // 2, around)
        weights = job.reference_slots * job.dtype_bytes * most
    if phase == "sync":
        return ProcessMemory("reference", phase, nonzero(weights=weights, transport=transport_bytes(job) if job.reference_receives else 0))
    return ProcessMemory("reference", phase, nonzero(weights=weights, forward=forward_bytes(job)))


def _largest_layer_bytes(job: Job) -> int:
    """The fused gate and up projections of an engine, those of all experts of a layer, or the embedding."""
    model = job.model
    return job.dtype_bytes * max(2 * model.hidden * model.intermediate, model.hidden * model.vocabulary, model.largest_parameter)
