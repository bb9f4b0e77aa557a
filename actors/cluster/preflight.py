"""Before any model is loaded: can those nodes of a run that must talk exchange messages?

The driver is left out: it talks to the actors through Ray. A run on one node needs no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.cluster import network
from actors.cluster.collective import Backend, CollectiveProbe
from actors.cluster.network import NoInterface
from actors.cluster.nodes import Node, answers_of, on, refuse_network
from actors.cluster.probe import Endpoint, Probe
from raypref.errors import NetworkError

_OBJECT_BYTES = 1 << 20
"""Larger than what Ray sends along with an answer: it travels between the nodes' object stores."""
_MARGIN_S = 5.0
"""How much longer the driver waits than a probe: the probe knows more of what failed."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """Actors that connect with each other by themselves, each with each."""

    purpose: str
    """``learner ranks``"""
    bundles: tuple[int, ...]
    """Where they run."""


def check_network(
    group: PlacementGroup, nodes: Mapping[int, Node], meshes: Sequence[Mesh], device: Literal["cuda", "cpu"], timeout_s: float
) -> None:
    """Have the nodes exchange messages: every pair through Ray's object stores, and the nodes of each mesh over TCP at the addresses that
    the rendezvous and gloo or NCCL will use; on GPUs the nodes of the meshes also add up one element by NCCL.

    Args:
        group: the run's bundles.
        nodes: of the bundles (``nodes_of``).
        meshes: which actors connect with each other.
        device: what they compute on.
        timeout_s: longest wait for each of the three.

    Raises:
        NetworkError: naming the pairs of nodes, the interface, the port and the remedy.
    """
    if len(set(nodes.values())) < 2:
        return
    meshed = {mesh: sorted({nodes[bundle] for bundle in mesh.bundles}, key=lambda node: node.id) for mesh in meshes}
    with _probes(sorted(set(nodes.values()), key=lambda node: node.id)) as probes:
        _check_tcp(probes, meshed, device, timeout_s)
        _check_objects(probes, timeout_s)
    if device == "cuda":
        bundles = {nodes[bundle]: bundle for mesh in reversed(meshes) for bundle in reversed(mesh.bundles)}
        if len(bundles) > 1:
            check_collective(group, bundles, "nccl", timeout_s)


@contextmanager
def _probes(nodes: Sequence[Node]) -> Iterator[dict[Node, Any]]:
    settings = network.settings()
    probes = {node: ray.remote(_RayProbe).options(**on(node)).remote(settings) for node in nodes}
    try:
        yield probes
    finally:
        for probe in probes.values():
            ray.kill(probe)


class _RayProbe(Probe):
    """A probe that exchanges Ray's objects as well."""

    def opened(self, device: Literal["cuda", "cpu"], node_address: str) -> list[Endpoint] | str:
        """``open``, or why the node's settings cannot be followed."""
        try:
            return self.open(device, node_address)
        except NoInterface as error:
            return str(error)

    def put(self) -> list[Any]:
        """A reference to an object in this node's store, in a list: whoever gets the list has not fetched the object."""
        return [ray.put(bytes(_OBJECT_BYTES))]

    def missing(self, references: Mapping[Node, list[Any]], timeout_s: float) -> list[Node]:
        """The nodes whose objects did not arrive here in time."""
        waiting = {reference: node for node, (reference,) in references.items()}
        _, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=timeout_s, fetch_local=True)
        return [waiting[reference] for reference in late]


def _check_tcp(probes: Mapping[Node, Any], meshed: Mapping[Mesh, Sequence[Node]], device: Literal["cuda", "cpu"], timeout_s: float) -> None:
    purposes = {frozenset(pair): mesh.purpose for mesh, nodes in meshed.items() for pair in combinations(nodes, 2)}
    talking = [node for node in probes if any(node in pair for pair in purposes)]
    opened: dict[Node, list[Endpoint] | str] = answers_of(
        {node: probes[node].opened.remote(device, node.address) for node in probes}, timeout_s
    )
    refuse_network([f"network: node {node}: {problem}" for node, problem in opened.items() if node in talking and isinstance(problem, str)])
    endpoints = {node: found for node, found in opened.items() if not isinstance(found, str)}
    peers = {node: [peer for peer in talking if frozenset((node, peer)) in purposes] for node in talking}
    calls = {
        node: probes[node].reach.remote([endpoint for peer in peers[node] for endpoint in endpoints[peer]], timeout_s) for node in talking
    }
    owner = {endpoint: node for node, found in endpoints.items() for endpoint in found}
    remedy = (
        "open every port between these nodes (the rendezvous, gloo and NCCL take ports that the kernel picks), or name an interface that "
        f"connects them in {network.interface_setting(device)} on each node"
    )
    refuse_network(
        [
            f"network: {purposes[frozenset((node, owner[endpoint]))]} on nodes {node} and {owner[endpoint]} must talk, but {node.host} "
            f"cannot reach {owner[endpoint].host} at {endpoint} over TCP: {reason}; {remedy}"
            for node, failures in answers_of(calls, timeout_s + _MARGIN_S).items()
            for endpoint, reason in failures.items()
        ]
    )


def _check_objects(probes: Mapping[Node, Any], timeout_s: float) -> None:
    references: dict[Node, list[Any]] = answers_of({node: probe.put.remote() for node, probe in probes.items()}, timeout_s)
    calls = {
        node: probe.missing.remote({other: held for other, held in references.items() if other != node}, timeout_s)
        for node, probe in probes.items()
    }
    refuse_network(
        [
            f"network: Ray did not bring an object from node {other} to node {node} within {timeout_s:g} s; open Ray's ports between these "
            f"nodes (that of the object store on {other.host} is {other.object_port}; `ray start --object-manager-port` fixes it)"
            for node, late in answers_of(calls, timeout_s + _MARGIN_S).items()
            for other in late
        ]
    )


def check_collective(group: PlacementGroup, bundles: Mapping[Node, int], backend: Backend, timeout_s: float) -> None:
    """Add up one element over one process on each node.

    Args:
        group: the run's bundles.
        bundles: of each node the one that lends its GPU, or a part of it.
        backend: ``nccl``; ``gloo`` needs no GPU.
        timeout_s: longest wait.

    Raises:
        NetworkError: naming the nodes and what went wrong on each.
    """
    order, settings = list(bundles), network.settings()
    probes = []
    for node in order:
        gpus = min(1.0, group.bundle_specs[bundles[node]].get("GPU", 0.0)) if backend == "nccl" else 0.0
        inside = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundles[node])
        probe = ray.remote(CollectiveProbe).options(num_cpus=0, num_gpus=gpus, scheduling_strategy=inside)
        probes.append(probe.remote(settings, backend, node.address))
    try:
        first = order[0]
        port = answers_of({first: probes[0].listen.remote(timeout_s)}, timeout_s)[first]
        calls = {node: probes[k].total.remote(first.address, port, k, len(order), timeout_s) for k, node in enumerate(order)}
        totals: Mapping[Node, float | str] = answers_of(calls, timeout_s + _MARGIN_S, failing=True)
        wrong = [f"{node}: {total}" for node, total in totals.items() if total != len(order)]
        if wrong:
            raise NetworkError(
                f"network: {backend} does not add up one element over the nodes {', '.join(map(str, order))}, though they reach each other "
                f"over TCP:\n"
                + "\n".join(wrong)
                + f"\nset {backend.upper()}_SOCKET_IFNAME to the interface that connects them"
                + ("; NCCL_DEBUG=INFO shows what it tries, NCCL_IB_DISABLE=1 leaves InfiniBand out" if backend == "nccl" else "")
            )
    finally:
        for probe in probes:
            ray.kill(probe)
