"""What each GPU of a cluster would hold, phase by phase, and whether it fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from raypref.plan.memory import PHASES
from raypref.plan.memory_job import Phase, ProcessMemory
from raypref.plan.placement import ActorPlacement, Role
from raypref.plan.places import Placed, place
from raypref.plan.processes import processes
from raypref.plan.setting import Setting

MARGIN = 0.05
"""Share of a GPU that should stay free: the allocator cannot use all of it, since freed blocks do not fit every size."""
ROLES: tuple[Role, ...] = ("learner", "rollout", "reference", "oracle")
_BATCHED: tuple[Role, ...] = ("learner", "reference")
"""Whose memory depends on ``learner.micro_batch_tokens``."""


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


def fits(setting: Setting, margin: float = MARGIN, *, roles: Collection[Role] = ROLES) -> bool | None:
    """Whether the cluster has room for the bundles, every GPU for what it would hold, and every engine for a cache.

    Args:
        margin: share of each GPU that must stay free.
        roles: only GPUs with one of these are looked at.

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
    uses = [use for use in gpu_uses(setting, placed) if set(use.roles) & set(roles)]
    return all(use.peak_bytes <= (1 - margin) * limit and has_cache(use) for use in uses)


def has_cache(use: GpuUse) -> bool:
    """Whether an engine on this GPU, if there is one, has a key-value cache."""
    return "rollout" not in use.roles or use.phases["rollout"].get("rollout cache", 0) > 0


def largest_micro_batch(setting: Setting, most: int = 1 << 20) -> int | None:
    """The largest ``learner.micro_batch_tokens``, in steps of 256, with which learner and references fit; None: they fit with none, or it
    cannot be told."""

    def with_tokens(tokens: int) -> Setting:
        learner = setting.config.learner.model_copy(update={"micro_batch_tokens": tokens})
        return replace(setting, config=setting.config.model_copy(update={"learner": learner}))

    low, high = 0, most // 256
    while low < high:  # low fits, or is 0
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(with_tokens(256 * middle), roles=_BATCHED) else (low, middle - 1)
    return 256 * low or None
