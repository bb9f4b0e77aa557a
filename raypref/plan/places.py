"""Where the bundles of a run would be on a cluster of equal nodes."""

from __future__ import annotations

from dataclasses import dataclass

from raypref.plan.capacity import Capacity, Place, arranged, cannot_fit, places
from raypref.plan.placement import Need, Plan, plan_placement
from raypref.plan.setting import Setting

_MOST_GPUS_PER_NODE = 1024


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
