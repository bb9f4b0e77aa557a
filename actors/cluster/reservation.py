"""One placement group for a run: all of its bundles are reserved, or none."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from actors.cluster import teardown
from raypref.errors import ActorFailed, PlacementError
from raypref.plan.capacity import Capacity, arranged, cannot_fit, in_use
from raypref.plan.placement import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")

_AT_ONCE_S = 3.0
"""Seconds in which Ray makes a reservation for which there is room; after that a warning says what the run waits for."""
_LOOK_S = 1.0
"""Seconds between two looks at the nodes, or at the bundles, of a cluster that has lost some."""


def reserve(plan: Plan, timeout_s: float, one_node: bool = False, *, again: bool = False) -> tuple[PlacementGroup, Plan]:
    """Reserve every bundle of the plan, or none. A plan that the cluster can never hold is refused at once, unless an autoscaler could add
    nodes.

    Args:
        plan: the bundles.
        timeout_s: how long to wait for nodes or other jobs.
        one_node: whether all bundles must be on the same node.
        again: the cluster has held the plan before, so that nodes which are missing now are waited for.

    Returns:
        The bundles, and the plan as it was reserved: the learner's ranks are joined in bundles where these fit a node.

    Raises:
        PlacementError: what is needed, what there is, and what others use of it.
    """
    deadline, grows = time.monotonic() + timeout_s, autoscaled()
    nodes = _returned(plan, one_node, deadline) if again and not grows else capacities()
    never = cannot_fit(plan, nodes, one_node)
    if never and again and not grows:
        raise PlacementError(f"placement: no node has come back within placement.timeout_s = {timeout_s:g} s\n{never}")
    if never and not grows:
        late = "no autoscaler adds nodes to this cluster: start the run when all nodes have joined (`ray status` lists them)"
        raise PlacementError(f"placement: this cluster can never hold the run\n{never}\n{late}")
    if not one_node:
        plan = arranged(plan, nodes)
    bundles = [dict(bundle) for bundle in plan.bundles]
    group = placement_group(bundles, strategy="STRICT_PACK" if one_node else "PACK", name=f"raypref-{uuid.uuid4()}")
    try:
        if not group.wait(min(_AT_ONCE_S, timeout_s)):
            whom = "the autoscaler to add nodes" if never else "other jobs to end"
            logger.warning("placement: waiting up to %g s for %s\n%s", timeout_s, whom, never or in_use(plan, nodes, one_node))
            if not group.wait(max(0.0, deadline - time.monotonic())):
                nodes = capacities()
                reason = cannot_fit(plan, nodes, one_node) or in_use(plan, nodes, one_node)
                raise PlacementError(f"placement: not placed within placement.timeout_s = {timeout_s:g} s\n{reason}")
    except BaseException:
        remove_placement_group(group)
        raise
    return group, plan


def _returned(plan: Plan, one_node: bool, deadline: float) -> Sequence[Capacity]:
    """The nodes of the cluster, once they can hold the plan again; those that there are at the deadline otherwise."""
    told = False
    while (never := cannot_fit(plan, nodes := capacities(), one_node)) and (left_s := deadline - time.monotonic()) > 0:
        if not told:
            logger.warning("placement: waiting up to %.0f s for the nodes that the cluster has lost\n%s", left_s, never)
            told = True
        time.sleep(min(_LOOK_S, left_s))
    return nodes


async def while_placed(group: PlacementGroup, name: str, timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of work that needs an actor's bundle. When a node dies, Ray places its bundles anew as soon as there is room.

    Args:
        group: the run's bundles.
        name: of the actor.
        timeout_s: longest time without a place.
        work: waits for the actor.

    Raises:
        ActorFailed: there was no place for so long.
        Exception: what ``work`` raises.
    """
    task, placed = asyncio.ensure_future(work), time.monotonic()
    look: asyncio.Future[bool] | None = None
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_LOOK_S)
            look = look or teardown.beside(f"the bundle of {name}", lambda: placement_group_table(group)["state"] == "CREATED")
            await asyncio.wait([look], timeout=_LOOK_S)
            if not look.done():
                continue  # the GCS hangs, which says nothing of the bundle
            is_there, look = look.result(), None
            if is_there:
                placed = time.monotonic()
            elif time.monotonic() - placed > timeout_s:
                late = f"placement: nothing has room for {name} since its node is gone; placement.timeout_s = {timeout_s:g} s are over"
                raise ActorFailed(late, [name])
    finally:
        task.cancel()
        if look is not None:
            look.cancel()
    return task.result()


def capacities() -> Sequence[Capacity]:
    """The nodes of the cluster that are alive."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        Capacity(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", node["Resources"], _of(free.get(node["NodeID"], {})))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _of(resources: dict[str, float]) -> dict[str, float]:
    return {key: resources.get(key, 0.0) for key in ("GPU", "CPU")}


def autoscaled() -> bool:
    """Whether an autoscaler manages the cluster's nodes: their types then have the names of its configuration. Nodes that were started by
    hand have no type, or in the reports of Ray's monitor each one its own, ``node_<id>``."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    report = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}").get("autoscaler_report") or {}
    types = set(report.get("active_nodes") or {}) | set(report.get("pending_launches") or {})
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    types |= {node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]}
    return any(name and not name.startswith("node_") for name in types)
