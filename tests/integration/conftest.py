"""What the integration tests share: one Ray cluster, one set of learner ranks, and tiny models that the real engines can run.

Starting Ray, an engine or a rank takes seconds of every core, so a test takes these where it can. A test must leave them as usable as it
got them, and kill the actors that it starts itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypref.sections import PolicyConfig
from tests.learner_bench import Benches, make_policy
from tests.tiny_models import make_model


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
