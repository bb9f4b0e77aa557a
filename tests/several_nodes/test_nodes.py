"""On a cluster of two nodes: where bundles lie, and what the nodes are asked before models are loaded."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import raypref
from actors.cluster.launch import stop
from actors.cluster.nodes import check_nodes, nodes_of
from actors.cluster.preflight import Mesh, check_collective, check_network
from actors.cluster.reservation import autoscaled, reserve
from actors.cluster.store import meeting_address
from raypref.errors import NetworkError, PlacementError
from raypref.plan.placement import Need, Plan, plan_placement
from raypref.sections import PlacementConfig

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("two_nodes")]

LIMIT_S = 60.0


def plan_of(ranks: int) -> Plan:
    return plan_placement(PlacementConfig.parse({"learner": {"ranks": ranks}}), Need(rollout=False, reference=False, oracle=False))


def test_nodes_that_must_talk_exchange_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TCP, through Ray's object stores, and by a sum, here gloo's; and an interface that is not there is named with the node."""
    group, plan = reserve(plan_of(8), timeout_s=30)
    try:
        nodes = nodes_of(group)
        assert len(set(nodes.values())) == 2
        mesh = Mesh("learner ranks", tuple(rank.bundle for rank in plan.of("learner")))
        check_nodes(nodes, tmp_path, raypref.__version__, LIMIT_S)
        assert not list(tmp_path.iterdir())
        check_network(group, nodes, [mesh], "cpu", LIMIT_S)
        check_collective(group, {node: bundle for bundle, node in nodes.items()}, "gloo", LIMIT_S)
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ens77")
        with pytest.raises(NetworkError, match=r"network: node .* \(.*\): GLOO_SOCKET_IFNAME=ens77 names no interface there; the node has"):
            check_network(group, nodes, [mesh], "cpu", LIMIT_S)
    finally:
        stop([], group)


def test_the_processes_of_a_group_meet_at_the_nodes_address() -> None:
    import ray

    found = ray.get(ray.remote(num_cpus=1)(meeting_address).remote(), timeout=LIMIT_S)
    assert found in {node["NodeManagerAddress"] for node in ray.nodes()}


def test_the_learners_ranks_lie_on_one_node_beside_engines() -> None:
    """3 ranks and 2 engines of 2 GPUs on two nodes of 4: with a bundle for each rank Ray would place the engines first."""
    import ray

    sections = {"learner": {"ranks": 3}, "rollout": {"engines": 2, "tensor_parallel": 2, "cpus": 0.5}}
    wanted = plan_placement(PlacementConfig.parse(sections), Need(rollout=True, reference=False, oracle=False))
    group, plan = reserve(wanted, timeout_s=30)
    try:
        table = ray.util.placement_group_table(group)["bundles_to_node_id"]
        assert len({table[rank.bundle] for rank in plan.of("learner")}) == 1
        assert len({table[engine.bundle] for engine in plan.of("rollout")}) == 1, "an engine of 2 GPUs does not fit beside 3 ranks"
    finally:
        stop([], group)


def test_a_plan_that_can_never_be_is_refused_at_once_with_the_true_reason() -> None:
    """5 GPUs are there, but not on one node; and a run that others keep waiting is told of them, after the time-out."""
    begun = time.monotonic()
    with pytest.raises(
        PlacementError,
        match=r"needed on one node .*= 5 GPU, 5 CPU\nthe largest node is .*: GPU 4, CPU 4.*; the 2 nodes have 8 GPU, 8 CPU in all",
    ):
        reserve(plan_of(5), timeout_s=600, one_node=True)
    with pytest.raises(PlacementError, match=r"can never hold the run\nneeded: learner 9 x .*(\n.*)*no autoscaler adds nodes"):
        reserve(plan_of(9), timeout_s=600)
    assert time.monotonic() - begun < 30
    group, _ = reserve(plan_of(3), timeout_s=30)
    try:
        with pytest.raises(
            PlacementError, match=r"not placed within placement.timeout_s = 1 s\nneeded: .*(\n.*)*of which others use GPU 3, CPU 3"
        ):
            reserve(plan_of(6), timeout_s=1)
    finally:
        stop([], group)


def test_nodes_with_types_are_an_autoscalers() -> None:
    """What Ray's monitor reports of nodes that were started by hand, and of those of an autoscaler's configuration."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    assert not autoscaled()
    for types, managed in (({"node_8a1f": 1, "node_77c0": 1}, False), ({"ray.head.default": 1}, True)):
        _internal_kv_put(DEBUG_AUTOSCALING_STATUS, json.dumps({"autoscaler_report": {"active_nodes": types}}), overwrite=True)
        assert autoscaled() is managed
    try:
        with pytest.raises(PlacementError, match=r"not placed within placement\.timeout_s = 0\.5 s\nneeded: learner 9 x"):
            reserve(plan_of(9), timeout_s=0.5)
    finally:
        _internal_kv_del(DEBUG_AUTOSCALING_STATUS)
