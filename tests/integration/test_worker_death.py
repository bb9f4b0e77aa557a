"""A learner rank that dies. In a file of its own that runs last, because the ranks that it breaks are shared."""

from __future__ import annotations

import time

import pytest
import ray

from raypref.errors import ActorFailed
from raypref.sections import PolicyConfig
from tests.learner_bench import Benches, make_examples

pytestmark = pytest.mark.integration


def test_a_dead_rank_is_the_error_that_surfaces(benches: Benches, policy: PolicyConfig) -> None:
    """Rank 1 is killed between two steps: rank 0's broken collective is the consequence, and not what is reported."""
    bench = benches.pop(2)
    bench.become(policy)
    bench.step(*make_examples(4))
    ray.kill(bench.ranks[1])
    began = time.monotonic()
    with pytest.raises(ActorFailed, match="learner-1 died in step"):
        bench.step(*make_examples(4))
    assert time.monotonic() - began < 20
    bench.close()
