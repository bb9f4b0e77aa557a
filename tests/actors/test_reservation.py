"""Bundles of a cluster that has lost nodes, with stand-ins for what Ray tells of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from actors.cluster import reservation
from raypref.errors import ActorFailed, PlacementError
from raypref.plan.capacity import Capacity
from raypref.plan.placement import Need, Plan, plan_placement
from raypref.sections import PlacementConfig

GROUP: Any = None
"""The bundles, which the stand-ins do not look at."""


class Placed:
    def wait(self, seconds: float) -> bool:
        return True


def plan_of(ranks: int) -> Plan:
    return plan_placement(PlacementConfig.parse({"learner": {"ranks": ranks}}), Need(rollout=False, reference=False, oracle=False))


def node(name: str) -> Capacity:
    both = {"GPU": 2.0, "CPU": 2.0}
    return Capacity(name, both, both)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[list[Capacity]]:
    """The nodes at each look; the last entry stays."""
    looks: list[list[Capacity]] = []
    monkeypatch.setattr(reservation, "_LOOK_S", 0.01)
    monkeypatch.setattr(reservation, "capacities", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    monkeypatch.setattr(reservation, "autoscaled", lambda: False)
    monkeypatch.setattr(reservation, "placement_group", lambda bundles, **_: Placed())
    monkeypatch.setattr(reservation, "remove_placement_group", lambda group: None)
    return looks


def test_a_run_that_starts_again_waits_for_the_nodes_that_are_gone(nodes: list[list[Capacity]], caplog: pytest.LogCaptureFixture) -> None:
    nodes += [[node("a")], [node("a")], [node("a"), node("b")]]
    with caplog.at_level(logging.WARNING):
        _, plan = reservation.reserve(plan_of(4), 60.0, again=True)
    assert sum(bundle["GPU"] for bundle in plan.bundles) == 4
    assert [record.getMessage().splitlines()[0] for record in caplog.records] == [
        "placement: waiting up to 60 s for the nodes that the cluster has lost"
    ]


def test_nodes_that_do_not_come_back_end_it_and_a_first_start_does_not_wait(nodes: list[list[Capacity]]) -> None:
    nodes.append([node("a")])
    with pytest.raises(PlacementError, match=r"no node has come back within placement\.timeout_s = 0\.05 s\nneeded: learner 4 x"):
        reservation.reserve(plan_of(4), 0.05, again=True)
    with pytest.raises(PlacementError, match="can never hold the run"):
        reservation.reserve(plan_of(4), 600.0)


@pytest.mark.parametrize("returns", [True, False])
def test_a_replacement_waits_for_its_bundle(returns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bundles in their places the work has its own time limits; without them ``placement.timeout_s``."""
    states = ["CREATED", "RESCHEDULING", "RESCHEDULING", *(["CREATED"] * 1000 if returns else ["RESCHEDULING"] * 1000)]
    monkeypatch.setattr(reservation, "_LOOK_S", 0.02)
    monkeypatch.setattr(reservation, "placement_group_table", lambda group: {"state": states.pop(0)})

    async def ready() -> str:
        await asyncio.sleep(0.5)
        return "ready"

    work = reservation.while_placed(GROUP, "oracle-0", 0.2, ready())
    if returns:
        assert asyncio.run(work) == "ready"
        return
    with pytest.raises(ActorFailed, match=r"room for oracle-0 .* placement\.timeout_s = 0\.2 s are over") as caught:
        asyncio.run(work)
    assert type(caught.value) is ActorFailed, "not a death: another replacement would not find a place either"


def test_a_gcs_that_hangs_does_not_hold_the_event_loop(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Supervision goes on, the replacement's own end is noticed, and the loop ends although the question is answered too late."""
    over = threading.Event()
    monkeypatch.setattr(reservation, "_LOOK_S", 0.02)
    monkeypatch.setattr(reservation, "placement_group_table", lambda group: over.wait())

    async def ready() -> int:
        for _ in range(20):
            await asyncio.sleep(0.01)  # another task of the loop, which needs it
        return sum(thread.name == "teardown the bundle of oracle-0" for thread in threading.enumerate())

    try:
        assert asyncio.run(reservation.while_placed(GROUP, "oracle-0", 0.05, ready())) == 1, "one question, not one for each look"
    finally:
        over.set()
    for thread in threading.enumerate():
        if thread.name.startswith("teardown"):
            thread.join()
    assert caplog.text == ""
