"""Engines that die or hang, and the weights of their replacements, with stand-ins for Ray's handles."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from actors.learner.group import LearnerGroup
from actors.rollout.actor import Finished
from actors.rollout.group import RolloutGroup
from actors.supervision import supervisor as supervision
from actors.supervision.copies import Copies, WeightsGone
from actors.weights.destination import Destination
from raypref.errors import ActorDied, ActorFailed, ActorSilent, SyncError
from raypref.sections import SyncConfig
from raypref.types import Prompt, SampleRequest
from tests.actors.test_supervision import Actor, Cluster, Method, run


class Engine(Actor):
    """Finishes one request every 10 ms; its answer is its name and the prompt. A prompt of the name ``sleep`` is never answered."""

    def __init__(self, name: str, number: int = 0) -> None:
        super().__init__(name, number)
        self.open: dict[str, SampleRequest] = {}
        self.version = 0 if number == 0 else -1
        """A replacement holds no weights."""
        self.stays_silent = False
        self.dies_before_rollout = False
        self.submit = Method(self._submit)
        self.shutdown = Method(lambda: self._after(0.0, None))
        self.stream = self

    def options(self, **_: Any) -> Engine:
        return self

    def remote(self) -> AsyncIterator[Any]:
        return self._items()

    async def _submit(self, requests: Sequence[tuple[str, SampleRequest]]) -> dict[str, Exception]:
        async def accept() -> dict[str, Exception]:
            self.open |= dict(requests)
            held = {key: request.policy_version == self.version for key, request in requests}
            return {key: SyncError(f"{self.name} holds version {self.version}") for key, right in held.items() if not right}

        return await self._until_dead(accept())  # type: ignore[no-any-return]

    async def _weight_checksums(self) -> dict[str, Any]:
        return await self._until_dead(self._after(0.0, {"": {"weight": 1}}))  # type: ignore[no-any-return]

    async def _items(self) -> AsyncIterator[Any]:
        """What Ray gives: references; an error comes as the last of them."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._until_dead(self._after(0.01, None))
                ready = [key for key, request in self.open.items() if request.prompt.id != "sleep"]
                if not ready or self.stays_silent:
                    continue
                request = self.open.pop(ready[0])
                self.calls.append(request.prompt.id)
                for item in (Finished((ready[0],), 2), (self.name, request.prompt.id), None):
                    reference = loop.create_future()
                    reference.set_result(item)
                    yield reference
                    if self.dies_before_rollout:
                        self.kill()
                        raise ActorDiedError
        except ActorDiedError as error:
            reference = loop.create_future()
            reference.set_exception(error)
            yield reference


class Engines(Cluster):
    def __init__(self, *names: str, **limits: Any) -> None:
        super().__init__(*names, **limits)
        self.actors = {name: Engine(name) for name in names}
        self.all = list(self.actors.values())
        self.copies = Copies([Destination(name, actor) for name, actor in self.actors.items()])
        self.group = RolloutGroup(list(self.actors.items()), 5.0, self.supervisor, self.copies)
        self.group.members.watch()
        self.may_restart = asyncio.Event()
        self.may_restart.set()

    async def restart(self, name: str) -> Actor:
        await self.may_restart.wait()
        self.actors[name] = Engine(name, sum(actor.name.startswith(name) for actor in self.all))
        self.all.append(self.actors[name])
        return self.actors[name]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PING_S", 0.05)
    monkeypatch.setattr("actors.supervision.budget.FIRST_WAIT_S", 0.01)


def ask(id: str, version: int = 0) -> SampleRequest:
    return SampleRequest(Prompt(0, id, "", np.zeros(1, dtype=np.int32)), 2, 0, 1.0, 1.0, 8, version)


async def answers(engines: Engines, *ids: str, version: int = 0) -> list[tuple[str, str]]:
    references = await asyncio.gather(*(engines.group.sample(ask(id, version)) for id in ids))
    return [await reference for reference in references]


def test_the_requests_of_a_dead_engine_go_to_the_other_one() -> None:
    """Every request is answered once; the replacement answers nothing until the next sync, and then its share."""

    async def work() -> None:
        engines = Engines("rollout-0", "rollout-1")
        waiting = asyncio.ensure_future(answers(engines, *map(str, range(10))))
        await asyncio.sleep(0.025)
        engines.actors["rollout-0"].kill()
        found = await waiting
        assert [id for _, id in found] == [str(k) for k in range(10)]
        asked = [id for engine in engines.all for id in engine.calls]
        assert sorted(asked) == sorted(str(k) for k in range(10))
        while not engines.copies.is_behind("rollout-0"):
            await asyncio.sleep(0.01)
        assert {name for name, _ in await answers(engines, *"abcd")} == {"rollout-1.0"}
        for engine in engines.actors.values():
            engine.version = 1  # type: ignore[attr-defined]
        engines.copies.hold([copy.name for copy in await engines.copies.present()])
        await engines.group.members.all_up()
        assert {name for name, _ in await answers(engines, *"abcd", version=1)} == {"rollout-0.1", "rollout-1.0"}
        await engines.group.close()

    run(work)


def test_an_announced_rollout_that_never_came_is_asked_again() -> None:
    """The engine dies between the header and the rollout: the error in the rollout's place is not given to the caller."""

    async def work() -> None:
        engines = Engines("rollout-0", "rollout-1")
        engines.actors["rollout-0"].dies_before_rollout = True  # type: ignore[attr-defined]
        assert sorted(await answers(engines, "a", "b")) == [("rollout-1.0", "a"), ("rollout-1.0", "b")]
        await engines.group.close()

    run(work)


def test_an_engine_that_finishes_nothing_for_much_longer_than_usual_is_replaced() -> None:
    """Requests take 10 ms, the floor is 0.2 s, the first ones had 5 s."""

    async def work() -> None:
        engines = Engines("rollout-0", "rollout-1", floor_s=0.2)
        await answers(engines, *map(str, range(8)))
        engines.actors["rollout-0"].stays_silent = True  # type: ignore[attr-defined]
        began = time.monotonic()
        assert {name for name, _ in await answers(engines, *"abcd")} == {"rollout-1.0"}
        assert 0.15 < time.monotonic() - began < 4.0
        assert re.match(r"rollout-0: no group finished within 0\.\d s; 2 requests are unanswered", engines.replaced[0][1])
        await engines.group.close()

    run(work)


def test_the_last_engine_gets_the_weights_at_once_and_answers_what_waits() -> None:
    async def work() -> None:
        engines = Engines("rollout-0")

        async def bring(name: str) -> None:
            engines.actors[name].version = 0  # type: ignore[attr-defined]
            engines.copies.hold([name])

        engines.copies.bring = bring
        waiting = asyncio.ensure_future(answers(engines, *"abcd"))
        await asyncio.sleep(0.025)
        engines.actors["rollout-0"].kill()
        assert [id for _, id in await waiting] == list("abcd")
        assert [name for name, _ in engines.replaced] == ["rollout-0"]
        await engines.group.close()

    run(work)


def test_a_request_fails_when_no_engine_can_be_brought_back() -> None:
    """The learner has trained since the sync: its weights are not to be had, and the run must go back to a checkpoint."""

    async def work() -> None:
        engines = Engines("rollout-0")

        async def bring(name: str) -> None:
            raise WeightsGone(f"{name} was replaced, but its weights are gone", [name])

        engines.copies.bring = bring
        engines.actors["rollout-0"].kill()
        with pytest.raises(ActorFailed, match="its weights are gone"):
            await answers(engines, "a")
        with pytest.raises(ActorFailed, match="its weights are gone"):
            await answers(engines, "b")
        await engines.group.close()

    run(work)


def test_an_engine_that_nobody_asks_waits_for_the_next_sync() -> None:
    """All of the iteration is sampled, and the learner has trained; pi_t is on no disk. The next sync brings the weights that are asked."""

    async def work() -> None:
        engines = Engines("rollout-0")
        _, learner = await learner_of(engines, engines.copies)
        await learner.sync(0)
        assert await answers(engines, "a") == [("rollout-0.0", "a")]
        await learner.step([])
        engines.actors["rollout-0"].kill()
        while not engines.copies.is_behind("rollout-0"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        await learner.sync(1)
        assert await answers(engines, "b", version=1) == [("rollout-0.1", "b")]
        await engines.group.close()

    run(work)


def test_an_engine_that_dies_while_all_are_probed_is_left_out() -> None:
    async def work() -> None:
        engines = Engines("rollout-0", "rollout-1")
        probing = asyncio.ensure_future(engines.group.probe([ask("a"), ask("b")]))
        await asyncio.sleep(0.005)
        engines.actors["rollout-1"].kill()
        assert await probing == {"rollout-0": [("rollout-0.0", "a"), ("rollout-0.0", "b")]}
        await engines.group.close()

    run(work)


# --- the learner's side -----------------------------------------------------------------------------------------------------------------


class Rank:
    """Records what it is asked. A sync raises while one of the connected copies is dead, as ``RayControl`` does."""

    def __init__(self) -> None:
        self.kills_in_sync: Actor | None = None
        self.log: list[Any] = []
        self.connected: list[Destination] = []
        for method in ("connect", "sync", "step"):
            setattr(self, method, Method(getattr(self, f"_{method}")))

    async def _connect(self, destinations: list[Destination], sync: SyncConfig, stored: str | None = None) -> None:
        self.connected = destinations
        self.log.append(f"connect {' '.join(copy.handle.name for copy in destinations)}{f' with {stored}' if stored else ''}")

    async def _sync(self, version: int, audience: str, complete: bool, limit_s: float) -> dict[str, int]:
        if self.kills_in_sync is not None:
            self.kills_in_sync.kill()
            self.kills_in_sync = None
        for copy in self.connected:
            if copy.handle.dead.is_set():
                raise SyncError(f"sync: {copy.name} failed")
            copy.handle.version = version
        self.log.append(f"sync {version} {audience}")
        return {"weight": 1}

    async def _step(self, *_: Any) -> dict[str, float]:
        self.log.append("step")
        return {"loss": 0.0}


async def learner_of(
    cluster: Cluster, copies: Copies, stored: Callable[[int], str | None] = lambda version: None
) -> tuple[Rank, LearnerGroup]:
    rank = Rank()
    learner = LearnerGroup([rank], 5.0, None, cluster.supervisor, copies, stored)
    await learner.connect(await copies.present(), SyncConfig())
    copies.bring = learner.bring
    return rank, learner


@pytest.mark.parametrize("before", [False, True])
def test_a_copy_that_dies_in_a_sync_or_before_is_left_out_and_takes_part_in_the_next_one(before: bool) -> None:
    async def work() -> None:
        engines = Engines("rollout-0", "rollout-1")
        rank, learner = await learner_of(engines, engines.copies)
        await learner.sync(0)
        engines.may_restart.clear()
        if before:
            engines.actors["rollout-1"].kill()
        else:
            rank.kills_in_sync = engines.actors["rollout-1"]
        assert await learner.sync(1) == {"weight": 1}
        await learner.step([])
        engines.may_restart.set()
        while not engines.copies.is_behind("rollout-1"):
            await asyncio.sleep(0.01)
        await learner.sync(2)
        await learner.sync(3)
        await engines.group.members.all_up()
        assert rank.log == [
            "connect rollout-0.0 rollout-1.0",
            "sync 0 all",
            "connect rollout-0.0",
            "sync 1 all",
            "step",
            "connect rollout-0.0 rollout-1.1",
            "sync 2 all",
            "sync 3 all",
        ]
        await engines.group.close()

    run(work)


def test_a_sync_that_fails_with_living_copies_is_the_error() -> None:
    async def work() -> None:
        engines = Engines("rollout-0")
        rank, learner = await learner_of(engines, engines.copies)

        async def fails(*_: Any) -> None:
            raise SyncError("sync: rollout-0 failed; shm, transfer 1: ValueError: half of it")

        rank.sync = Method(fails)  # type: ignore[attr-defined]
        with pytest.raises(SyncError, match="half of it"):
            await learner.sync(0)
        assert engines.replaced == []
        await engines.group.close()

    run(work)


@pytest.mark.parametrize("trained", [False, True])
def test_the_only_reference_gets_pi_t_again_as_long_as_the_learner_has_it(trained: bool) -> None:
    """Weights that went to the engines alone in between are not pi_t, though the learner has them; none after a step."""

    async def work() -> None:
        cluster = Cluster("reference-0")
        copies = Copies([Destination("reference-0", cluster.actors["reference-0"])])
        rank, learner = await learner_of(cluster, copies)
        await learner.sync(3)
        if trained:
            await learner.step([])
        copies.lose("reference-0")
        held = copies.replaced("reference-0", await cluster.restart("reference-0"))
        if trained:
            with pytest.raises(ActorFailed, match="reference-0 was replaced, but its weights are gone: the learner has trained since"):
                await learner.bring("reference-0")
            return
        await learner.bring("reference-0")
        assert held.done()
        assert rank.log[-2:] == ["connect reference-0.1", "sync 3 all"]
        await learner.sync(4)
        assert rank.log[-2:] == ["connect reference-0.1", "sync 4 all"], "the senders connect with all copies again"

    run(work)


def test_an_engine_gets_pi_t_from_the_disk_when_the_learner_has_trained_on() -> None:
    """What is on the disk must be what the last sync sent, also where the sum of what is sent differs from that of a later policy."""

    async def work() -> None:
        engines = Engines("rollout-0")
        rank, learner = await learner_of(engines, engines.copies, {2: "policies/iteration_0002", 3: "policies/iteration_0003"}.get)
        for version in (2, 3):
            await learner.sync(version)
            await learner.step([])
        engines.actors["rollout-0"].kill()
        waiting = asyncio.ensure_future(answers(engines, "a", version=3))
        assert await waiting == [("rollout-0.1", "a")]
        assert rank.log[-2:] == ["connect rollout-0.1 with policies/iteration_0003", "sync 3 all"]
        await learner.sync(4)
        assert rank.log[-2:] == ["connect rollout-0.1", "sync 4 all"], "the learner's own weights again"
        await engines.group.close()

    run(work)


def test_a_policy_on_disk_that_is_not_what_was_sent_brings_no_engine_back() -> None:
    async def work() -> None:
        cluster = Cluster("reference-0")
        copies = Copies([Destination("reference-0", cluster.actors["reference-0"])])
        rank, learner = await learner_of(cluster, copies, lambda version: "policies/iteration_0003")
        await learner.sync(3)
        await learner.step([])
        copies.lose("reference-0")
        held = copies.replaced("reference-0", await cluster.restart("reference-0"))

        async def other(*_: Any) -> dict[str, int]:
            return {"weight": 2}

        rank.sync = Method(other)  # type: ignore[attr-defined]
        with pytest.raises(
            ActorFailed, match="reference-0 was replaced, but the weights of version 3 are not those that the last sync sent"
        ):
            await learner.bring("reference-0")
        assert not held.done()

    run(work)


def test_a_replacement_that_received_other_weights_is_refused() -> None:
    async def work() -> None:
        cluster = Cluster("reference-0")
        copies = Copies([Destination("reference-0", cluster.actors["reference-0"])])
        _, learner = await learner_of(cluster, copies)
        await learner.sync(3)
        copies.lose("reference-0")
        other: Any = await cluster.restart("reference-0")
        other.weight_checksums = Method(lambda: other._after(0.0, {"weight": 2}))
        copies.replaced("reference-0", other)
        with pytest.raises(SyncError, match="1 of 1 tensors changed on their way to reference-0; the first is weight"):
            await learner.bring("reference-0")

    run(work)


def test_a_step_that_takes_much_longer_than_usual_names_the_ranks() -> None:
    async def work() -> None:
        cluster = Cluster("learner-0", floor_s=0.1)
        rank, learner = await learner_of(cluster, Copies())
        for _ in range(3):
            await learner.step([])
        rank.step = Method(lambda *_: asyncio.sleep(60))  # type: ignore[attr-defined]
        with pytest.raises(ActorSilent, match=r"no answer within 0\.1 s from learner-0: step"):
            await learner.step([])

    run(work)


def test_without_a_supervisor_nothing_is_replaced() -> None:
    async def work() -> None:
        engine = Engine("rollout-0")
        group = RolloutGroup([("rollout-0", engine)], 5.0)
        first = asyncio.ensure_future(group.sample(ask("sleep")))
        await asyncio.sleep(0.02)
        engine.kill()
        with pytest.raises(ActorDied, match="rollout-0 died"):
            await first
        with pytest.raises(ActorDied, match="rollout-0 died"):
            await group.sample(ask("a"))
        await group.close()

    run(work)
