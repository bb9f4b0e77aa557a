"""The learner and an engine take turns on one GPU: what each gives back, and that the engine then samples from the new policy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.learner.deepspeed_setup import learner_env
from actors.learner.group import LearnerGroup
from actors.learner.phases import FORGET, KEEP, Level, Phases
from actors.rollout.actor import RolloutActor
from actors.rollout.engine import engine_env
from actors.rollout.group import RolloutGroup
from raypref import types
from raypref.sections import LearnerConfig, LoraConfig, PolicyConfig, RolloutConfig
from tests.gpu.devices import ON_GPU
from tests.learner_bench import Host, Square, make_examples, run_config
from tests.tiny_models import WORDS, make_model

ray = pytest.importorskip("ray")
for package in ("deepspeed", "vllm"):
    pytest.importorskip(package)
pytestmark = ON_GPU

GIB = 2**30
CACHE_GIB = 2.0
PARAMETERS = 102_843_392
"""Of the model below: 64 x 1024 + 8 (4 x 1024^2 + 3 x 1024 x 2816 + 2 x 1024) + 1024."""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.19 GiB in bfloat16, 1.14 GiB of master weights and moments."""
    directory = make_model(tmp_path_factory.mktemp("model"), tied=True)
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 16}
    config = LlamaConfig(vocab_size=WORDS + 3, **shape, max_position_embeddings=256, tie_word_embeddings=True, eos_token_id=2)
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory)
    return directory


def moved(method: Any, *arguments: Any) -> int:
    """Bytes that are free on the GPU after a call and were not before; negative when it took some."""
    before = torch.cuda.mem_get_info()[0]
    ray.get(method.remote(*arguments), timeout=120)
    return torch.cuda.mem_get_info()[0] - before


@pytest.mark.parametrize(("stage", "lora", "level"), [(2, None, FORGET), (3, None, FORGET), (2, LoraConfig(rank=8), KEEP)])
def test_turns(model: Path, tmp_path: Path, stage: int, lora: LoraConfig | None, level: Level) -> None:
    """At least nine tenths of the master weights and moments go and come; so do the engine's weights and cache."""
    from actors.weights.destination import Destination

    policy = PolicyConfig(path=str(model), dtype="bfloat16", lora=lora)
    learner = LearnerConfig.parse({"zero_stage": stage, "micro_batch_tokens": 512, "optimizer": {"lr": 1e-3}})
    config = run_config(policy, learner, Square(), tmp_path)
    rank = ray.remote(Host).options(num_gpus=0.5, runtime_env={"env_vars": learner_env("cuda", 1)})
    rank = rank.remote(config, device="cuda:0", rank=0, world_size=1)
    limits = RolloutConfig(max_num_seqs=8, gpu_memory_utilization=0.3, kv_cache_gib=CACHE_GIB, enforce_eager=True)
    engine = ray.remote(RolloutActor).options(num_gpus=0.5, max_concurrency=4, runtime_env={"env_vars": engine_env("cuda", 1)})
    engine = engine.remote(policy, limits, 1, "cuda", "ipc", sleeps=True)
    ray.get(engine.weight_checksums.remote(), timeout=300)
    group = LearnerGroup([rank], 120.0, Phases([rank], [("engine", engine)], level, 120.0))
    examples = make_examples(8)

    async def run() -> None:
        await group.start()
        await group.connect([Destination("engine", engine)], "ipc", 120.0)
        await group.begin_iteration(0, 2)
        await group.sync(0)
        await group.step([types.Slice(ray.put(examples), 0, len(examples))])
        states_bytes = 12 * PARAMETERS if lora is None else 0
        assert moved(rank.offload) >= 0.9 * states_bytes
        assert moved(rank.reload) <= -0.9 * states_bytes
        assert moved(engine.wake_up, ["weights"]) <= -0.9 * 2 * PARAMETERS
        assert moved(engine.wake_up, ["kv_cache"]) <= -0.9 * CACHE_GIB * GIB
        assert moved(engine.sleep, level) >= 0.9 * (CACHE_GIB * GIB + 2 * PARAMETERS)
        sent = await group.sync(2)
        prompt = types.Prompt(0, "p", "", np.arange(3, 20, dtype=np.int32))
        sampler = RolloutGroup([("engine", engine)], 120.0)
        assert await sampler.weight_checksums() == {"engine": sent}
        rollouts = (await sampler.probe([types.SampleRequest(prompt, 4, 0, 1.0, 1.0, 16, 2)]))["engine"]
        sequences = [types.TokenSequence(prompt.token_ids, response.token_ids) for response in rollouts[0].responses]
        own = await group.probe(sequences)
        differences = [np.abs(a - response.logprobs) for a, response in zip(own, rollouts[0].responses, strict=True)]
        assert np.concatenate(differences).mean() < 0.05
        await sampler.close()

    asyncio.run(run())
    for actor in (engine, rank):
        ray.kill(actor)
