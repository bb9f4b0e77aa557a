"""What each GPU of a cluster would hold, phase by phase, and whether it fits.

setting = Setting(config, shape, Cluster.of(gpu="h100", gpus=8), Task())
for use in gpu_uses(setting): print(use.roles, use.peak_phase, use.peak_bytes)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from raypref.checks import Task
from raypref.config import RunConfig
from raypref.plan.capacity import Capacity, Place, arranged, cannot_fit, places
from raypref.plan.engine_memory import CONTEXT_BYTES, cache_bytes, overheads
from raypref.plan.hardware import GIB, Cluster
from raypref.plan.learner_memory import shard
from raypref.plan.memory import PHASES, estimate
from raypref.plan.memory_job import Job, Phase, ProcessMemory
from raypref.plan.model_shape import ModelShape
from raypref.plan.placement import ActorPlacement, Need, Plan, Role, plan_placement

MARGIN = 0.05
"""Share of a GPU that should stay free: the allocator cannot use all of it, since freed blocks do not fit every size."""
_MOST_GPUS_PER_NODE = 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that the arithmetic depends on."""

    config: RunConfig
    shape: ModelShape
    """Of the policy, its adapter included."""
    cluster: Cluster
    task: Task = field(default_factory=Task)
    oracle_bytes: int = 0
    """Weights of the oracle's models."""
    row_tokens: int | None = None
    """Of the longest row of a micro-batch; None: not known."""
    example_tokens: int | None = None
    """Of the longest example, which is never divided; None: not known."""
    fused: bool = False
    """Whether the learner has Liger's kernels."""

    @property
    def gpu_bytes(self) -> int | None:
        """Of one GPU; None on a CPU, or if its memory is not known."""
        gpu = self.cluster.gpu
        return int(gpu.gib * GIB) if gpu is not None and gpu.gib else None

    @property
    def job(self) -> Job:
        """What the memory model reads; an example that is longer than a micro-batch is one by itself."""
        job = Job.of(self.config, self.shape, oracle_bytes=self.oracle_bytes, row_tokens=self.row_tokens, fused=self.fused)
        return replace(job, micro_batch_tokens=max(job.micro_batch_tokens, self.example_tokens or 0))


@dataclass(frozen=True, slots=True)
class GpuUse:
    """GPUs that hold the same processes."""

    roles: tuple[Role, ...]
    """One entry per process."""
    count: int
    phases: Mapping[Phase, Mapping[str, int]]
    """Phase -> ``learner optimizer`` and so on -> bytes."""
    host: Mapping[Phase, Mapping[str, int]]
    """The same of the host's memory beside one GPU."""

    @property
    def peak_phase(self) -> Phase:
        return max(PHASES, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def peak_bytes(self) -> int:
        return sum(self.phases[self.peak_phase].values())


@dataclass(frozen=True, slots=True)
class Placed:
    """Where everything would be."""

    plan: Plan
    gpus_per_node: int
    places: tuple[Place | None, ...]
    """Of each bundle."""
    cannot: str | None
    """Why the cluster cannot hold the run; None: it can."""


def place(setting: Setting) -> Placed:
    """The bundles of a run on a cluster, as the run itself divides and Ray packs them on nodes that are free.

    Raises:
        ConfigError: the layout cannot be made of these numbers.
    """
    cluster = setting.cluster
    plan = plan_placement(setting.config.placement, Need.of(setting.config, setting.task))
    gpus = cluster.gpus if cluster.gpus is not None else _fewest_gpus(plan, cluster.nodes)
    nodes = _nodes(cluster.nodes, gpus)
    plan = arranged(plan, nodes)
    return Placed(plan, gpus, tuple(places(plan, [node.total for node in nodes])), cannot_fit(plan, nodes))


def _nodes(count: int, gpus: int) -> list[Capacity]:
    """Nodes with as many CPU cores as anybody asks for."""
    resources = {"GPU": float(gpus), "CPU": float("inf")}
    return [Capacity(f"node {index}", resources, resources) for index in range(count)]


def _fewest_gpus(plan: Plan, nodes: int) -> int:
    """GPUs per node that are enough."""
    least = max(1, -(-int(plan.total("GPU")) // nodes))
    return next((gpus for gpus in range(least, _MOST_GPUS_PER_NODE) if cannot_fit(plan, _nodes(nodes, gpus)) is None), least)


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


def gpu_uses(setting: Setting, placed: Placed | None = None) -> list[GpuUse]:
    """What the GPUs hold, equal ones together. A role without a model in memory (a function as oracle) holds nothing.

    Raises:
        ConfigError: the layout cannot be made of these numbers.
    """
    placed = placed or place(setting)
    of_role = processes(setting)
    held: dict[tuple[int, int], list[Role]] = {}
    ranks: dict[int, tuple[int, int]] = {}
    for actor in placed.plan.actors:
        for gpu in _gpus_of(actor, placed, ranks):
            held.setdefault(gpu, []).append(actor.role)
    kinds = Counter(tuple(sorted(role for role in roles if (role, "train") in of_role)) for roles in held.values())
    return [_use(roles, count, of_role) for roles, count in kinds.items() if roles]


def _gpus_of(actor: ActorPlacement, placed: Placed, ranks: dict[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """(node, GPU) of an actor: those that Ray reserves for it, or that it shares with learner ranks, which come first in the plan."""
    spot = placed.places[actor.bundle]
    if actor.role == "learner":
        before = sum(1 for other in placed.plan.of("learner") if other.bundle == actor.bundle and other.index < actor.index)
        ranks[actor.index] = _nowhere(actor) if spot is None else (spot.node, spot.gpus[before])
        return [ranks[actor.index]]
    if actor.shares_gpus_of:
        shared = actor.shares_gpus_of if actor.role == "rollout" else actor.shares_gpus_of[:1]
        return [ranks[rank] for rank in shared]
    if spot is None:
        return [_nowhere(actor)] if actor.gpus else []
    return [(spot.node, gpu) for gpu in spot.gpus]


def _nowhere(actor: ActorPlacement) -> tuple[int, int]:
    """A GPU that the cluster does not have: what it would hold is shown all the same."""
    return (-1 - actor.bundle, actor.index)


def _use(roles: tuple[Role, ...], count: int, of_role: Mapping[tuple[Role, Phase], ProcessMemory]) -> GpuUse:
    gpu: dict[Phase, dict[str, int]] = {phase: {} for phase in PHASES}
    host: dict[Phase, dict[str, int]] = {phase: {} for phase in PHASES}
    for role in roles:
        for phase in PHASES:
            for sums, items in ((gpu, of_role[role, phase].gpu), (host, of_role[role, phase].host)):
                for item, size in items.items():
                    name = f"{role} {item}"
                    sums[phase][name] = sums[phase].get(name, 0) + size
    return GpuUse(roles, count, gpu, host)


def fits(setting: Setting, margin: float = MARGIN) -> bool | None:
    """Whether the cluster has room for the bundles, every GPU for what it would hold, and every engine for a cache.

    Args:
        margin: share of each GPU that must stay free.

    Returns:
        None where the memory of the GPUs is not known.

    Raises:
        ConfigError: the layout cannot be made of these numbers.
    """
    placed, limit = place(setting), setting.gpu_bytes
    if placed.cannot is not None:
        return False
    if limit is None:
        return None
    return all(use.peak_bytes <= (1 - margin) * limit and has_cache(use) for use in gpu_uses(setting, placed))


def has_cache(use: GpuUse) -> bool:
    """Whether an engine on this GPU, if there is one, has a key-value cache."""
    return "rollout" not in use.roles or use.phases["rollout"].get("rollout cache", 0) > 0


def largest_micro_batch(setting: Setting, most: int = 1 << 20) -> int | None:
    """The largest ``learner.micro_batch_tokens``, in steps of 256, with which the run fits; None: it fits with none, or cannot be told."""

    def with_tokens(tokens: int) -> Setting:
        learner = setting.config.learner.model_copy(update={"micro_batch_tokens": tokens})
        return replace(setting, config=setting.config.model_copy(update={"learner": learner}))

    low, high = 0, most // 256
    while low < high:  # low fits, or is 0
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(with_tokens(256 * middle)) else (low, middle - 1)
    return 256 * low or None
