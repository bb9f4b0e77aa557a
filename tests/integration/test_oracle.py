"""Oracle actors on a local Ray cluster, behind the driver's OracleGroup."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from actors.oracle.actor import OracleActor
from actors.oracle.group import OracleGroup
from raypref.errors import ActorFailed, OracleError
from raypref.losses.sppo import SPPO
from raypref.oracles.callable import CallableOracle
from raypref.selection.best_worst import BestWorst
from tests.groups import rollout

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def handles(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def prefer_shorter(prompt: str, a: str, b: str) -> float:
        if "hang" in (a, b):
            time.sleep(60)
        if "server" in (a, b):
            raise TimeoutError("the judge's server does not answer")
        if "nan" in (a, b):
            return float("nan")
        return 0.9 if len(a) < len(b) else 0.1

    directory = tmp_path_factory.mktemp("rollouts")
    actor = ray.remote(OracleActor).options(num_cpus=1)
    oracle = CallableOracle(function=prefer_shorter, mode="pairwise")
    actors = {
        name: actor.remote(oracle=oracle, selection=BestWorst(), loss=SPPO(eta=10), journal_dir=directory, name=name)
        for name in ("oracle-0", "oracle-1")
    }
    yield directory, actors
    for handle in actors.values():
        ray.kill(handle)


def test_groups_are_judged_compared_and_journalled(handles: Any) -> None:
    """Four groups over two replicas. The shorter wins with 0.9: w = (0.5 + 0.9) / 2 = 0.7, targets 10 * 0.2 = 2 and -2."""
    directory, actors = handles
    group = OracleGroup(actors, timeout_s=60)

    async def run() -> Any:
        rollouts = [ray.put(rollout("aa", "b", prompt_id=f"p{k}", index=k)) for k in range(4)]
        judged = await asyncio.gather(*(group.judge(ref) for ref in rollouts))
        comparison = await group.compare(ray.put(rollout("a")), ray.put(rollout("bb")))
        await group.seal(1)
        return judged, comparison

    judged, comparison = asyncio.run(run())
    assert [(verdict.prompt_index, verdict.examples) for verdict, _ in judged] == [(k, 1) for k in range(4)]
    assert all(isinstance(examples, ray.ObjectRef) for _, examples in judged)
    (example,) = ray.get(judged[2][1])
    assert example.prompt_id == "p2"
    assert example.targets == pytest.approx([2, -2])
    assert comparison.win_rate == pytest.approx(0.9)
    parts = sorted(directory.glob("*.parquet"))
    assert [part.name for part in parts] == ["iteration_0001-oracle-0-00.parquet", "iteration_0001-oracle-1-00.parquet"]
    assert [len(pq.read_table(part)) for part in parts] == [2, 2], "each replica judged half of the groups"


def test_an_oracles_error_surfaces_with_its_prompt(handles: Any) -> None:
    group = OracleGroup(handles[1], timeout_s=60)
    with pytest.raises(OracleError, match=r"oracle 'callable', prompt 'p9': P\[0, 1\] = nan"):
        asyncio.run(group.judge(rollout("a", "nan", prompt_id="p9")))
    with pytest.raises(OracleError, match=r"oracle 'callable' raised TimeoutError: the judge's server does not answer.*asked about .*p9"):
        asyncio.run(group.judge(rollout("a", "server", prompt_id="p9")))


def test_a_call_that_does_not_return_times_out(handles: Any) -> None:
    _, actors = handles
    group = OracleGroup({"oracle-1": actors["oracle-1"]}, timeout_s=0.5)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.5 s from oracle-1: judge"):
        asyncio.run(group.judge(rollout("a", "hang")))


def test_a_dead_replica_is_the_first_cause(handles: Any) -> None:
    _, actors = handles
    ray.kill(actors["oracle-0"])
    group = OracleGroup({"oracle-0": actors["oracle-0"]}, timeout_s=60)
    with pytest.raises(ActorFailed, match="oracle-0 died in judge"):
        asyncio.run(group.judge(rollout("a", "bb")))
