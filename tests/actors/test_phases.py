"""The order in which the learner and its colocated engines take and give back memory, with actors that only take notes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.learner.group import LearnerGroup
from actors.learner.phases import FORGET, KEEP, Level, Phases, takes_turns
from raypref.config import RunConfig
from raypref.errors import SyncError
from raypref.plan.placement import Need, plan_placement

MEMORY = {"sleep", "wake_up", "offload", "reload"}


class Scribe:
    """An actor's handle. ``log`` gets "name.method(arguments)"; a method in ``fails`` raises."""

    def __init__(self, name: str, log: list[str], fails: frozenset[str] = frozenset()) -> None:
        self._name, self._log, self._fails = name, log, fails

    def __getattr__(self, method: str) -> Any:
        return Remote(self._name, method, self._log, method in self._fails)


class Remote:
    def __init__(self, name: str, method: str, log: list[str], fails: bool) -> None:
        self._name, self._method, self._log, self._fails = name, method, log, fails

    async def remote(self, *arguments: Any) -> dict[str, int]:
        shown = ", ".join(map(str, arguments[:3])) if self._method in MEMORY | {"sync"} else ""
        self._log.append(f"{self._name}.{self._method}({shown})")
        if self._fails:
            raise SyncError(f"{self._name} cannot {self._method}")
        return {}


def log_of(level: Level | None, *calls: str) -> list[str]:
    """What two ranks and an engine are told while the driver calls ``LearnerGroup``; without a level nobody takes turns."""
    log: list[str] = []
    ranks = [Scribe(f"rank{k}", log) for k in range(2)]
    phases = None if level is None else Phases(ranks, [("engine", Scribe("engine", log))], level, 5.0)
    group = LearnerGroup(ranks, 5.0, phases)
    arguments: dict[str, tuple[Any, ...]] = {"step": ([],), "sync": (7,), "probe": ([],)}

    async def drive() -> None:
        for call in calls:
            await getattr(group, call)(*arguments.get(call, (Path("d"),) if call in ("load", "save", "export") else ()))

    asyncio.run(drive())
    return log


def test_an_iteration() -> None:
    """Start: the engine sleeps before the policy is loaded. Sync: the optimiser goes, weights wake, the transfer, the cache wakes. The
    check and a checkpoint move nothing. Steps: the engine sleeps, the optimiser comes, once."""
    assert log_of(FORGET, "start", "sync", "probe", "save", "step", "step", "sync") == [
        "engine.sleep(2)",
        "rank0.listen()",
        "rank0.start()",
        "rank1.start()",
        *(sync := [
            "rank0.offload()",
            "rank1.offload()",
            "engine.wake_up(['weights'])",
            "rank0.sync(7, all, True)",
            "rank1.sync(7, all, True)",
            "engine.wake_up(['kv_cache'])",
        ]),
        "rank0.probe()",
        "rank1.probe()",
        "rank0.save()",
        "rank1.save()",
        "engine.sleep(2)",
        "rank0.reload()",
        "rank1.reload()",
        *["rank0.step()", "rank1.step()"] * 2,
        *sync,
    ]  # fmt: skip


def test_an_adapters_engines_keep_their_weights() -> None:
    """They sleep at level 1, and syncs may send a part; before the first one there is nothing worth keeping."""
    log = log_of(KEEP, "start", "sync", "step", "sync")
    assert [entry for entry in log if "sleep" in entry] == ["engine.sleep(2)", "engine.sleep(1)"]
    assert [entry for entry in log if "rank0.sync" in entry] == ["rank0.sync(7, all, False)"] * 2


def test_a_sync_between_syncs_moves_nothing() -> None:
    assert log_of(FORGET, "start", "sync", "sync")[-2:] == ["rank0.sync(7, all, False)", "rank1.sync(7, all, False)"]


def test_a_checkpoint_is_loaded_with_the_optimiser_at_home() -> None:
    log = log_of(FORGET, "start", "sync", "load")
    assert log[-5:] == ["engine.sleep(2)", "rank0.reload()", "rank1.reload()", "rank0.load()", "rank1.load()"]


def test_nobody_takes_turns_unless_asked() -> None:
    log = log_of(None, "start", "sync", "step", "sync", "load")
    assert not [entry for entry in log if any(method in entry for method in MEMORY)]
    assert "rank0.sync(7, all, False)" in log


def test_an_engine_that_cannot_sleep_keeps_its_memory_and_the_learner_waits() -> None:
    """The optimiser's state must not come to a GPU that is still taken."""
    log: list[str] = []
    phases = Phases([Scribe("rank0", log)], [("engine", Scribe("engine", log, frozenset({"sleep"})))], FORGET, 5.0)
    with pytest.raises(SyncError, match="engine cannot sleep"):
        asyncio.run(phases.training())
    assert log == ["engine.sleep(2)"]


def test_an_engine_is_replaced_while_the_learner_leaves_it_room_and_sleeps_with_the_others() -> None:
    """Lost after a sync: the learner's steps wait until the new one has loaded, which then sleeps. Lost during the steps: it stays lost."""
    log: list[str] = []
    phases = Phases([Scribe("rank0", log)], [(name, Scribe(name, log)) for name in ("engine-0", "engine-1")], FORGET, 5.0)

    async def drive() -> None:
        await phases.clear()
        assert not phases.leave_room
        async with phases.syncing():
            pass
        assert phases.leave_room
        phases.lost("engine-1")
        training = asyncio.ensure_future(phases.training())
        await asyncio.sleep(0.05)
        assert "rank0.reload()" not in log
        phases.replaced("engine-1", Scribe("another", log))
        await training
        assert log[-3:] == ["engine-0.sleep(2)", "another.sleep(2)", "rank0.reload()"]
        assert not phases.leave_room

    asyncio.run(drive())


def test_without_turns_there_is_always_room() -> None:
    phases = Phases()
    asyncio.run(phases.training())
    phases.lost("engine-0")
    assert phases.leave_room


def test_turns_are_taken_where_asked_for_and_never_without_a_learner_or_without_engines() -> None:
    config = RunConfig.parse(
        {
            "policy": {"path": "m"},
            "loss": {"type": "sppo"},
            "placement": {"layout": "colocated", "sleep": True},
            "loop": {"overlap": False},
        }
    )
    both = Need(rollout=True, reference=False, oracle=False)
    awake = config.model_copy(update={"placement": config.placement.model_copy(update={"sleep": False})})
    assert takes_turns(config, plan_placement(config.placement, both))
    assert not takes_turns(awake, plan_placement(awake.placement, both))
    for need in (Need(rollout=True, reference=False, oracle=False, learner=False), Need(rollout=False, reference=False, oracle=False)):
        assert not takes_turns(config, plan_placement(config.placement, need))
