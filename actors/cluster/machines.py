"""The machines of a run's nodes."""

from __future__ import annotations

from collections.abc import Mapping

import ray

from actors.cluster.nodes import Node, answers_of, on
from raypref.output.environment import Machine
from raypref.plan.placement import Plan


def machines_of(nodes: Mapping[int, Node], plan: Plan, timeout_s: float) -> list[Machine]:
    """What each node of the run is, with the actors that are placed on it.

    Args:
        nodes: of the bundles (``nodes_of``).
        plan: which actors there are; those of one bundle are on one node.
        timeout_s: longest wait for a node's answer.

    Raises:
        NetworkError: a node does not answer.
    """
    placed: dict[Node, list[str]] = {}
    for actor in plan.actors:
        placed.setdefault(nodes[actor.bundle], []).append(actor.name)
    driver = ray.get_runtime_context().get_node_id()  # asked without a task, whose process takes seconds to start
    ask = ray.remote(this_machine)
    answers = answers_of({node: ask.options(**on(node)).remote() for node in placed if node.id != driver}, timeout_s)
    return [(answers[node] if node in answers else this_machine()).with_actors(names) for node, names in placed.items()]


def this_machine() -> Machine:
    """The machine on which this is called."""
    return Machine.here()
