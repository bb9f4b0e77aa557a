"""Bundles of several runs in one cluster."""

from __future__ import annotations

import time

import pytest
import ray

from actors.cluster.launch import stop
from actors.cluster.memory_peaks import MemoryPeaks
from actors.cluster.reservation import reserve
from raypref.plan.placement import Need, plan_placement
from raypref.sections import PlacementConfig

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]


def test_two_runs_of_one_namespace_at_the_same_time() -> None:
    """Two runs of the same name join the same namespace; each needs one GPU of the four."""
    plan = plan_placement(PlacementConfig(device="cpu"), Need(rollout=False, reference=False, oracle=False))
    first, _ = reserve(plan, timeout_s=30)
    second, _ = reserve(plan, timeout_s=30)
    assert first.id != second.id
    for group in (first, second):
        stop([], group)


class Peaked:
    """A plain actor, as those of a run."""


def test_actors_say_how_much_memory_they_have_held() -> None:
    """By the method that Ray gives every actor; an actor that was killed is left out."""
    make = ray.remote(num_cpus=0)(Peaked)
    handles = {f"oracle-{k}": make.remote() for k in range(2)}
    peaks = MemoryPeaks(handles)
    ray.kill(handles["oracle-1"])
    found: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        found = peaks.take_metrics()
        time.sleep(0.1)
    assert 0.01 < found["memory_peak/host/oracle"] < 16
    ray.kill(handles["oracle-0"])
