"""Supervision with stand-ins for Ray's handles: deaths, hangs, inputs that kill, budgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from actors.learner.group import LearnerGroup
from actors.oracle.group import OracleGroup
from actors.reference.group import ReferenceGroup
from actors.supervision import supervisor as supervision
from actors.supervision.budget import Budget
from actors.supervision.call_times import CallTimes
from actors.supervision.copies import Copies
from actors.supervision.supervisor import Supervisor
from actors.weights.destination import Destination
from raypref.errors import ActorDied, ActorFailed, ActorSilent, InputSetAside
from raypref.settings.supervision import SupervisionConfig
from raypref.types import Verdict


class Method:
    """What Ray makes of an actor's method."""

    def __init__(self, function: Callable[..., Awaitable[Any]]) -> None:
        self._function = function

    def options(self, **_: Any) -> Method:
        return self

    def remote(self, *arguments: Any) -> Any:
        return asyncio.ensure_future(self._function(*arguments))


class Actor:
    """Answers a call with its own name and the argument. ``poison`` kills it, ``sleep`` is never answered, ``error`` is raised."""

    def __init__(self, name: str, number: int = 0) -> None:
        self.name = f"{name}.{number}"
        self.dead = asyncio.Event()
        self.calls: list[Any] = []
        self.working = 0
        self.beside: dict[Any, int] = {}
        """Argument -> calls that it worked on at the same time."""
        for method in ("alive", "compare", "seal", "refresh", "weight_checksums"):
            setattr(self, method, Method(getattr(self, f"_{method}")))

    def kill(self) -> None:
        self.dead.set()

    async def _alive(self) -> str:
        return await self._until_dead(self._after(0.0, self.name))

    async def _compare(self, argument: Any, other: Any) -> Any:
        self.calls.append(argument)
        self.working += 1
        self.beside[argument] = self.working
        try:
            if argument == "poison":
                self.kill()
            if argument == "error":
                raise ValueError("no verdict")
            return await self._until_dead(self._after(60.0 if argument == "sleep" else 0.02, (self.name, argument)))
        finally:
            self.working -= 1

    async def _seal(self, iteration: int) -> str:
        self.calls.append(f"seal {iteration}")
        return await self._until_dead(self._after(0.0, self.name))

    async def _refresh(self, directory: Any) -> None:
        self.calls.append(f"refresh {directory}")

    async def _weight_checksums(self) -> dict[str, int]:
        return await self._until_dead(self._after(0.0, {"weight": 1}))

    async def _after(self, seconds: float, value: Any) -> Any:
        await asyncio.sleep(seconds)
        return value

    async def _until_dead(self, work: Coroutine[Any, Any, Any]) -> Any:
        task, dead = asyncio.ensure_future(work), asyncio.ensure_future(self.dead.wait())
        try:
            await asyncio.wait([task, dead], return_when=asyncio.FIRST_COMPLETED)
            if self.dead.is_set():
                raise ActorDiedError
            return task.result()
        finally:
            task.cancel()
            dead.cancel()


class Cluster:
    """Starts stand-ins, and counts them."""

    def __init__(self, *names: str, restarts: int = 5, floor_s: float = 5.0, ceiling_s: float = 5.0) -> None:
        self.actors = {name: Actor(name) for name in names}
        self.all = list(self.actors.values())
        self.supervisor = Supervisor(CallTimes(ceiling_s, floor_s, 10.0), Budget(restarts, 3600.0), self, self._note)
        self.replaced: list[tuple[str, str]] = []

    def _note(self, name: str, reason: str) -> None:
        self.replaced.append((name, reason))

    def may_replace(self, name: str) -> bool:
        return True

    def kill(self, name: str) -> None:
        self.actors[name].kill()

    async def restart(self, name: str) -> Actor:
        self.actors[name] = Actor(name, sum(actor.name.startswith(name) for actor in self.all))
        self.all.append(self.actors[name])
        return self.actors[name]

    def oracle(self, **settings: Any) -> OracleGroup:
        group = OracleGroup(dict(self.actors), 5.0, supervisor=self.supervisor, **settings)
        group.members.watch()
        return group


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PING_S", 0.05)
    monkeypatch.setattr(supervision, "GRACE_S", 0.1)
    monkeypatch.setattr("actors.supervision.budget.FIRST_WAIT_S", 0.01)


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 20))


# --- limits and budgets ---------------------------------------------------------------------------------------------------------------


def test_a_call_may_take_a_multiple_of_the_median_within_the_floor_and_the_ceiling() -> None:
    """Median of 1, 2 and 300 s is 2 s: 20 s. Of 0.1 s: the floor, 5 s. Of 50 s: the ceiling, 100 s, which also limits the first calls."""
    times = CallTimes(100.0, 5.0, 10.0)
    for seconds in (1.0, 300.0):
        times.add("oracle: judge", seconds)
    assert times.limit("oracle: judge") == 100.0, "two calls say too little"
    times.add("oracle: judge", 2.0)
    assert times.limit("oracle: judge") == 20.0
    assert times.limit("learner: step") == 100.0, "another kind"
    for kind, seconds in (("quick", 0.1), ("slow", 50.0)):
        for _ in range(3):
            times.add(kind, seconds)
    assert (times.limit("quick"), times.limit("slow")) == (5.0, 100.0)


def test_first_calls_have_the_limit_of_their_role() -> None:
    """Also below the floor, which is for calls of known length; never above the ceiling."""
    config = SupervisionConfig.parse({"first_calls": {"oracle": 2, "rollout": 1000, "learner": 3}})
    times = CallTimes(100.0, 5.0, 10.0, config.first_calls.limits())
    assert [times.limit(kind) for kind in ("oracle: judge", "oracle: compare", "rollout: sample 8", "reference: score")] == [2, 2, 100, 100]
    assert [times.limit(f"learner: {call}") for call in ("step", "export", "save")] == [3, 100, 100], "a step says nothing of the disk"
    for _ in range(3):
        times.add("oracle: judge", 0.1)
    assert times.limit("oracle: judge") == 5.0
    assert CallTimes.fixed(7.0).limit("oracle: judge") == 7.0


def test_old_calls_are_forgotten() -> None:
    times = CallTimes(1000.0, 1.0, 10.0)
    for seconds in [50.0] * 100 + [1.0] * 31:
        times.add("learner: step", seconds)
    assert times.limit("learner: step") == 10.0


def test_a_budget_waits_longer_each_time_and_frees_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, then 1, 2, 4 s; the window of 100 s forgets."""
    monkeypatch.setattr("actors.supervision.budget.FIRST_WAIT_S", 1.0)
    now = 0.0
    budget = Budget(4, 100.0, lambda: now)
    assert [budget.take("oracle") for _ in range(5)] == [0.0, 1.0, 2.0, 4.0, None]
    assert budget.take("rollout") == 0.0, "each role has its own"
    now = 100.0
    assert budget.take("oracle") == 0.0
    budget.give_back("oracle", 1)
    assert budget.take("oracle") == 0.0


# --- replicas: oracle -------------------------------------------------------------------------------------------------------------------


def test_the_calls_of_a_dead_replica_are_made_again() -> None:
    """One of two dies with two calls in flight; all eight are answered, none twice, and the replacement gets work."""

    async def work() -> None:
        cluster = Cluster("oracle-0", "oracle-1")
        group, first = cluster.oracle(in_flight=2), cluster.actors["oracle-0"]
        calls = [asyncio.ensure_future(group.compare(k, None)) for k in range(8)]
        await asyncio.sleep(0.01)
        assert len(first.calls) == 2
        first.kill()
        answers: list[Any] = await asyncio.gather(*calls)
        assert [argument for _, argument in answers] == list(range(8))
        assert [name for name, _ in cluster.replaced] == ["oracle-0"]
        assert "oracle-0 died" in cluster.replaced[0][1]
        assert cluster.actors["oracle-0"] is not first
        later: list[Any] = await asyncio.gather(*(group.compare(k, None) for k in range(4)))
        assert {name for name, _ in later} == {"oracle-0.1", "oracle-1.0"}
        await group.close()

    run(work)


def test_an_idle_replica_that_dies_is_replaced() -> None:
    async def work() -> None:
        cluster = Cluster("oracle-0")
        group = cluster.oracle()
        await group.compare(1, None)
        cluster.actors["oracle-0"].kill()
        while not cluster.replaced:
            await asyncio.sleep(0.01)
        assert await group.compare(2, None) == ("oracle-0.1", 2)
        await group.close()

    run(work)


def test_a_replica_that_hangs_is_noticed_by_what_is_usual() -> None:
    """Calls take 20 ms, the floor is 0.3 s, and the first calls had 5 s."""

    async def work() -> None:
        cluster = Cluster("oracle-0", floor_s=0.3)
        group = cluster.oracle()
        await asyncio.gather(*(group.compare(k, None) for k in range(4)))
        began = time.monotonic()
        hanging = asyncio.ensure_future(group.compare("sleep", None))
        with pytest.raises(InputSetAside, match=r"no answer within 0\.\d s from oracle-0: compare"):
            await hanging
        assert 0.5 < time.monotonic() - began < 4.0
        assert await group.compare(9, None) == ("oracle-0.2", 9)
        await group.close()

    run(work)


def test_a_hang_among_the_first_calls_is_noticed_by_what_the_others_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them began when nothing was known, and had 60 s."""
    monkeypatch.setattr("actors.cluster.calls._LOOK_S", 0.05)

    async def work() -> None:
        cluster = Cluster("oracle-0", floor_s=0.3, ceiling_s=60.0)
        group = cluster.oracle()
        hanging = asyncio.ensure_future(group.compare("sleep", None))
        await asyncio.gather(*(group.compare(k, None) for k in range(3)))
        with pytest.raises(InputSetAside, match=r"no answer within 0\.\d s from oracle-0: compare"):
            await hanging
        await group.close()

    run(work)


class Reader:
    """Answers what is recorded at once, and works for 0.4 s on anything else."""

    def __init__(self) -> None:
        self.alive = Method(self._alive)
        self.judge = self.score_apart = self

    def options(self, **_: Any) -> Reader:
        return self

    def remote(self, argument: Any, *_: Any) -> Any:
        recorded = argument == "recorded"
        first = Verdict(0, 1, {}, recorded=recorded) if _ else not recorded
        return asyncio.ensure_future(asyncio.sleep(0.0 if recorded else 0.4, first)), argument

    async def _alive(self) -> str:
        return "here"


class Writer:
    """A learner's rank whose checkpoint is written after so many questions."""

    def __init__(self, questions: float) -> None:
        self.questions = questions
        self.save, self.saved = Method(self._save), Method(self._saved)

    async def _save(self, *_: Any) -> None:
        pass

    async def _saved(self) -> bool:
        self.questions -= 1
        return self.questions <= 0


def test_a_disk_that_never_takes_a_checkpoint_is_noticed() -> None:
    """Each answer is quick, also that of a rank whose thread hangs in a write."""

    async def until_saved(*ranks: Writer) -> None:
        learner = LearnerGroup(ranks, 0.3)
        await learner.save(Path("unused"))
        while not await learner.saved():
            await asyncio.sleep(0.01)

    run(lambda: until_saved(Writer(3), Writer(1)))
    with pytest.raises(ActorSilent, match=r"not written within learner\.timeout_s = 0\.3 s by learner-1") as caught:
        run(lambda: until_saved(Writer(3), Writer(float("inf")), Writer(1)))
    assert caught.value.actors == ("learner-1",)


@pytest.mark.parametrize("role", ["oracle", "reference"])
def test_what_is_read_back_says_nothing_of_how_long_a_call_takes(role: str) -> None:
    """A resumed run reads groups back in no time. The first one that is computed takes longer than the floor, 0.1 s, and is no hang."""

    async def work() -> None:
        supervisor = Supervisor(CallTimes(5.0, 0.1, 10.0), Budget(0, 3600.0))
        oracle = OracleGroup({"oracle-0": Reader()}, 5.0, supervisor=supervisor)
        reference = ReferenceGroup([("reference-0", Reader())], 5.0, supervisor)
        call: Any = oracle.judge if role == "oracle" else reference.score
        for _ in range(5):
            await call("recorded")
        await call("new")

    run(work)


def test_an_oracle_that_waits_for_others_has_the_longest_limit() -> None:
    async def work() -> None:
        cluster = Cluster("oracle-0", floor_s=0.05)
        group = cluster.oracle(waits_for_others=True)
        await asyncio.gather(*(group.compare(k, None) for k in range(4)))
        assert (group._limit("compare"), cluster.supervisor.times.limit("oracle: compare") < 1) == (5.0, True)
        await group.close()

    run(work)


def test_an_input_that_kills_twice_is_set_aside_and_the_others_are_not() -> None:
    """With it die calls beside it; each is repeated by itself, and only the one that kills again is guilty. Its deaths count as its own."""

    async def work() -> None:
        cluster = Cluster("oracle-0", "oracle-1", restarts=2)
        group = cluster.oracle(in_flight=3)
        calls = [group.compare(argument, None) for argument in (1, 2, 3, "poison", 4, 5)]
        results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        assert [result[1] for k, result in enumerate(results) if k != 3] == [1, 2, 3, 4, 5]
        assert isinstance(results[3], InputSetAside)
        assert isinstance(results[3].__cause__, ActorDied)
        repeated = [actor.beside[argument] for argument in (1, 2, 3, 4, 5) for actor in cluster.all if argument in actor.beside]
        assert repeated.count(1) >= 4, "suspects are alone on their replica"
        assert len(cluster.replaced) == 2
        assert cluster.supervisor.budget.take("oracle") == 0.0, "the infrastructure's budget is whole"
        await group.close()

    run(work)


def test_too_many_inputs_that_kill_end_the_run() -> None:
    async def work() -> None:
        cluster = Cluster("oracle-0", restarts=2)
        group = cluster.oracle(in_flight=1)
        errors = [(await asyncio.gather(group.compare("poison", None), return_exceptions=True))[0] for _ in range(3)]
        assert [type(error) for error in errors] == [InputSetAside] * 3
        with pytest.raises(ActorDied, match="oracle-0 died"):
            await group.compare(1, None)
        await group.close()

    run(work)


def test_what_an_oracle_raises_is_raised_and_nothing_is_replaced() -> None:
    async def work() -> None:
        cluster = Cluster("oracle-0")
        group = cluster.oracle()
        with pytest.raises(ValueError, match="no verdict"):
            await group.compare("error", None)
        assert await group.compare(1, None) == ("oracle-0.0", 1)
        assert cluster.replaced == []
        await group.close()

    run(work)


def test_when_the_budget_is_used_up_the_run_ends_with_the_last_death() -> None:
    """Two replacements are allowed; the third death is raised in whoever waits, and in what comes later."""

    async def work() -> None:
        cluster = Cluster("oracle-0", restarts=2)
        group = cluster.oracle()

        async def forever() -> None:
            await asyncio.sleep(3600)

        waiting = asyncio.ensure_future(cluster.supervisor.supervised(forever()))
        for _ in range(3):
            cluster.actors["oracle-0"].kill()
            with_replacement = asyncio.ensure_future(group.compare(1, None))
            await asyncio.wait([with_replacement])
        error = with_replacement.exception()
        assert isinstance(error, ActorDied)
        assert "supervision.restarts allows no further one" in error.__notes__[0]
        with pytest.raises(ActorDied, match="oracle-0 died"):
            await waiting
        with pytest.raises(ActorDied):
            await group.compare(2, None)
        await group.close()

    run(work)


def test_a_replacement_closes_the_journal_of_the_replica_that_died() -> None:
    """It dies while the others seal; ``seal`` returns when all parts are closed."""

    async def work() -> None:
        cluster = Cluster("oracle-0", "oracle-1")
        group = cluster.oracle()
        cluster.actors["oracle-1"].kill()
        await group.seal(1)
        assert "seal 1" in cluster.actors["oracle-0"].calls
        assert "seal 1" in cluster.actors["oracle-1"].calls
        assert cluster.actors["oracle-1"].name == "oracle-1.1"
        await group.close()

    run(work)


# --- references ---------------------------------------------------------------------------------------------------------------------------


def copies_of(cluster: Cluster) -> Copies:
    return Copies([Destination(name, handle) for name, handle in cluster.actors.items()])


def test_a_new_reference_loads_the_refreshed_policy() -> None:
    async def work() -> None:
        cluster = Cluster("reference-0", "reference-1")
        group = ReferenceGroup(list(cluster.actors.items()), 5.0, cluster.supervisor, Copies())
        group.members.watch()
        await group.refresh("iteration_0002")  # type: ignore[arg-type]
        cluster.actors["reference-1"].kill()
        while len(group.members.up) < 2 or not cluster.replaced:
            await asyncio.sleep(0.01)
        assert cluster.actors["reference-1"].calls == ["refresh iteration_0002"]
        await group.members.close()

    run(work)


def test_a_copy_that_others_can_stand_in_for_waits_for_the_next_sync() -> None:
    async def work() -> None:
        cluster = Cluster("reference-0", "reference-1")
        copies = copies_of(cluster)
        group = ReferenceGroup(list(cluster.actors.items()), 5.0, cluster.supervisor, copies)
        group.members.watch()
        cluster.actors["reference-1"].kill()
        while not copies.is_behind("reference-1"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert [member.name for member in group.members.up] == ["reference-0"]
        assert copies.changes > 0, "the senders must connect anew"
        present = await copies.present()
        assert [copy.handle for copy in present] == [cluster.actors["reference-0"], cluster.actors["reference-1"]]
        copies.hold([copy.name for copy in present])
        await group.members.all_up()
        await group.members.close()

    run(work)


@pytest.mark.parametrize("trained", [False, True])
def test_a_copy_that_nobody_can_stand_in_for_gets_the_weights_at_once_or_the_run_fails(trained: bool) -> None:
    async def work() -> None:
        cluster = Cluster("reference-0")
        copies = copies_of(cluster)

        async def bring(name: str) -> None:
            if trained:
                raise ActorFailed(f"{name} was replaced, but its weights are gone", [name])
            copies.hold([name])

        copies.bring = bring
        group = ReferenceGroup(list(cluster.actors.items()), 5.0, cluster.supervisor, copies)
        group.members.watch()
        cluster.actors["reference-0"].kill()
        if trained:
            while group.members.failure is None:
                await asyncio.sleep(0.01)
            with pytest.raises(ActorFailed, match="its weights are gone"):
                await group.weight_checksums()
        else:
            while not cluster.replaced:
                await asyncio.sleep(0.01)
            assert await group.weight_checksums() == {"reference-0": {"weight": 1}}
        await group.members.close()

    run(work)


def test_a_sync_waits_until_every_role_has_a_receiver() -> None:
    async def work() -> None:
        cluster = Cluster("rollout-0", "reference-0", "reference-1")
        copies = copies_of(cluster)
        copies.lose("reference-1")
        assert [copy.name for copy in await copies.present()] == ["rollout-0", "reference-0"]
        copies.lose("rollout-0")
        waiting = asyncio.ensure_future(copies.present())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        copies.replaced("rollout-0", "another")
        assert [copy.handle for copy in await waiting] == ["another", cluster.actors["reference-0"]]

    run(work)


# --- the run ------------------------------------------------------------------------------------------------------------------------------


def test_the_death_of_an_idle_rank_ends_whatever_the_run_waits_for() -> None:
    async def work() -> None:
        cluster = Cluster("learner-0", "learner-1")
        cancelled = []

        async def wait_for_something_else() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        for name, actor in cluster.actors.items():
            cluster.supervisor.watch(name, actor)
        waiting = asyncio.ensure_future(cluster.supervisor.supervised(wait_for_something_else()))
        await asyncio.sleep(0.01)
        cluster.actors["learner-1"].kill()
        with pytest.raises(ActorDied, match=r"^learner-1 died") as caught:
            await waiting
        assert caught.value.actors == ("learner-1",)
        assert cancelled == [True]
        await cluster.supervisor.close()

    run(work)


def test_a_late_sign_of_life_is_no_failure() -> None:
    async def work() -> None:
        cluster = Cluster("learner-0")
        rank = cluster.actors["learner-0"]
        rank.alive = Method(lambda: rank._after(0.5, "busy"))  # type: ignore[attr-defined]
        cluster.supervisor.watch("learner-0", rank)
        assert await cluster.supervisor.supervised(rank._after(0.3, "done")) == "done"
        await cluster.supervisor.close()

    run(work)


def test_the_error_of_the_call_that_waits_for_the_dead_actor_is_the_one_that_is_raised() -> None:
    async def work() -> None:
        supervisor = Supervisor.without_restarts(5.0)

        async def step() -> None:
            await asyncio.sleep(0.05)
            raise ActorSilent("no answer within 5 s from learner-0: step", ["learner-0"])

        supervisor.fail(ActorDied("learner-0 died", ["learner-0"]))
        with pytest.raises(ActorSilent, match="learner-0: step"):
            await supervisor.supervised(step())

    run(work)


def test_a_stopped_run_stops_its_work() -> None:
    async def work() -> None:
        ended = asyncio.Event()

        async def saves_first() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.05)
                ended.set()

        task = asyncio.ensure_future(Supervisor.without_restarts(5.0).supervised(saves_first()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    run(work)
