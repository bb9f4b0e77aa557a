"""Real vLLM engines: sampling log-probs, seeds, weight updates, tensor parallelism, and what happens when an engine dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.rollout.actor import RolloutActor
from actors.rollout.engine import engine_env
from actors.rollout.engine_stats import EngineStats
from actors.rollout.group import RolloutGroup
from actors.weights.destination import Destination
from raypref import types
from raypref.errors import ActorDied, DataError, SyncError
from raypref.sections import PolicyConfig, RolloutConfig
from tests.stand_ins import Breaking, Mortal, Sender

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]

END = 2
"""The end token of the tiny models."""
PROMPTS = [[5, 6, 7], list(range(3, 43)), [60]]
"""A short one, one of 40 tokens (longer than a block of the prefix cache), and a single token."""


ONE = types.SampleRequest(types.Prompt(0, "p", "", np.zeros(1, dtype=np.int32)), 1, 0, 1.0, 1.0, 4, 0)


class Bench:
    """An engine, the group that the driver would hold, and what sends the weights."""

    def __init__(self, path: Path, tensor_parallel: int = 1, trained: Collection[str] | None = None, transport: str = "shm") -> None:
        self.engine = start_engine(path, tensor_parallel, transport)
        sender = ray.remote(Sender).options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
        self.sender = sender.remote(path, trained=trained, transport=transport)
        self.group = RolloutGroup([("engine", self.engine)], timeout_s=120)
        self.runner = asyncio.Runner()
        self.tell("connect", [Destination("engine", self.engine, tensor_parallel)])
        self.version = -1
        self.sent = self.sync()

    def sync(self) -> dict[str, int]:
        self.version += 1
        return self.tell("sync", self.version)

    def tell(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.sender, method).remote(*arguments), timeout=120)

    def ask(self, *requests: types.SampleRequest) -> list[types.Rollout]:
        return list(self.runner.run(self.group.probe(requests))["engine"])

    def request(self, prompt: list[int], seed: int = 1, count: int = 3, max_tokens: int = 24) -> types.SampleRequest:
        own = types.Prompt(0, f"p{prompt}", "", np.array(prompt, dtype=np.int32))
        return types.SampleRequest(own, count, seed, 1.0, 1.0, max_tokens, self.version)

    def largest_difference(self, rollouts: list[types.Rollout]) -> float:
        """Between the log-probs of the engine as it sampled and of transformers on the same tokens, over all tokens, in nats."""
        pairs = [(rollout.prompt.token_ids, response) for rollout in rollouts for response in rollout.responses]
        expected = self.tell("logps", [types.TokenSequence(ids, response.token_ids) for ids, response in pairs])
        return max(float(np.abs(own - response.logprobs).max()) for own, (_, response) in zip(expected, pairs, strict=True))

    def close(self) -> None:
        self.runner.run(self.group.close())
        self.runner.close()
        for handle in (self.engine, self.sender):
            ray.kill(handle)


def start_engine(path: Path, tensor_parallel: int = 1, transport: str = "shm") -> Any:
    options = {"num_cpus": 0, "max_concurrency": 4, "runtime_env": {"env_vars": engine_env("cpu", 1)}}
    rollout = RolloutConfig(max_num_seqs=32, kv_cache_gib=0.03125)
    policy = PolicyConfig(path=str(path), dtype="float32")
    return ray.remote(RolloutActor).options(**options).remote(policy, rollout, tensor_parallel, transport=transport)


@pytest.fixture(scope="module")
def tied(cluster: None, tied_model: Path) -> Iterator[Bench]:
    with contextlib.closing(Bench(tied_model)) as bench:
        yield bench


@pytest.fixture(scope="module")
def untied(cluster: None, untied_model: Path) -> Iterator[Bench]:
    with contextlib.closing(Bench(untied_model)) as bench:
        yield bench


def test_more_prompt_tokens_than_one_pass_takes(untied: Bench) -> None:
    """40 different prompts of 200 tokens at once, 8,000 in all, where a pass takes 4,096 at most: each is answered, right to 1e-4."""
    draw = np.random.default_rng(0)
    answers = untied.ask(*(untied.request(draw.integers(3, 60, 200).tolist(), seed=k, count=1, max_tokens=4) for k in range(40)))
    assert len(answers) == 40
    assert untied.largest_difference(answers) < 1e-4


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_sampling_log_probs_are_the_policys_after_every_sync(name: str, request: pytest.FixtureRequest) -> None:
    """Twice the same prompts, with other weights in between: a prefix cache, or a packed output head, that stayed would show."""
    bench: Bench = request.getfixturevalue(name)
    first = bench.ask(*(bench.request(prompt) for prompt in PROMPTS))
    assert bench.largest_difference(first) < 1e-4
    bench.tell("move", 7)
    assert bench.largest_difference(first) > 0.1
    sent = bench.sync()
    second = bench.ask(*(bench.request(prompt) for prompt in PROMPTS))
    assert bench.largest_difference(second) < 1e-4
    assert [rollout.policy_version for rollout in second] == [bench.version] * len(PROMPTS)
    assert bench.runner.run(bench.group.weight_checksums()) == {"engine": sent}


@pytest.mark.parametrize("name", ["tied_model", "untied_model"])
def test_only_what_is_trained_travels_after_the_first_sync(name: str, request: pytest.FixtureRequest) -> None:
    """Trained: one of three projections that the engine fuses, and a norm. What travels is the block's four projections, and the norm;
    checksums cover everything; the engine, its output head and the prompts that it cached before, computes the new policy."""
    attention, norm = "model.layers.1.self_attn", "model.layers.0.input_layernorm.weight"
    with contextlib.closing(Bench(request.getfixturevalue(name), trained={f"{attention}.q_proj.weight", norm})) as bench:
        everything = bench.sent.keys()
        bench.ask(*(bench.request(prompt) for prompt in PROMPTS))
        for seed in range(2):
            bench.tell("move", seed)
            bench.version += 1
            held, sent = bench.tell("sync_listing", bench.version)
            assert sent == {norm, *(f"{attention}.{part}_proj.weight" for part in "qkvo")}
            assert held.keys() == everything
            assert bench.runner.run(bench.group.weight_checksums()) == {"engine": held}
            assert bench.largest_difference(bench.ask(*(bench.request(prompt) for prompt in PROMPTS))) < 1e-4
        changed = {key for key in everything if held[key] != bench.sent[key]}
        assert changed == {f"{attention}.q_proj.weight", norm}


def test_responses_are_what_they_say(tied: Bench) -> None:
    """K of them; ended by the end token, which is the last one then, or cut off at the limit; the text has no special tokens."""
    (rollout,) = tied.ask(tied.request([5, 6, 7], count=16))
    assert len(rollout.responses) == 16
    for response in rollout.responses:
        ended = response.token_ids[-1] == END
        assert response.finish_reason == ("stop" if ended else "length")
        assert ended or len(response.token_ids) == 24
        assert END not in response.token_ids[:-1]
        assert response.text.split() == [f"w{token - 3}" for token in response.token_ids if token > END]
    assert {response.finish_reason for response in rollout.responses} == {"stop", "length"}


def test_samples_differ_and_a_seed_repeats_them_in_any_company(tied: Bench) -> None:
    (alone,) = tied.ask(tied.request([5, 6, 7], seed=3, count=4))
    texts = [response.text for response in alone.responses]
    assert len(set(texts)) == 4
    crowd = [tied.request(prompt, seed=seed) for seed, prompt in enumerate(PROMPTS)]
    again, *_ = tied.ask(tied.request([5, 6, 7], seed=3, count=4), *crowd)
    assert [response.text for response in again.responses] == texts


def test_sample_leaves_the_rollout_where_it_is(tied: Bench) -> None:
    before = tied.group.sampled_tokens
    reference = tied.runner.run(tied.group.sample(tied.request([5, 6, 7])))
    assert isinstance(reference, ray.ObjectRef)
    rollout = ray.get(reference, timeout=10)
    assert tied.group.sampled_tokens - before == sum(len(response.token_ids) for response in rollout.responses)


def test_requests_that_cannot_be_served_are_refused_alone(tied: Bench) -> None:
    with pytest.raises(SyncError, match=rf"for policy version {tied.version + 1}; the engine holds version {tied.version}"):
        tied.ask(types.SampleRequest(tied.request([5]).prompt, 1, 0, 1.0, 1.0, 4, tied.version + 1))
    with pytest.raises(DataError, match="256 tokens; the policy takes 1 to 255"):
        tied.ask(tied.request([5] * 256))
    (rollout,) = tied.ask(tied.request([5] * 250))
    assert {len(response.token_ids) for response in rollout.responses} <= set(range(1, 7))


@pytest.mark.parametrize("level", [1, 2])
def test_an_engine_that_sleeps_refuses_requests_until_all_of_it_is_awake(tied: Bench, level: int) -> None:
    """The calls of a colocated run, on a CPU, where no memory moves: sleep, weights, a sync, key-value cache. Then it samples right."""
    request = tied.request([5, 6, 7])
    ray.get(tied.engine.sleep.remote(level), timeout=60)
    for step in (lambda: None, lambda: ray.get(tied.engine.wake_up.remote(["weights"]), timeout=60), tied.sync):
        step()
        with pytest.raises(SyncError, match=rf"prompt '{re.escape(request.prompt.id)}' is for an engine that sleeps"):
            tied.ask(request)
    ray.get(tied.engine.wake_up.remote(["kv_cache"]), timeout=60)
    assert tied.largest_difference(tied.ask(*(tied.request(prompt) for prompt in PROMPTS))) < 1e-4


def test_a_tensor_that_changes_on_the_way_is_caught(tied: Bench) -> None:
    """One flipped bit, in a matrix that vLLM fuses with its neighbours and packs."""
    name = "model.layers.1.self_attn.k_proj.weight"
    tied.version += 1
    sent = tied.tell("sync_corrupted", tied.version, name)
    received = tied.runner.run(tied.group.weight_checksums())["engine"]
    assert {key for key in sent if sent[key] != received[key]} == {name}
    assert tied.sync() == tied.runner.run(tied.group.weight_checksums())["engine"]


def breaks_and_is_mended(bench: Bench) -> None:
    """The first layer and a third of a fused one are new when the sync fails; vLLM keeps that third until the others come."""
    bench.tell("move", 7)
    bench.version += 1
    with pytest.raises(SyncError, match=r"sync: engine failed; \w+, transfer 1 of the sync: AttributeError"):
        bench.tell("sync_broken", bench.version, "model.layers.1.self_attn.k_proj.weight")
    with pytest.raises(SyncError, match="the engine cannot be used: a weight update or a sleep failed"):
        bench.ask(bench.request(PROMPTS[0]))
    bench.tell("move", 8)
    bench.sent = bench.sync()
    assert bench.largest_difference(bench.ask(*(bench.request(prompt) for prompt in PROMPTS))) < 1e-4


def test_a_sync_that_breaks_is_mended_by_the_next(tied: Bench) -> None:
    breaks_and_is_mended(tied)
    assert tied.sent == tied.runner.run(tied.group.weight_checksums())["engine"]


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["shm", "object_store"])
def test_tensor_parallel_engine(transport: str, tied_model: Path) -> None:
    """Two workers: each receives all of the weights, together they compute the same log-probs, also after a sync that broke, and nothing
    stays in shared memory."""
    before = set(os.listdir("/dev/shm"))
    with contextlib.closing(Bench(tied_model, tensor_parallel=2, transport=transport)) as bench:
        rollouts = bench.ask(*(bench.request(prompt) for prompt in PROMPTS))
        assert bench.largest_difference(rollouts) < 1e-4
        breaks_and_is_mended(bench)
        assert bench.runner.run(bench.group.weight_checksums()) == {"engine/tp0": bench.sent, "engine/tp1": bench.sent}
    assert {name for name in set(os.listdir("/dev/shm")) - before if name.startswith(("vllm", "psm", "raypref"))} == set()


def test_death_of_an_engine_reaches_every_waiting_request() -> None:
    """Of two engines one dies: the requests at both fail with that cause, and so does the next one."""
    handles = [ray.remote(Mortal).options(num_cpus=0, max_concurrency=4).remote() for _ in range(2)]

    async def run() -> list[Any]:
        group = RolloutGroup([(f"engine-{k}", handle) for k, handle in enumerate(handles)], timeout_s=30)
        assert isinstance(await group.sample(ONE), ray.ObjectRef)
        waiting = [asyncio.ensure_future(group.sample(ONE)) for _ in range(3)]
        await asyncio.sleep(0.2)
        ray.kill(handles[0])
        results = await asyncio.gather(*waiting, return_exceptions=True)
        results += await asyncio.gather(group.sample(ONE), return_exceptions=True)
        return results

    results = asyncio.run(run())
    assert [type(result) for result in results] == [ActorDied] * 4
    assert {result.actors for result in results} == {("engine-0",)}


def test_an_engine_that_finishes_nothing_is_reported() -> None:
    handle = ray.remote(Mortal).options(num_cpus=0, max_concurrency=4).remote()

    async def run() -> None:
        group = RolloutGroup([("engine", handle)], timeout_s=5)
        await group.sample(ONE)
        await group.sample(ONE)

    with pytest.raises(TimeoutError, match="engine: no group finished within 5 s; 1 requests are unanswered"):
        asyncio.run(run())


def test_what_breaks_a_stream_between_announced_groups_is_what_is_raised() -> None:
    """The first group is there; who waits for the others, or comes later, is told the engine's name and its error."""
    handle = ray.remote(Breaking).options(num_cpus=0, max_concurrency=4).remote()

    async def run() -> list[Any]:
        group = RolloutGroup([("engine", handle)], timeout_s=5)
        first, second, third = await asyncio.gather(*(group.sample(ONE) for _ in range(3)), return_exceptions=True)
        assert isinstance(await first, types.Rollout)
        later = await asyncio.gather(group.sample(ONE), return_exceptions=True)
        return [second, third, *later]

    errors = asyncio.run(run())
    assert [(type(error), str(error)) for error in errors] == [(ActorDied, "engine failed: ValueError: the second one")] * 3
    assert [type(error.__cause__) for error in errors] == [ValueError] * 3


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # vLLM, on import
def test_vllm_finds_all_that_it_may_call_in_place_of_its_own_statistics() -> None:
    """An engine that fell asleep failed for a method that was missing."""
    from vllm.v1.metrics.loggers import StatLoggerManager

    expected = {name for name, value in vars(StatLoggerManager).items() if callable(value) and not name.startswith("_")}
    assert {name for name in expected if not callable(getattr(EngineStats, name, None))} == set()
