"""On a cluster of two nodes: where bundles lie, and what the nodes are asked before models are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

import raypref
from actors.cluster.launch import reserve, stop
from actors.cluster.nodes import check_nodes, nodes_of
from actors.cluster.placement import Need, Plan, plan_placement
from actors.cluster.preflight import Mesh, check_collective, check_network
from raypref.errors import NetworkError
from raypref.sections import PlacementConfig

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("two_nodes")]

LIMIT_S = 60.0


def plan_of(ranks: int) -> Plan:
    return plan_placement(PlacementConfig.parse({"learner": {"ranks": ranks}}), Need(rollout=False, reference=False, oracle=False))


def test_nodes_that_must_talk_exchange_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TCP, through Ray's object stores, and by a sum, here gloo's; and an interface that is not there is named with the node."""
    plan = plan_of(8)
    group = reserve(plan, timeout_s=30, may_grow=False)
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
