"""The GPU transports between real processes: nccl between two GPUs, ipc on one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.policy_model import load_model
from actors.rollout.actor import RolloutActor
from actors.rollout.engine import engine_env
from raypref import types
from raypref.sections import PolicyConfig, RolloutConfig
from tests.gpu.devices import ON_GPU
from tests.tiny_models import make_model

ray = pytest.importorskip("ray")
pytest.importorskip("vllm")
pytestmark = ON_GPU


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.mark.parametrize(("transport", "enforce_eager"), [("ipc", True), ("nccl", True), ("nccl", False)])
def test_bfloat16_weights_arrive_and_are_used(transport: str, enforce_eager: bool, tied_model: Path) -> None:
    """Checksums are equal after two syncs; the engine's log-probs are transformers' up to bfloat16, mean difference below 0.05. With CUDA
    graphs, too: their warm-up decides on which stream an engine computes."""
    from actors.weights.destination import Destination
    from tests.stand_ins import Sender

    if transport == "nccl" and torch.cuda.device_count() < 2:
        pytest.skip("nccl needs a GPU for each side")
    share = 1.0 if transport == "nccl" else 0.4
    policy = PolicyConfig(path=str(tied_model), dtype="bfloat16")
    limits = RolloutConfig(max_num_seqs=8, gpu_memory_utilization=0.3, kv_cache_gib=0.25, enforce_eager=enforce_eager)
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": share, "runtime_env": {"env_vars": engine_env("cuda", 1)}}
    engine = ray.remote(RolloutActor).options(max_concurrency=4, **options).remote(policy, limits, 1, "cuda", transport)
    sender = ray.remote(Sender).options(num_cpus=1, num_gpus=share).remote(tied_model, transport, "cuda:0", "bfloat16")
    ray.get(sender.connect.remote([Destination("engine", engine)], 120.0), timeout=300)
    for version in range(2):
        sent = ray.get(sender.sync.remote(version), timeout=300)
        assert ray.get(engine.weight_checksums.remote(), timeout=60) == {"": sent}
        ray.get(sender.move.remote(version), timeout=60)
    sent = ray.get(sender.sync.remote(2), timeout=300)
    assert len(sent) == len(list(load_model(policy, torch.device("cpu")).parameters()))
    prompt = types.Prompt(0, "p", "", np.arange(3, 20, dtype=np.int32))
    stream = engine.stream.options(num_returns="streaming").remote()
    ray.get(engine.submit.remote([("a", types.SampleRequest(prompt, 4, 0, 1.0, 1.0, 16, 2))]), timeout=60)
    next(stream)
    rollout = ray.get(next(stream), timeout=120)
    own = ray.get(sender.logps.remote([types.TokenSequence(prompt.token_ids, r.token_ids) for r in rollout.responses]), timeout=60)
    differences = np.concatenate([np.abs(a - r.logprobs) for a, r in zip(own, rollout.responses, strict=True)])
    assert differences.mean() < 0.05
    for actor in (engine, sender):
        ray.kill(actor)
