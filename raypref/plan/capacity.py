"""Whether the nodes of a cluster can hold a plan, and if not, the true reason. Pure: nothing here talks to Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raypref.plan.placement import Plan, joined, show

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Capacity:
    """The GPUs and CPU cores of one node."""

    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    """What nobody has reserved now."""

    def __str__(self) -> str:
        used = {key: self.total.get(key, 0.0) - self.free.get(key, 0.0) for key in ("GPU", "CPU")}
        taken = show({key: value for key, value in used.items() if value > _TOLERANCE})
        return f"{self.name}: {show(self.total)}" + (f" (of which others use {taken})" if taken != "nothing" else "")


def cannot_fit(plan: Plan, nodes: Sequence[Capacity], one_node: bool = False, *, free: bool = False) -> str | None:
    """Why the nodes cannot hold the plan; None when they can.

    First fit, largest bundle first: exact for bundles of equal size, and what Ray itself does otherwise.

    Args:
        plan: the bundles.
        nodes: of the cluster.
        one_node: whether all bundles must be on the same node.
        free: count what is free now; default: all that the nodes have.
    """
    have = [node.free if free else node.total for node in nodes]
    if one_node:
        if any(_without_room(plan, [node]) is None for node in have):
            return None
        return (
            f"needed on one node (sync.transport takes the weights through its memory): {plan.arithmetic()}\n"
            f"{_described(nodes)}\nlower placement.*, start a larger node, or set a sync.transport that crosses nodes"
        )
    bundle = _without_room(plan, have)
    if bundle is None:
        return None
    return (
        f"needed: {plan.arithmetic()}\n{_described(nodes)}\n"
        f"no node has room for a bundle of {{{show(bundle)}}} beside the others; lower placement.*, or add nodes"
    )


def in_use(plan: Plan, nodes: Sequence[Capacity], one_node: bool) -> str:
    """What a run that waits is told: the nodes could hold it, but others use a part of them."""
    where = " on one node" if one_node else ""
    return f"needed{where}: {plan.arithmetic()}\n{_described(nodes)}\nthe run fits when the others have ended"


def arranged(plan: Plan, nodes: Sequence[Capacity]) -> Plan:
    """The plan with the learner's ranks on as few nodes as there is room for: its collectives are the run's heaviest traffic.

    What is free now comes first, then what others use now. A plan that fits nowhere stays as it is: an autoscaler picks nodes for it.
    """
    most = len({rank.bundle for rank in plan.of("learner")})
    for free in (True, False):
        for size in range(most, 0, -1):
            if cannot_fit(candidate := joined(plan, size), nodes, free=free) is None:
                return candidate
    return plan


def _described(nodes: Sequence[Capacity]) -> str:
    if not nodes:
        return "the cluster has no node at all"
    largest = max(nodes, key=lambda node: (node.total.get("GPU", 0.0), node.total.get("CPU", 0.0)))
    whole = {key: sum(node.total.get(key, 0.0) for node in nodes) for key in ("GPU", "CPU")}
    if len(nodes) == 1:
        return f"the only node is {largest}"
    used = [str(node) for node in nodes if node is not largest and dict(node.free) != dict(node.total)]
    others = f"\nothers use a part of: {'; '.join(used)}" if used else ""
    return f"the largest node is {largest}; the {len(nodes)} nodes have {whole['GPU']:g} GPU, {whole['CPU']:g} CPU in all{others}"


class _Room:
    """What is left of one node. A share of a GPU is a share of one GPU: two halves of different ones are no whole."""

    def __init__(self, resources: Mapping[str, float]) -> None:
        self._cpus = resources.get("CPU", 0.0)
        gpus = resources.get("GPU", 0.0)
        self._gpus = [1.0] * math.floor(gpus + _TOLERANCE)
        if (rest := gpus - len(self._gpus)) > _TOLERANCE:
            self._gpus.append(rest)

    def take(self, bundle: Mapping[str, float]) -> tuple[int, ...] | None:
        """Take the bundle's resources, if they are there: the indices of its GPUs, those with the least left first. None: they are not."""
        cpus, gpus = bundle.get("CPU", 0.0), bundle.get("GPU", 0.0)
        shares = [1.0] * int(gpus) if gpus >= 1 else [gpus] if gpus else []
        left, taken = list(self._gpus), []
        for share in shares:
            free = [k for k in range(len(left)) if left[k] + _TOLERANCE >= share]
            if not free:
                return None
            taken.append(min(free, key=left.__getitem__))
            left[taken[-1]] -= share
        if cpus > self._cpus + _TOLERANCE:
            return None
        self._cpus, self._gpus = self._cpus - cpus, left
        return tuple(taken)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bundle is."""

    node: int
    gpus: tuple[int, ...]
    """Of the node; empty for a bundle without a GPU."""


def places(plan: Plan, nodes: Sequence[Mapping[str, float]]) -> list[Place | None]:
    """The place of each bundle, the largest first where there is room; None where no node has room."""
    rooms = [_Room(node) for node in nodes]
    found: list[Place | None] = [None] * len(plan.bundles)
    for index in _largest_first(plan):
        taken = ((node, room.take(plan.bundles[index])) for node, room in enumerate(rooms))
        found[index] = next((Place(node, gpus) for node, gpus in taken if gpus is not None), None)
    return found


def _largest_first(plan: Plan) -> list[int]:
    return sorted(range(len(plan.bundles)), key=lambda k: (-plan.bundles[k].get("GPU", 0.0), -plan.bundles[k].get("CPU", 0.0)))


def _without_room(plan: Plan, nodes: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    """The first bundle that no node has room for."""
    found = places(plan, nodes)
    return next((plan.bundles[k] for k in _largest_first(plan) if found[k] is None), None)
