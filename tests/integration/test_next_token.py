"""A real vLLM engine as an oracle's own model: log-probs of chosen tokens, and verdicts, against transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.oracle.next_token import VllmNextToken
from actors.rollout.engine import engine_env
from raypref.errors import ConfigError
from raypref.oracles.base import Question
from raypref.oracles.pairwise_lm import PairwiseLM
from raypref.oracles.support.next_token import load_next_token
from tests.oracles.pairwise_checkpoint import WORDS, make_checkpoint

pytestmark = pytest.mark.integration

MAX_TOKENS = 400
SETTINGS = {"dtype": "float32", "max_tokens": MAX_TOKENS, "gpu_memory_utilization": 0.5}


class Elsewhere:
    """Engines in an actor of their own."""

    def __init__(self, path: str, device: str = "cpu", **settings: Any) -> None:
        options = {"num_cpus": 0, "runtime_env": {"env_vars": engine_env("cpu", 1)}}
        self.actor = ray.remote(VllmNextToken).options(**options).remote(path, device=device, **settings)

    def logprobs(self, prompts: Any, tokens: Any) -> Any:
        return ray.get(self.actor.logprobs.remote(prompts, tokens), timeout=120)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("pairwise_lm"))


@pytest.fixture(scope="module")
def engine(cluster: None, checkpoint: Path) -> Iterator[Elsewhere]:
    served = Elsewhere(str(checkpoint), **SETTINGS)
    yield served
    ray.kill(served.actor)


def test_log_probs_are_those_of_transformers(checkpoint: Path, engine: Elsewhere) -> None:
    """60 prompts of 1 to 400 tokens, 12,000 in all, more than one pass takes; in groups of five that share 130 tokens, more than a block
    of the prefix cache; asked twice, the second time from the cache.
    """
    draw = np.random.default_rng(0)
    prompts: list[list[int]] = [[5]]
    while len(prompts) < 60:
        start = draw.integers(3, 400, 130).tolist()
        prompts += [[*start, *draw.integers(3, 400, size).tolist()] for size in (0, 1, *draw.integers(2, 270, 2), 270)]
    expected = load_next_token(str(checkpoint), dtype="float32", device="cpu", batch_tokens=None).logprobs(prompts, [32, 33, 7])
    assert np.ptp(expected[:, 0]) > 0.5, "the prompts must differ, or the test shows nothing"
    for _ in range(2):
        np.testing.assert_allclose(engine.logprobs(prompts, [32, 33, 7]), expected, atol=1e-4)
    assert engine.logprobs([], [32, 33]).shape == (0, 2)


def test_verdicts_are_those_of_transformers(checkpoint: Path, engine: Elsewhere) -> None:
    class Services:
        def engine(self, path: str, **settings: Any) -> Elsewhere:
            assert (path, settings) == (str(checkpoint), SETTINGS)
            return engine

    question = Question("p", "kalo mine", ("kaka lolo", " ".join(WORDS), "nene pupu rasi"), ((0, 1), (0, 2), (1, 2)))
    settings = {"path": str(checkpoint), "dtype": "float32", "device": "cpu", "max_tokens": MAX_TOKENS, "gpu_memory_utilization": 0.5}
    answers = []
    for kind in ("vllm", "transformers"):
        oracle = PairwiseLM(engine=kind, **settings)
        oracle.load(Services())
        answers += oracle.compare([question])
    np.testing.assert_allclose(answers[0].values, answers[1].values, atol=1e-4)
    assert np.ptp(answers[0].values) > 0.05


@pytest.mark.parametrize(
    ("path", "device", "message"), [("no/such/model", "cpu", "cannot serve 'no/such/model'"), ("", "cuda", "runs on 'cpu'")]
)
def test_what_cannot_be_served_is_refused(checkpoint: Path, engine: Elsewhere, path: str, device: str, message: str) -> None:
    refused = Elsewhere(path or str(checkpoint), device, **SETTINGS)
    with pytest.raises(ray.exceptions.RayError, match=message) as raised:
        refused.logprobs([[5]], [7])
    assert ConfigError.__name__ in str(raised.value)
