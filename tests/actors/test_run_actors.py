"""How the actors of a run start and end, with stand-ins for Ray's handles."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.cluster import launch
from actors.run_actors import RunActors
from actors.weights.recipients import receivers
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.losses.dpo import DPO
from raypref.plan.placement import ActorPlacement, Need, plan_placement

ALL = Need(rollout=True, reference=True, oracle=True)
GROUP: Any = None
"""The bundles of a placement group, which nothing here looks at."""


class Calls:
    """What happens, in order; and how the stand-ins answer."""

    def __init__(self, errors: Mapping[str, Exception] | None = None) -> None:
        self.log: list[str] = []
        self.errors = dict(errors or {})
        """``actor.method`` -> what the call raises."""
        self.gates: dict[str, asyncio.Event] = {}
        """``actor.method`` -> what the call waits for."""

    async def answer(self, call: str) -> Any:
        if call in self.gates:
            await self.gates[call].wait()
        if call in self.errors:
            raise self.errors[call]
        self.log.append(call)
        return ["0"] if call.endswith("gpu_ids") else call


class Handle:
    """In the place of an actor's handle: ``handle.method.remote(...)`` can be awaited."""

    def __init__(self, name: str, calls: Calls) -> None:
        self._name = name
        self._calls = calls

    def __getattr__(self, method: str) -> Any:
        return Method(f"{self._name}.{method}", self._calls)


class Method:
    def __init__(self, call: str, calls: Calls) -> None:
        self._call = call
        self._calls = calls

    def options(self, **options: Any) -> Method:
        return self

    def remote(self, *arguments: Any) -> Awaitable[Any]:
        return asyncio.ensure_future(self._calls.answer(self._call))


def config_for(output_dir: Path, **placement: Any) -> RunConfig:
    return RunConfig.parse(
        {
            "output_dir": str(output_dir),
            "policy": {"path": "m"},
            "loss": {"type": "sppo"},
            "oracle": {"type": "callable", "function": "tests.actors.test_run_actors:config_for"},
            "placement": placement,
        }
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, partial[Any]]:
    """Actor name -> its constructor. Actors become ``Handle`` objects that share ``CALLS``."""
    constructors: dict[str, partial[Any]] = {}

    def start(make: partial[Any], placement: ActorPlacement, *rest: Any, **options: Any) -> Handle:
        constructors[placement.name] = make
        CALLS[-1].log.append(f"create {placement.name}")
        return Handle(placement.name, CALLS[-1])

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr("actors.run_actors.facts_of", lambda policy: type("Facts", (), {"tokenizer": None, "context_tokens": 64}))
    return constructors


CALLS: list[Calls] = []


def actors_of(config: RunConfig, device: Any, calls: Calls, need: Need = ALL) -> RunActors:
    CALLS.append(calls)
    return RunActors(config, plan_placement(config.placement, need), device, GROUP)


def test_the_learner_loads_while_engines_still_load(made: dict[str, partial[Any]], tmp_path: Path) -> None:
    """The engine is ready only after the learner's rank has started: nobody waits for another, and weights are connected last."""
    calls = Calls()
    actors = actors_of(config_for(tmp_path), "cpu", calls)

    async def run() -> None:
        calls.gates["rollout-0.alive"] = asyncio.Event()
        starting = asyncio.ensure_future(actors.start())
        while "learner-0.start" not in calls.log:
            await asyncio.sleep(0)
        assert "rollout-0.alive" not in calls.log
        calls.gates["rollout-0.alive"].set()
        await starting
        await actors.close()

    asyncio.run(asyncio.wait_for(run(), 10))
    names = ["learner-0", "rollout-0", "reference-0", "oracle-0"]
    assert calls.log[:4] == [f"create {name}" for name in names]
    assert calls.log.index("learner-0.connect") > calls.log.index("rollout-0.alive")
    assert {"rollout-0.shutdown", "reference-0.shutdown"} <= set(calls.log)
    assert actors.roles.rollout is not None
    assert actors.roles.reference is not None
    assert actors.roles.oracle is not None


def test_roles_that_share_gpus_start_one_after_the_other(made: dict[str, partial[Any]], tmp_path: Path) -> None:
    """An engine measures free memory while it loads, so the reference and the oracle come after it; it learns the ranks' GPUs first."""
    calls = Calls()
    asyncio.run(actors_of(config_for(tmp_path, layout="colocated"), "cuda", calls).start())
    order = [
        "create learner-0",
        "learner-0.alive",
        "learner-0.gpu_ids",
        "create rollout-0",
        "rollout-0.alive",
        "create reference-0",
        "create oracle-0",
        "oracle-0.alive",
        "learner-0.start",
        "learner-0.connect",
    ]
    assert [call for call in dict.fromkeys(calls.log) if call in order] == order


def test_constructors_hold_the_sections(made: dict[str, partial[Any]], tmp_path: Path) -> None:
    config = config_for(tmp_path, learner={"ranks": 2}, oracle={"replicas": 2})
    asyncio.run(actors_of(config, "cpu", Calls()).start())
    assert [made[f"learner-{rank}"].keywords["rank"] for rank in range(2)] == [0, 1]
    assert made["rollout-0"].keywords["transport"] == "shm"
    assert not made["rollout-0"].keywords["load_weights"]
    assert made["oracle-0"].keywords["examples"] is made["oracle-1"].keywords["examples"], "loaded once"


def test_who_gets_weights(tmp_path: Path) -> None:
    """Engines, and references that hold pi_t; a run without either is bound to no transport."""
    sppo = config_for(tmp_path)
    dpo = sppo.model_copy(update={"loss": DPO.parse({})})
    only_reference = plan_placement(sppo.placement, Need(rollout=False, reference=True, oracle=False))
    everything = plan_placement(sppo.placement, ALL)
    generation = plan_placement(sppo.placement, Need(rollout=True, reference=False, oracle=False, learner=False))
    found = [bool(receivers(config, plan)) for config in (sppo, dpo) for plan in (everything, only_reference, generation)]
    assert found == [True, True, False, True, False, False]


def test_engines_without_a_learner_load_the_policy_themselves(made: dict[str, partial[Any]], tmp_path: Path) -> None:
    calls = Calls()
    need = Need(rollout=True, reference=False, oracle=False, learner=False)
    asyncio.run(actors_of(config_for(tmp_path), "cpu", calls, need).start())
    assert calls.log == ["create rollout-0", "rollout-0.alive"]
    assert made["rollout-0"].keywords["load_weights"]


@pytest.mark.parametrize("refusing", ["learner-0.alive", "reference-0.alive", "learner-0.start"])
def test_what_an_actor_refuses_is_raised_and_actors_that_load_are_not_asked_to_end(
    refusing: str, made: dict[str, partial[Any]], tmp_path: Path
) -> None:
    """The engine never becomes ready: a call to it would not be answered."""
    calls = Calls({refusing: ConfigError("policy.path: cannot load")})
    actors = actors_of(config_for(tmp_path), "cpu", calls)

    async def run() -> None:
        calls.gates["rollout-0.alive"] = asyncio.Event()
        try:
            await actors.start()
        finally:
            await actors.close()

    with pytest.raises(ConfigError, match=r"policy\.path: cannot load"):
        asyncio.run(asyncio.wait_for(run(), 10))
    assert "rollout-0.shutdown" not in calls.log


def test_an_actor_that_is_never_ready_is_named() -> None:
    calls = Calls()

    async def run() -> None:
        calls.gates["rollout-1.alive"] = asyncio.Event()
        await launch.ready({name: Handle(name, calls) for name in ("rollout-0", "rollout-1")}, 0.05)

    with pytest.raises(TimeoutError, match=r"not ready after 0\.05 s: rollout-1$"):
        asyncio.run(run())


def test_a_refused_constructor_is_told_by_the_first_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray reports a constructor's error as the actor's death, and loses its type; so it is kept until it is asked for."""
    monkeypatch.setattr(launch, "log_to_file", lambda path, name: None)

    class Picky:
        def __init__(self, number: int, *, limit: int) -> None:
            if number > limit:
                raise ConfigError(f"number: {number}, above {limit}")

    actor: Any = launch._actor_class(Picky, "picky-0")
    assert actor(1, limit=2, log_file=str(tmp_path / "log"), network_settings={}).alive() == "picky-0"
    with pytest.raises(ConfigError, match="number: 3, above 2"):
        actor(3, limit=2, log_file=str(tmp_path / "log"), network_settings={}).alive()
