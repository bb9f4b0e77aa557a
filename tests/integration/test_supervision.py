"""Actors of a run that are killed in the middle of an iteration: Ray, the driver and the journal are real, models are not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from actors.run_actors import RunActors
from raypref.config import RunConfig
from raypref.loop.driver import Driver
from raypref.metrics.progress import Callback
from raypref.metrics.writer import MetricsWriter
from raypref.output.outcome import Outcome
from raypref.plan.placement import Need, plan_placement
from raypref.types import RunData
from tests import light_actors
from tests.fakes import prompt

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]

GROUPS = 48
"""Of both iterations together."""


class Stopping(Callback):
    """Sends signals to actors, each once a number of groups has been judged."""

    def __init__(self, at: dict[int, list[tuple[str, signal.Signals]]]) -> None:
        self._at = at
        self.pids: dict[str, int] = {}
        self.judged = 0
        self.sampled = 0

    def on_sample(self, prompt: Any) -> None:
        self.sampled += 1

    def on_group(self, verdict: Any) -> None:
        self.judged += 1
        for name, how in self._at.get(self.judged, []):
            os.kill(self.pids[name], how)


def config_for(output_dir: Path, **sections: Any) -> RunConfig:
    half = {"replicas": 2, "cpus": 0.5}
    values = {
        "output_dir": str(output_dir),
        "policy": {"path": "none", "dtype": "float32"},
        "loss": {"type": "sppo"},
        "selection": {"type": "best_worst"},
        "oracle": {"type": "callable", "function": "tests.light_actors:prefer_the_larger_first_token", "mode": "pairwise"},
        "judging": {"groups": 4},
        "loop": {"iterations": 2},
        "rollout": {"responses": 3, "max_tokens": 8},
        "learner": {"global_batch": 4, "timeout_s": 30.0},
        "placement": {"rollout": {"engines": 2}, "oracle": half | {"gpus": 0}, "reference": half},
    }
    return RunConfig.parse(values | sections)


@pytest.fixture(scope="module", autouse=True)
def light() -> Iterator[None]:
    """The actors of ``tests.light_actors`` in place of those with models."""
    engine, oracle = RunActors._engine, RunActors._oracle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunActors, "_engine", lambda self: partial(light_actors.LightEngine, *(made := engine(self)).args, **made.keywords))
        patch.setattr(RunActors, "_oracle", lambda self, name: partial(light_actors.LightOracle, **oracle(self, name).keywords))
        patch.setattr(RunActors, "_reference", lambda self, name: partial(light_actors.LightReference))
        patch.setattr(RunActors, "_learner_rank", lambda self, rank: partial(light_actors.LightRank))
        patch.setattr("actors.run_actors.facts_of", lambda policy: SimpleNamespace(tokenizer=None, context_tokens=64))
        yield


@pytest.fixture(scope="module")
def calm(cluster: None, light: None, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The config of a run in which nothing failed."""
    config = config_for(tmp_path_factory.mktemp("calm"))
    assert run(config, Stopping({})).replacements == []
    return config


def run(config: RunConfig, stopping: Stopping) -> Outcome:
    plan = plan_placement(config.placement, Need(rollout=True, reference=True, oracle=True))
    actors = tuple(replace(actor, gpus=0.0) if actor.role == "reference" else actor for actor in plan.actors)
    bundles = tuple({"CPU": actor.cpus} | ({"GPU": actor.gpus} if actor.gpus else {}) for actor in actors)
    plan = replace(plan, actors=actors, bundles=bundles)  # the test's cluster has no GPUs left for the references
    data = RunData(prompts=[prompt(k) for k in range(GROUPS)])

    async def work(actors: RunActors, metrics: MetricsWriter) -> Outcome:
        try:
            await actors.start()
            for name, handle in actors._handles.items():
                stopping.pids[name] = await handle.pid.remote()
            driver = Driver(config, actors.roles, data, metrics=metrics, callbacks=[stopping])
            actors.supervisor.on_restart = driver.failures.replaced
            return await actors.supervisor.supervised(driver.run())
        finally:
            await actors.close()

    with RunActors.reserved(config, plan, "cpu", may_grow=False) as actors, contextlib.closing(MetricsWriter(config.output_dir)) as metrics:
        return asyncio.run(work(actors, metrics))


def policy(config: RunConfig) -> float:
    return float(json.loads((config.output_dir / "policy" / "value.json").read_text()))


def journal(config: RunConfig) -> list[str]:
    """The origins of the groups in the journal."""
    parts = sorted((config.output_dir / "rollouts").glob("*.parquet"))
    return [origin for part in parts for origin in pq.read_table(part, columns=["origin"])["origin"].to_pylist()]


def check_equal(config: RunConfig, outcome: Outcome, calm: RunConfig) -> None:
    """The run gave the same policy as the undisturbed one, every group once, and left nothing behind."""
    assert outcome.set_aside == []
    assert outcome.steps == GROUPS // 4
    assert policy(config) == policy(calm)
    assert sorted(journal(config)) == sorted(journal(calm))
    assert len(set(journal(config))) == GROUPS
    assert all(entry["state"] == "REMOVED" for entry in ray.util.placement_group_table().values())


def test_one_of_each_role_is_killed_and_the_run_gives_the_same_policy(calm: RunConfig, tmp_path: Path) -> None:
    """An oracle, a reference and an engine of two each, in the middle of the first iteration. The policy depends on every response and
    every log-prob under pi_t."""
    config, kill = config_for(tmp_path), signal.SIGKILL
    stopping = Stopping({6: [("oracle-0", kill)], 9: [("reference-1", kill)], 12: [("rollout-0", kill)]})
    outcome = run(config, stopping)
    assert sorted(entry["actor"] for entry in outcome.replacements) == ["oracle-0", "reference-1", "rollout-0"]
    assert all("died" in entry["reason"] for entry in outcome.replacements)
    check_equal(config, outcome, calm)
    assert stopping.sampled == GROUPS, "the driver asks for each group once; a request of a lost engine is asked of another one"
    lines = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("failures/restarts/rollout", 0) for line in lines) == 1


def test_the_only_engine_is_killed_after_a_step_and_gets_pi_t_from_the_disk(calm: RunConfig, tmp_path: Path) -> None:
    """In the middle of the second iteration; the learner does not have pi_1 any more, and the run does not start again."""
    half = {"replicas": 2, "cpus": 0.5}
    placement = {"rollout": {"engines": 1}, "oracle": half | {"gpus": 0}, "reference": half}
    config = config_for(tmp_path, placement=placement)
    outcome = run(config, Stopping({GROUPS // 2 + 10: [("rollout-0", signal.SIGKILL)]}))
    assert [entry["actor"] for entry in outcome.replacements] == ["rollout-0"]
    check_equal(config, outcome, calm)


@pytest.mark.slow
def test_actors_that_hang_are_replaced(calm: RunConfig, tmp_path: Path) -> None:
    """The first calls had up to 30 s; later ones take milliseconds, so that the floor of 3 s is near their limit."""
    config, stop = config_for(tmp_path, supervision={"floor_s": 3.0}), signal.SIGSTOP
    outcome = run(config, Stopping({8: [("rollout-1", stop)], 32: [("oracle-0", stop)]}))
    assert [entry["actor"] for entry in outcome.replacements] == ["rollout-1", "oracle-0"]
    assert re.match(r"rollout-1: no group finished within [\d.]+ s; \d+ requests are unanswered", outcome.replacements[0]["reason"])
    assert re.match(r"no answer within [\d.]+ s from oracle-0: judge", outcome.replacements[1]["reason"])
    check_equal(config, outcome, calm)
