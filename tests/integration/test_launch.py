"""Bundles of several runs in one cluster."""

from __future__ import annotations

import pytest

from actors.cluster.launch import stop
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
