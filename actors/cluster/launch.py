"""From reserved bundles to running actors."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.cluster import network
from actors.cluster.call_results import result
from actors.cluster.calls import first_cause
from actors.cluster.store import LOOPBACK
from raypref.errors import ActorSilent, RayprefError
from raypref.plan.placement import ActorPlacement

logger = logging.getLogger(__name__)


def start(
    make: partial[Any],
    placement: ActorPlacement,
    group: PlacementGroup,
    log_dir: Path,
    *,
    env: Mapping[str, str],
    max_concurrency: int = 1,
    several_nodes: bool = False,
) -> Any:
    """Create one actor; its output goes to ``log_dir/<role>-<index>.log``.

    Args:
        make: the actor's class with its arguments.
        placement: where it runs.
        group: the run's bundles.
        log_dir: made if need be.
        env: environment variables of its process.
        max_concurrency: calls that it takes at a time.
        several_nodes: whether the run has actors on more than one node.

    Returns:
        The actor's handle, at once; the constructor's errors surface with the first call (see ``ready``).
    """
    strategy = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=placement.bundle, placement_group_capture_child_tasks=True
    )
    options: dict[str, Any] = {
        "num_cpus": placement.cpus,
        "num_gpus": placement.gpus,
        "scheduling_strategy": strategy,
        "runtime_env": {"env_vars": dict(env)},
        "max_concurrency": max_concurrency,
    }
    log_file = str(log_dir / f"{placement.name}.log")
    actor = ray.remote(_actor_class(make.func, placement.name)).options(**options)
    return actor.remote(*make.args, log_file=log_file, network_settings=network.settings(), several_nodes=several_nodes, **make.keywords)


def _actor_class(cls: Any, name: str) -> type:
    """The class as it runs in an actor: it logs to a file, has the driver's network settings, and the dashboard shows it by ``name``."""

    class Actor(cls):
        def __init__(
            self, *args: Any, log_file: str, network_settings: Mapping[str, str], several_nodes: bool = False, **kwargs: Any
        ) -> None:
            log_to_file(Path(log_file), name)
            network.adopt(network_settings)
            network.name_gloo_interface(ray.util.get_node_ip_address() if several_nodes else LOOPBACK)
            self._refusal: RayprefError | None = None
            gc.disable()  # imports make a great many objects that stay; searching them for garbage takes a fifth of the time
            try:
                super().__init__(*args, **kwargs)
            except RayprefError as error:  # Ray would report the death of the actor, and lose what it died of
                self._refusal = error
            finally:
                gc.enable()

        def __repr__(self) -> str:
            return name

        def alive(self) -> str:
            """Returns once the constructor has; raises what the constructor raised."""
            if self._refusal is not None:
                raise self._refusal
            return name

        def gpu_ids(self) -> list[str]:
            return [str(gpu) for gpu in ray.get_gpu_ids()]

    Actor.__name__ = Actor.__qualname__ = cls.__name__
    return Actor


def log_to_file(path: Path, name: str) -> None:
    """Send this process' standard output and error, those of C++ code too, to a file; log lines carry the actor's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s", force=True)


async def ready(handles: Mapping[str, Any], timeout_s: float, each: Callable[[str], None] | None = None) -> None:
    """Wait until every actor's constructor has returned.

    Args:
        handles: name -> actor.
        timeout_s: longest wait for all of them.
        each: called with the name of each one that is ready.

    Raises:
        Exception: the first constructor's error.
        ActorFailed: names the actor that died, or the actors that are not ready.
    """
    names = {asyncio.ensure_future(result(handle.alive.remote(), f"{name}: its start")): name for name, handle in handles.items()}
    waiting, deadline = set(names), time.monotonic() + timeout_s
    try:
        while waiting and (left := deadline - time.monotonic()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
                if each is not None:
                    each(names[task])
    finally:
        for task in names:
            task.cancel()
    if waiting:
        late = sorted(names[task] for task in waiting)
        raise ActorSilent(f"not ready after {timeout_s:g} s: {', '.join(late)}", late)


async def gpus_of(handles: Sequence[Any], timeout_s: float) -> list[str]:
    """The GPUs that Ray gave to actors."""
    ids = await first_cause([handle.gpu_ids.remote() for handle in handles], ["a learner rank: its GPUs"] * len(handles), timeout_s)
    return [gpu for gpus in ids for gpu in gpus]


def kill(handle: Any) -> None:
    """End one actor at once; its bundle stays reserved."""
    ray.kill(handle)


def stop(handles: Sequence[Any], group: PlacementGroup) -> None:
    """End the actors and return their bundles."""
    for handle in handles:
        kill(handle)
    remove_placement_group(group)
