"""The check after a sync, and what it says when a replica differs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from raypref.errors import SyncError
from raypref.loop.sync_check import Tolerance, verify
from raypref.types import Rollout, SampleRequest, TokenSequence
from tests.fakes import FakeLearner, FakePolicy, FakeReference, FakeRollout, prompt

REQUESTS = [SampleRequest(prompt(k), 1, seed=k, temperature=1.0, top_p=1.0, max_tokens=4, policy_version=0) for k in range(2)]


def check(engine: float = 0.0, reference: float = 0.0, dtype: str = "float32", sent: Any = None) -> dict[str, float]:
    """The learner's value is 0; a replica with value v computes log-probs that are v nats too low."""
    return asyncio.run(
        verify(
            sent or {"weight": hash(0.0)},
            learner=FakeLearner(),
            rollout=_Rollout(FakePolicy(engine, 0)),
            reference=_Reference(FakePolicy(reference, 0)),
            requests=REQUESTS,
            tolerance=Tolerance.of(dtype, None),
        )
    )


class _Rollout(FakeRollout):
    """Received the right tensors; computes something else."""

    async def weight_checksums(self) -> dict[str, dict[str, int]]:
        return {"rollout-0": {"weight": hash(0.0)}}


class _Reference(FakeReference):
    async def weight_checksums(self) -> dict[str, dict[str, int]]:
        return {"reference-0": {"weight": hash(0.0)}}


def test_largest_difference_is_reported() -> None:
    """Engine off by 2^-15, reference by 2^-16: the largest is 2^-15 = 3.05e-5, the mean over both (3/2) 2^-16."""
    metrics = check(engine=2**-15, reference=2**-16)
    assert metrics["sync/logprob_difference_max"] == pytest.approx(2**-15, rel=1e-2)
    assert metrics["sync/logprob_difference_mean"] == pytest.approx(1.5 * 2**-16, rel=1e-2)


def test_bfloat16_is_judged_by_the_mean() -> None:
    check(engine=0.04, dtype="bfloat16")
    with pytest.raises(SyncError, match=r"mean difference 0\.06"):
        check(engine=0.06, dtype="bfloat16")


@pytest.mark.parametrize("who", ["engine", "reference"])
def test_replica_that_computes_something_else_is_named(who: str) -> None:
    name = {"engine": "rollout-0", "reference": "reference-0"}[who]
    with pytest.raises(SyncError, match=rf"{name} does not compute .* max difference 0.001 nats over 4 tokens"):
        check(**{who: 0.001})


def test_nan_is_never_within_tolerance() -> None:
    with pytest.raises(SyncError, match="nan"):
        check(engine=float(np.nan))


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"weight": 1}, "1 of 1 tensors changed on their way to rollout-0; the first is weight"),
        ({"weight": hash(0.0), "bias": 2}, "rollout-0 did not receive 1 of 2 tensors; the first is bias"),
        ({"bias": 2}, "rollout-0 did not receive"),
    ],
)
def test_checksums_name_the_tensor(sent: dict[str, int], message: str) -> None:
    with pytest.raises(SyncError, match=message):
        check(sent=sent)


def test_engines_sample_together_and_the_learner_computes_once() -> None:
    """Of three engines the second is off by 0.01 nats: it is named, and its tokens are told from the others'. The learner and each
    reference are asked once for all 3 x 2 responses."""
    asked: list[int] = []

    class Three(_Rollout):
        async def probe(self, requests: Sequence[SampleRequest]) -> dict[str, Sequence[Rollout]]:
            off = FakeRollout(FakePolicy(0.01, 0))
            right, wrong = (await super().probe(requests))["rollout-0"], (await off.probe(requests))["rollout-0"]
            return {"rollout-0": right, "rollout-1": wrong if self.ill else right, "rollout-2": right}

    class Counting(FakeLearner):
        async def probe(self, sequences: Sequence[TokenSequence]) -> Sequence[np.ndarray[Any, Any]]:
            asked.append(len(sequences))
            return await super().probe(sequences)

    def three(ill: bool, reference: float = 0.0) -> dict[str, float]:
        rollout = Three(FakePolicy(0.0, 0))
        rollout.ill = ill  # type: ignore[attr-defined]
        roles: Any = {"learner": Counting(), "rollout": rollout, "reference": _Reference(FakePolicy(reference, 0))}
        return asyncio.run(verify({"weight": hash(0.0)}, **roles, requests=REQUESTS, tolerance=Tolerance.of("float32", None)))

    assert three(ill=False)["sync/logprob_difference_max"] == 0
    assert asked == [6]
    with pytest.raises(SyncError, match=r"rollout-1 does not compute .* max difference 0.01 nats over 4 tokens"):
        three(ill=True)
    with pytest.raises(SyncError, match=r"reference-0 \(tokens of rollout-0\) does not compute"):
        three(ill=False, reference=0.01)
