"""The rollout actor's rules about requests and weight updates, on an engine that is made of three lines."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import actors.rollout.actor
from actors.rollout.actor import Finished, RolloutActor
from actors.rollout.engine_stats import EngineFigures, EngineStats
from raypref.errors import SyncError
from raypref.metrics.table import MetricTable
from raypref.sections import PolicyConfig, RolloutConfig
from raypref.types import Prompt, Response, Rollout, SampleRequest


class FakeEngine:
    """Finishes one request a step, the last one first, with the token 5 ``count`` times."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.context_tokens = 8
        self.open: dict[str, SampleRequest] = {}
        self.breaks = False
        self.ended = False
        self.asleep: set[str] = set()

    @property
    def unfinished(self) -> int:
        return len(self.open)

    def add(self, key: str, request: SampleRequest) -> None:
        self.open[key] = request

    def step(self) -> list[tuple[str, Rollout]]:
        key, request = self.open.popitem()
        response = Response(np.array([5], dtype=np.int32), np.array([-1.0], dtype=np.float32), "five", "stop")
        return [(key, Rollout(request.prompt, (response,) * request.count, request.policy_version))]

    def take_figures(self) -> EngineFigures:
        return EngineFigures()

    def start_weight_update(self, complete: bool) -> None:
        pass

    def sleep(self, level: int) -> None:
        self.asleep = {"weights", "kv_cache"}

    def wake_up(self, tags: list[str]) -> bool:
        self.asleep -= set(tags)
        return not self.asleep

    def update_weights(self, request: Any) -> None:
        if self.breaks:
            raise ValueError("half of it")

    def finish_weight_update(self) -> None:
        pass

    def shutdown(self) -> None:
        self.ended = True


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> RolloutActor:
    monkeypatch.setattr(actors.rollout.actor, "Engine", FakeEngine)
    actor = RolloutActor(PolicyConfig(path="anywhere"), RolloutConfig())
    update(actor, 3)
    return actor


def request(version: int = 3, count: int = 2) -> SampleRequest:
    prompt = Prompt(0, "p0", "a prompt", np.array([1, 2], dtype=np.int32))
    return SampleRequest(prompt, count, seed=0, temperature=1.0, top_p=1.0, max_tokens=4, policy_version=version)


def update(actor: RolloutActor, version: int) -> None:
    actor.start_weight_update()
    actor.update_weights({})
    actor.finish_weight_update()
    actor.update_weight_version(str(version))


def submit(actor: RolloutActor, key: str, version: int = 3) -> None:
    """Or raise what the request is refused for."""
    for reason in actor.submit([(key, request(version))]).values():
        raise reason


def test_a_group_comes_as_header_and_rollout(actor: RolloutActor) -> None:
    """Two responses of one token each: the header says 2 tokens."""
    stream = actor.stream()
    submit(actor, "a")
    assert next(stream) == Finished(("a",), tokens=2)
    rollout = next(stream)
    assert isinstance(rollout, Rollout)
    assert len(rollout.responses) == 2


def test_an_idle_stream_waits_for_the_next_request(actor: RolloutActor) -> None:
    headers: list[Any] = []
    reader = threading.Thread(target=lambda: headers.extend(item for item in actor.stream() if isinstance(item, Finished)))
    reader.start()
    for key in ("a", "b"):
        submit(actor, key)
    actor._queue.put(())
    while len(headers) < 2:
        reader.join(0.01)
    actor.shutdown()
    reader.join(5)
    assert not reader.is_alive()
    assert {key for header in headers for key in header.keys} == {"a", "b"}
    assert actor._engine.ended  # type: ignore[attr-defined]


def test_a_request_for_another_version_is_refused(actor: RolloutActor) -> None:
    with pytest.raises(SyncError, match=r"'p0' is for policy version 4; the engine holds version 3"):
        submit(actor, "a", version=4)


def test_of_requests_that_come_together_some_are_refused(actor: RolloutActor) -> None:
    """Each for its own reason; the engine begins with all of the others at once."""
    refused = actor.submit([("a", request()), ("b", request(version=4)), ("c", request())])
    assert refused.keys() == {"b"}
    next(actor.stream())
    assert actor._engine.open.keys() == {"a"}  # type: ignore[attr-defined]  # one step finished the other


def test_no_update_while_requests_are_unanswered(actor: RolloutActor) -> None:
    stream = actor.stream()
    submit(actor, "a")
    with pytest.raises(SyncError, match="1 requests are unanswered"):
        actor.start_weight_update()
    assert next(stream) == Finished(("a",), tokens=2)
    update(actor, 4)
    submit(actor, "b", version=4)


def test_no_request_between_the_start_of_an_update_and_its_version(actor: RolloutActor) -> None:
    actor.start_weight_update()
    with pytest.raises(SyncError, match="being replaced"):
        submit(actor, "a")


def test_no_sleep_while_requests_are_unanswered(actor: RolloutActor) -> None:
    stream = actor.stream()
    submit(actor, "a")
    with pytest.raises(SyncError, match="1 requests are unanswered; an engine may sleep only when there are none"):
        actor.sleep(1)
    assert next(stream) == Finished(("a",), tokens=2)
    actor.sleep(1)


def test_an_engine_that_sleeps_answers_nothing_until_its_last_part_is_awake(actor: RolloutActor) -> None:
    """At level 1 it then holds the version that it held; at level 2 none, until an update brings one."""
    for level in (1, 2):
        actor.sleep(level)
        for tags in ([], ["weights"]):
            actor.wake_up(tags)
            with pytest.raises(SyncError, match="'p0' is for an engine that sleeps"):
                submit(actor, "a")
        actor.wake_up(["kv_cache"])
        if level == 1:
            submit(actor, "a")
            next(actor.stream())
    with pytest.raises(SyncError, match="no version yet, or one that is being replaced"):
        submit(actor, "b")
    update(actor, 3)
    submit(actor, "b")


def test_after_a_failed_update_nothing_is_answered_until_every_weight_has_come(actor: RolloutActor) -> None:
    """An update of some weights would leave a mixture of policies."""
    actor._engine.breaks = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="half of it"):
        update(actor, 4)
    for call in (lambda: submit(actor, "a"), lambda: actor.start_weight_update(complete=False)):
        with pytest.raises(SyncError, match="cannot be used: a weight update or a sleep failed: half of it"):
            call()
    actor._engine.breaks = False  # type: ignore[attr-defined]
    update(actor, 4)
    submit(actor, "a", version=4)


def test_every_call_of_an_engine_comes_on_the_same_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA stream that work is ordered on is noted by thread, and Ray runs calls on any."""
    threads = set()

    class Watched(FakeEngine):
        def __getattribute__(self, name: str) -> Any:
            if name in ("__init__", "add", "step", "start_weight_update", "update_weights", "finish_weight_update", "sleep", "wake_up"):
                call = super().__getattribute__(name)

                def noted(*arguments: Any) -> Any:
                    threads.add(threading.current_thread().name)
                    return call(*arguments)

                return noted
            return super().__getattribute__(name)

    monkeypatch.setattr(actors.rollout.actor, "Engine", Watched)
    actor = RolloutActor(PolicyConfig(path="anywhere"), RolloutConfig())
    update(actor, 3)
    submit(actor, "a")
    next(actor.stream())
    actor.sleep(1)
    actor.wake_up(["weights", "kv_cache"])
    assert threads == {"engine"}


@pytest.mark.parametrize("tokens", [0, 8])
def test_a_prompt_without_room_for_a_response_is_refused(actor: RolloutActor, tokens: int) -> None:
    """The engine's context is 8 tokens: prompts of 1 to 7 leave room."""
    prompt = Prompt(0, "p0", "a prompt", np.zeros(tokens, dtype=np.int32))
    refused = actor.submit([("a", replace(request(), prompt=prompt))])
    assert (
        str(refused["a"]) == f"prompt 'p0': {tokens} tokens; the policy takes 1 to 7 (policy.max_context_tokens, less one for the response)"
    )


def test_there_is_one_stream(actor: RolloutActor) -> None:
    stream = actor.stream()
    submit(actor, "a")
    next(stream)
    with pytest.raises(RuntimeError, match="has a stream already"):
        next(actor.stream())


def scheduler_stats(running: int, waiting: int, usage: float, queries: int = 0, hits: int = 0, preempted: int = 0) -> Any:
    """As vLLM's scheduler gives them after a step."""
    prefix = SimpleNamespace(queries=queries, hits=hits, preempted_requests=preempted)
    return SimpleNamespace(
        num_running_reqs=running, num_waiting_reqs=waiting, num_skipped_waiting_reqs=0, kv_cache_usage=usage, prefix_cache_stats=prefix
    )


def test_the_figures_of_engines_are_means_over_their_steps() -> None:
    """Engine a: 2 steps with 4 and 2 sequences; b: 2 with 6 and 4: 4 in the mean. Hits: 30 of 40 tokens. Of the cache, 0.9 at most."""
    a, b = EngineStats(), EngineStats()
    a.record(scheduler_stats(4, 8, 0.5, queries=20, hits=10))
    a.record(scheduler_stats(2, 0, 0.1))
    a.record(None)
    b.record(scheduler_stats(6, 0, 0.9, queries=20, hits=20, preempted=3))
    b.record(scheduler_stats(4, 0, 0.5))
    figures = EngineFigures()
    for stats in (a, b):
        figures.add(stats.take())
    assert figures.metrics() == {
        "engine/running": 4.0,
        "engine/waiting": 2.0,
        "engine/kv_cache_usage": 0.5,
        "engine/kv_cache_usage_peak": 0.9,
        "engine/preempted": 3.0,
        "engine/prefix_cache_hits": 0.75,
    }
    assert MetricTable().check(figures.metrics()) is None
    assert a.take().metrics() == {}, "taken already"
