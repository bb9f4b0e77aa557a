"""The nodes of a run: which they are, whether each can be used, and the answers of what runs on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster.shared_files import appears
from raypref.errors import ConfigError, NetworkError

_SHOWN = 6
"""How many failures a message lists."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster on which actors of the run are placed."""

    id: str
    host: str
    address: str
    """Its address in Ray."""
    object_port: int
    """At which it sends and takes Ray's objects."""

    def __str__(self) -> str:
        return f"{self.host} ({self.address})"


def nodes_of(group: PlacementGroup) -> dict[int, Node]:
    """Index of a bundle -> the node on which it was reserved."""
    known = {
        entry["NodeID"]: Node(entry["NodeID"], entry["NodeManagerHostname"], entry["NodeManagerAddress"], int(entry["ObjectManagerPort"]))
        for entry in ray.nodes()
    }
    table: dict[int, str] = ray.util.placement_group_table(group)["bundles_to_node_id"]
    return {int(bundle): known[node] for bundle, node in table.items()}


def check_nodes(nodes: Mapping[int, Node], output_dir: Path, version: str, timeout_s: float) -> None:
    """Check that every node of the run can import this raypref and writes where the others read.

    Args:
        nodes: of the bundles.
        output_dir: the run's.
        version: of the driver's raypref.
        timeout_s: longest wait for the nodes.

    Raises:
        ConfigError: naming the node and what is missing there.
        NetworkError: a node does not answer.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    task = ray.remote(_make_node_check())
    markers = {node: output_dir / f".probe-{node.id}" for node in dict.fromkeys(nodes.values())}
    calls = {node: task.options(**on(node)).remote(str(marker), version) for node, marker in markers.items()}
    for node, problem in answers_of(calls, timeout_s).items():
        if problem:
            raise ConfigError(f"node {node}: {problem}")
        if not appears(markers[node], timeout_s=10.0):
            raise ConfigError(
                f"output_dir: {output_dir} on node {node} is not the directory that the driver sees; give a path that all nodes share"
            )
        markers[node].unlink()


def _make_node_check() -> Callable[[str, str], str | None]:
    """The function that runs on each node and says what is wrong there, or None.

    It is an inner function because Ray sends those by value: the node may lack raypref.
    """

    def check(path: str, version: str) -> str | None:
        from pathlib import Path

        try:
            import raypref
        except ImportError as error:
            return f"cannot import raypref ({error}); install it on every node, or start the run with `ray job submit --working-dir`"
        if raypref.__version__ != version:
            return f"raypref {raypref.__version__} is installed, the driver runs {version}; install the same version everywhere"
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
        except OSError as error:
            return f"output_dir cannot be written: {error}"
        return None

    return check


def answers_of(calls: Mapping[Node, Any], timeout_s: float, failing: bool = False) -> dict[Node, Any]:
    """Each node's answer.

    Args:
        calls: node -> the reference of its answer.
        timeout_s: longest wait for all of them.
        failing: whether the text of an error, or of no answer, is a node's answer.

    Raises:
        NetworkError: a node does not answer.
    """
    from ray.exceptions import GetTimeoutError, RayError

    deadline = time.monotonic() + timeout_s
    answers: dict[Node, Any] = {}
    problems: dict[Node, str] = {}
    for node, call in calls.items():
        try:
            answers[node] = ray.get(call, timeout=max(0.0, deadline - time.monotonic()))
        except GetTimeoutError:
            problems[node] = f"no answer within {timeout_s:g} s"
        except RayError as error:
            problems[node] = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
    if failing:
        return answers | problems
    refuse_network(
        [
            f"network: node {node} does not answer the driver through Ray: {problem}; `ray status` says whether the node is alive: "
            f"its host or the link to it may be down, or a firewall may close Ray's ports"
            for node, problem in problems.items()
        ]
    )
    return answers


def refuse_network(problems: Sequence[str]) -> None:
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise NetworkError("\n".join([*problems[:_SHOWN], *more]))


def on(node: Node) -> dict[str, Any]:
    """Options of a task or an actor that runs on this node and takes none of its resources."""
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)}
