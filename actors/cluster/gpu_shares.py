"""Roles that share a GPU: which shares cannot work, and which actors may not start at the same time. Pure: nothing here talks to Ray.

While a vLLM engine starts it measures the memory of its whole GPU, and takes what others allocate meanwhile for its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from raypref.errors import ConfigError
from raypref.plan.placement import ActorPlacement, Plan


def check_shares(plan: Plan, rollout_share: float, oracle_share: float | None) -> None:
    """Refuse shares of GPUs that cannot work. For a plan on GPUs.

    Args:
        plan: the run's.
        rollout_share: ``rollout.gpu_memory_utilization``.
        oracle_share: share of a GPU's memory that the engine in each oracle actor takes; None: it has none.

    Raises:
        ConfigError: naming the key, the sum and the remedy.
    """
    if any(not actor.gpus and not actor.shares_gpus_of for actor in plan.of("reference")):
        raise ConfigError("placement.reference.gpus: 0, but on GPUs the reference computes on one; set a share above 0, such as 0.5")
    if oracle_share is None:
        return
    on_gpu = Counter(actor.shares_gpus_of[0] for actor in plan.of("oracle") if actor.shares_gpus_of)
    if on_gpu:
        replicas = max(on_gpu.values())
        whole = (rollout_share if plan.of("rollout") else 0.0) + replicas * oracle_share
        if whole > 1:
            raise ConfigError(
                f"oracle.gpu_memory_utilization: {oracle_share:g} for each of {replicas} oracle actors on a GPU, beside "
                f"rollout.gpu_memory_utilization={rollout_share:g}, is {whole:g} of its memory; together at most 1"
            )
    for gpus in {actor.gpus for actor in plan.of("oracle") if not actor.shares_gpus_of}:
        if not gpus:
            raise ConfigError("placement.oracle.gpus: 0, but the oracle's engine (vllm) computes on a GPU; set 1, or a share of one")
        if gpus < min(1.0, oracle_share):
            raise ConfigError(
                f"oracle.gpu_memory_utilization: {oracle_share:g} of the GPU's memory, but placement.oracle.gpus={gpus:g} leaves the "
                f"rest of the GPU to others; set it to {0.9 * gpus:g} or less, or placement.oracle.gpus=1"
            )


def waves(plan: Plan, oracle_engine: bool) -> Iterator[list[ActorPlacement]]:
    """The actors in the order of their start on GPUs: those of a wave start side by side when all before them are ready.

    Colocated engines and references must be told which GPUs the learner's ranks got, so these come first. What measures a GPU's memory
    starts before others take some of it or after they have: the run's engines before, the oracles' engines last and one by one.

    Args:
        plan: the run's.
        oracle_engine: whether the oracle actors have an engine.
    """
    oracles = plan.of("oracle")
    together = plan.of("reference") + ([] if oracle_engine else oracles)
    if any(actor.shares_gpus_of for actor in plan.actors):
        in_order = [plan.of("learner"), plan.of("rollout"), together]
    else:
        in_order = [plan.of("learner") + plan.of("rollout") + together]
    if oracle_engine and any(actor.gpus < 1 for actor in oracles):
        in_order += [[oracle] for oracle in oracles]
    elif oracle_engine:
        in_order[-1] += oracles
    yield from filter(None, in_order)
