"""From a plan to running actors: one placement group for the run, one actor a seat."""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors.cluster.placement import Plan, Seat, cannot_fit
from raypref.errors import ConfigError, PlacementError, RayprefError

logger = logging.getLogger(__name__)


def reserve(plan: Plan, timeout_s: float, may_grow: bool, strategy: str = "PACK") -> PlacementGroup:
    """Reserve every bundle of the plan, or none.

    Args:
        timeout_s: how long to wait for nodes or other jobs.
        may_grow: whether the cluster may get more nodes; one that cannot is refused at once when it is too small.
        strategy: of the placement group: PACK takes few nodes, STRICT_PACK one.

    Raises:
        PlacementError: with the arithmetic.
    """
    if not may_grow and (reason := cannot_fit(plan, _nodes())):
        raise PlacementError(f"placement: this cluster can never hold the run\n{reason}")
    group = placement_group([dict(bundle) for bundle in plan.bundles], strategy=strategy, name=f"raypref-{uuid.uuid4()}")
    if not group.wait(timeout_s):
        remove_placement_group(group)
        reason = cannot_fit(plan, _nodes()) or f"needed: {plan.arithmetic()}\nfree now: {_free()}; the rest is held by other jobs"
        raise PlacementError(f"placement: not placed within placement.timeout_s = {timeout_s:g} s\n{reason}")
    return group


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _free() -> str:
    free = ray.available_resources()
    return f"{free.get('GPU', 0):g} GPU, {free.get('CPU', 0):g} CPU"


def check_nodes(group: PlacementGroup, output_dir: Path, version: str, timeout_s: float = 120.0) -> None:
    """Every node of the run can import this raypref and writes where the others read.

    Raises:
        ConfigError: naming the node and what is missing there.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    locations = ray.util.placement_group_table(group)["bundles_to_node_id"].values()
    for node_id in sorted(set(locations)):
        strategy = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
        probe = ray.remote(_make_probe()).options(num_cpus=0, scheduling_strategy=strategy)
        name = f".probe-{node_id}"
        found = ray.get(probe.remote(str(output_dir / name), version), timeout=timeout_s)
        if found:
            raise ConfigError(f"node {node_id}: {found}")
        if not _appears(output_dir / name):
            raise ConfigError(
                f"output_dir: {output_dir} on node {node_id} is not the directory that the driver sees; give a path that all nodes share"
            )
        (output_dir / name).unlink()


def _make_probe() -> Callable[[str, str], str | None]:
    """What runs on each node: what is wrong there, or None. An inner function, since those travel by value: the node may lack raypref."""

    def probe(path: str, version: str) -> str | None:
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

    return probe


def _appears(path: Path, timeout_s: float = 10.0) -> bool:
    """Whether a file that another node made is seen here; a network file system may take seconds to show it."""
    deadline = time.monotonic() + timeout_s
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    return path.exists()


def start(
    cls: type,
    seat: Seat,
    group: PlacementGroup,
    log_dir: Path,
    *,
    env: Mapping[str, str],
    max_concurrency: int = 1,
    kwargs: Mapping[str, Any],
) -> Any:
    """Create the actor of a seat; its output goes to ``log_dir/<role>-<index>.log``.

    Returns:
        the actor's handle, at once; the constructor's errors surface with the first call (see ``ready``).
    """
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=seat.bundle, placement_group_capture_child_tasks=True)
    options: dict[str, Any] = {
        "num_cpus": seat.cpus,
        "num_gpus": seat.gpus,
        "scheduling_strategy": strategy,
        "runtime_env": {"env_vars": dict(env)},
        "max_concurrency": max_concurrency,
    }
    log_file = log_dir / f"{seat.name}.log"
    return ray.remote(_seated(cls, seat.name)).options(**options).remote(log_file=str(log_file), **kwargs)


def _seated(cls: type, name: str) -> type:
    """The class as it runs in an actor: logs to its own file, and shows its seat in the dashboard."""

    class Seated(cls):
        def __init__(self, *, log_file: str, **kwargs: Any) -> None:
            log_to_file(Path(log_file), name)
            self._refusal: RayprefError | None = None
            try:
                super().__init__(**kwargs)
            except RayprefError as error:  # Ray would report the death of the actor, and lose what it died of
                self._refusal = error

        def __repr__(self) -> str:
            return name

        def alive(self) -> str:
            """Returns once the constructor has; raises what it refused."""
            if self._refusal is not None:
                raise self._refusal
            return name

        def gpu_ids(self) -> list[str]:
            return [str(gpu) for gpu in ray.get_gpu_ids()]

    Seated.__name__ = Seated.__qualname__ = cls.__name__
    return Seated


def log_to_file(path: Path, name: str) -> None:
    """Send this process' standard output and error, those of C++ code too, to a file; log lines carry the seat's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s", force=True)


def ready(handles: Mapping[str, Any], timeout_s: float) -> None:
    """Wait until every actor's constructor has returned.

    Raises:
        Exception: the first constructor's error, or a time-out that names who is not ready.
    """
    waiting = {handle.alive.remote(): name for name, handle in handles.items()}
    deadline = time.monotonic() + timeout_s
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise TimeoutError(f"not ready after {timeout_s:g} s: {', '.join(sorted(waiting.values()))}; their logs say why")
        try:
            ray.get(done[0])
        except RayTaskError as error:
            raise error.cause from error
        del waiting[done[0]]


def gpus_of(handles: Sequence[Any], timeout_s: float) -> list[str]:
    """The GPUs that Ray gave to actors, for the guests that share them."""
    ids: list[list[str]] = ray.get([handle.gpu_ids.remote() for handle in handles], timeout=timeout_s)
    return [gpu for own in ids for gpu in own]


def stop(handles: Sequence[Any], group: PlacementGroup) -> None:
    """End the actors and return their bundles."""
    for handle in handles:
        ray.kill(handle)
    remove_placement_group(group)
