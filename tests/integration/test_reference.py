"""Reference replicas: two slots, pi_t by the engines' transport, and what they refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.reference.actor import ReferenceActor
from actors.reference.group import ReferenceGroup
from actors.weights.destination import Destination
from raypref import types
from raypref.errors import SyncError
from raypref.sections import PolicyConfig
from raypref.training import collation
from tests.learner_bench import make_examples
from tests.stand_ins import Sender

pytestmark = pytest.mark.integration

EXAMPLES = make_examples(5, seed=1)
"""Five examples of one to three sequences each, from policy version 0."""


class Bench:
    """A replica with both slots, one without pi_t, and what sends pi_t."""

    def __init__(self, path: Path) -> None:
        options: dict[str, Any] = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
        policy = PolicyConfig(path=str(path), dtype="float32")
        self.both = ray.remote(ReferenceActor).options(**options).remote(policy, {"reference", "previous"}, 64)
        self.fixed = ray.remote(ReferenceActor).options(**options).remote(policy, {"reference"}, 64)
        self.sender = ray.remote(Sender).options(**options).remote(path)
        self.tell("connect", [Destination("both", self.both)])

    def tell(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.sender, method).remote(*arguments), timeout=120)

    def expected(self, examples: tuple[types.Example, ...]) -> list[np.ndarray]:
        """For each example its sequences' log-probs under the sender's policy, summed, one sequence a pass."""
        pairs = [collation.sequences([example]) for example in examples]
        return [np.array([row.sum() for row in self.tell("logps", sequences)]) for sequences in pairs]


@pytest.fixture(scope="module")
def bench(cluster: None, tied_model: Path) -> Iterator[Bench]:
    started = Bench(tied_model)
    yield started
    for actor in (started.both, started.fixed, started.sender):
        ray.kill(actor)


@contextlib.contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(SyncError, match=message):
        yield


def test_pi_t_is_needed_before_it_can_be_asked(bench: Bench) -> None:
    with refused("'p0' was sampled by policy version 0; the reference holds no pi_t yet"):
        ray.get(bench.both.score.remote(EXAMPLES), timeout=120)


def test_two_slots_hold_two_policies(bench: Bench) -> None:
    """pi_ref stays the model as its directory holds it; pi_t follows the syncs. Micro-batches of 64 tokens change rounding alone."""
    at_start = bench.expected(EXAMPLES)
    bench.tell("move", 1)
    sent = bench.tell("sync", 0)
    group = ReferenceGroup([("both", bench.both)], timeout_s=60)
    reference = asyncio.run(group.score(ray.put(EXAMPLES)))
    assert isinstance(reference, ray.ObjectRef)
    scored = ray.get(reference, timeout=10)
    moved = bench.expected(EXAMPLES)
    assert [example.prompt_id for example in scored] == [example.prompt_id for example in EXAMPLES]
    for example, base, own in zip(scored, at_start, moved, strict=True):
        assert example.reference_logps.dtype == example.previous_logps.dtype == np.float64
        np.testing.assert_allclose(example.reference_logps, base, atol=1e-3)
        np.testing.assert_allclose(example.previous_logps, own, atol=1e-3)
        assert np.abs(base - own).min() > 0.01
    assert asyncio.run(group.weight_checksums()) == {"both": sent}
    sequences = [types.TokenSequence(example.prompt_ids[0], example.response_ids[0]) for example in EXAMPLES]
    for found, own in zip(asyncio.run(group.probe(sequences))["both"], bench.tell("logps", sequences), strict=True):
        np.testing.assert_allclose(found, own, atol=1e-4)


def test_examples_of_another_policy_are_refused_and_given_data_is_not(bench: Bench) -> None:
    bench.tell("sync", 3)
    with refused("'p0' was sampled by policy version 0; the reference holds version 3"):
        ray.get(bench.both.score.remote(EXAMPLES), timeout=60)
    given = tuple(replace(example, policy_version=None) for example in EXAMPLES)
    assert len(ray.get(bench.both.score.remote(given), timeout=60)) == len(given)


def test_weights_of_a_regulariser_pass_by(bench: Bench) -> None:
    """Weights for the engines alone arrive whole and are discarded: pi_t, and its version, stay."""
    bench.tell("sync", 3)
    given = tuple(replace(example, policy_version=3) for example in EXAMPLES)
    before = ray.get(bench.both.score.remote(given), timeout=60)
    bench.tell("move", 2)
    sent = bench.tell("sync", 10, "engines")
    assert ray.get(bench.both.weight_checksums.remote(), timeout=60) == sent
    after = ray.get(bench.both.score.remote(given), timeout=60)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.previous_logps, new.previous_logps)
    bench.tell("sync", 4)
    moved = ray.get(bench.both.score.remote(tuple(replace(example, policy_version=4) for example in EXAMPLES)), timeout=60)
    assert all(np.abs(old.previous_logps - new.previous_logps).min() > 1e-3 for old, new in zip(before, moved, strict=True))


def test_pi_ref_refreshed_from_a_directory(bench: Bench, untied_model: Path) -> None:
    """Another model's directory: its log-probs, and those of pi_t as they were. Last use of ``fixed``."""
    group = ReferenceGroup([("fixed", bench.fixed)], timeout_s=60)
    before = ray.get(asyncio.run(group.score(ray.put(EXAMPLES))), timeout=60)
    asyncio.run(group.refresh(untied_model))
    after = ray.get(asyncio.run(group.score(ray.put(EXAMPLES))), timeout=60)
    expected = ReferenceActor(PolicyConfig(path=str(untied_model), dtype="float32"), {"reference"}, 64).score(EXAMPLES)
    for old, new, own in zip(before, after, expected, strict=True):
        np.testing.assert_allclose(new.reference_logps, own.reference_logps, atol=1e-4)
        assert np.abs(old.reference_logps - new.reference_logps).max() > 1e-2


def test_a_tensor_that_changes_on_the_way_is_caught(bench: Bench) -> None:
    name = "model.embed_tokens.weight"
    sent = bench.tell("sync_corrupted", 4, name)
    received = ray.get(bench.both.weight_checksums.remote(), timeout=60)
    assert {key for key in sent if sent[key] != received[key]} == {name}


def test_replica_without_a_slot_for_pi_t(bench: Bench) -> None:
    group = ReferenceGroup([("fixed", bench.fixed)], timeout_s=60)
    (first, *_) = ray.get(asyncio.run(group.score(ray.put(EXAMPLES))), timeout=60)
    assert first.reference_logps.shape == (len(first.response_ids),)
    assert first.previous_logps is EXAMPLES[0].previous_logps or np.array_equal(first.previous_logps, EXAMPLES[0].previous_logps)
    assert asyncio.run(group.weight_checksums()) == {}
    assert asyncio.run(group.probe([types.TokenSequence(first.prompt_ids[0], first.response_ids[0])])) == {}
    with refused("a reference replica without a slot for pi_t"):
        ray.get(bench.fixed.start_weight_update.remote(), timeout=60)


def test_weights_of_another_model_are_refused(tied_model: Path) -> None:
    """In this process: a name that the model does not have, and an update that ends before everything came."""
    import torch

    model = ReferenceActor(PolicyConfig(path=str(tied_model), dtype="float32"), {"previous"}, 64)
    tensors = model._received()._tensors
    model.start_weight_update()
    with refused(r"lm_head.weight \(2,\) is no parameter"):
        tensors.load_weights([("lm_head.weight", torch.zeros(2))])
    tensors.load_weights([("model.norm.weight", torch.zeros(64))])
    with refused("19 of 20 parameters did not arrive, model.embed_tokens.weight the first"):
        model.finish_weight_update()


def test_empty_work(tied_model: Path) -> None:
    model = ReferenceActor(PolicyConfig(path=str(tied_model), dtype="float32"), {"reference"}, 64)
    assert model.score(()) == ()
    assert model.probe([]) is None
