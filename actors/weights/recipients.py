"""Between which actors of a plan weights travel, and which actors connect with each other by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.cluster.preflight import Mesh
from actors.weights.destination import Destination
from actors.weights.transport import Transport
from raypref.config import RunConfig
from raypref.plan.placement import ActorPlacement, Plan


def receivers(config: RunConfig, plan: Plan) -> list[ActorPlacement]:
    """Where the learner's weights go: the engines, and the references if they hold pi_t."""
    references = plan.of("reference") if "previous" in config.loss.needs else []
    return plan.of("rollout") + references if plan.of("learner") else []


def destinations(config: RunConfig, plan: Plan, handles: Mapping[str, Any]) -> list[Destination]:
    """``receivers`` with their handles, which ``handles`` has by name."""
    width = config.placement.rollout.tensor_parallel
    return [Destination(copy.name, handles[copy.name], width if copy.role == "rollout" else 1) for copy in receivers(config, plan)]


def sender_and_receivers(config: RunConfig, plan: Plan) -> list[ActorPlacement]:
    """The actors between which weights travel; none where none are sent."""
    copies = receivers(config, plan)
    return plan.of("learner") + copies if copies else []


def meshes(config: RunConfig, plan: Plan, way: Transport) -> list[Mesh]:
    """The actors that connect with each other without Ray: the learner's ranks, and by some transports the first one with the copies of
    its policy."""
    ranks, copies = plan.of("learner"), receivers(config, plan)
    found = [Mesh("learner ranks", tuple(rank.bundle for rank in ranks))] if ranks else []
    if way.own_network and copies:
        found.append(Mesh("the sender of the weights and its receivers", (ranks[0].bundle, *(copy.bundle for copy in copies))))
    return found
