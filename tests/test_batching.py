from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypref import types
from raypref.batching import MicroBatch, Size, collate, plan, response_tokens, sequences

SIZES = st.lists(st.builds(Size, st.integers(1, 6), st.integers(2, 50)), min_size=1, max_size=40)


@given(sizes=SIZES, ranks=st.integers(1, 5), budget=st.integers(1, 400))
def test_a_plan_holds_every_example_once_and_every_rank_in_step(sizes: list[Size], ranks: int, budget: int) -> None:
    found = plan(sizes, ranks, budget)
    assert len({len(hand) for hand in found}) == 1, "under ZeRO-3 a rank with fewer passes hangs the others"
    micro = [item for hand in found for item in hand]
    counted = [k for item in micro if item.counts for k in item.examples]
    assert sorted(counted) == list(range(len(sizes)))
    for item in micro:
        cost = sum(sizes[k].sequences for k in item.examples) * max(sizes[k].longest for k in item.examples)
        assert item.padded_tokens == cost
        assert cost <= budget or len(item.examples) == 1
    assert len(micro) - sum(item.counts for item in micro) < ranks, "no more repeats than fill the last round"
    assert found == plan(list(sizes), ranks, budget)


@given(sizes=SIZES, ranks=st.integers(2, 4), budget=st.integers(1, 400))
def test_ranks_are_balanced_to_one_micro_batch(sizes: list[Size], ranks: int, budget: int) -> None:
    found = plan(sizes, ranks, budget)
    loads = [sum(item.padded_tokens for item in hand) for hand in found]
    assert max(loads) - min(loads) <= max(item.padded_tokens for hand in found for item in hand)


def test_a_plan_by_hand() -> None:
    """Pairs of 10, 8, 4, 4, 2 tokens, two ranks, 20 padded tokens: 2 x 10 fills one; 8 with 4 would be 4 x 8 = 32, so alone; 4 and 4 are
    4 x 4 = 16, the 2 would make it 6 x 4. Four micro-batches of 20, 16, 16, 4: the first round gives 20 and 16 to ranks 0 and 1, the
    second the costlier one to rank 1."""
    sizes = [Size(2, longest) for longest in (4, 10, 2, 8, 4)]
    assert plan(sizes, 2, 20) == (
        (MicroBatch((1,), True, 20), MicroBatch((2,), True, 4)),
        (MicroBatch((0, 4), True, 16), MicroBatch((3,), True, 16)),
    )


def test_one_example_on_three_ranks_is_repeated_without_weight() -> None:
    assert plan([Size(2, 7)], 3, 100) == tuple((MicroBatch((0,), counts, 14),) for counts in (True, False, False))


def test_a_group_is_halved_rather_than_repeated() -> None:
    """Four examples fit into one pass, but there are two ranks: two each."""
    found = plan([Size(1, 5)] * 4, 2, 1000)
    assert [[(item.examples, item.counts) for item in hand] for hand in found] == [[((0, 1), True)], [((2, 3), True)]]


def example(name: str, *responses: int, previous: list[float] | None = None) -> types.Example:
    return types.Example(
        prompt_index=0,
        prompt_id=name,
        prompt_ids=(np.array([5, 6], dtype=np.int32),) * len(responses),
        response_ids=tuple(np.arange(length, dtype=np.int32) for length in responses),
        targets=np.arange(len(responses)) + 0.5,
        policy_version=0,
        previous_logps=None if previous is None else np.array(previous),
    )


def test_collate_by_hand() -> None:
    """Two examples, of two sequences and of one; rows of token log-probs add up to -3, -4 and -0.5, and the missing fourth entry is 0."""
    examples = [example("a", 3, 2, previous=[-1, -2]), example("b", 1, previous=[-5])]
    logps = torch.tensor([[-1.0, -1.0, -1.0], [0.0, -3.0, -1.0], [0.0, 0.0, -0.5]], requires_grad=True)
    batch = collate(examples, logps, frozenset({"previous"}))
    assert batch.logps.tolist() == [[-3, -4], [-0.5, 0]]
    assert batch.logps.dtype == torch.float64
    assert batch.reference_logps is None
    assert batch.previous_logps is not None
    assert batch.previous_logps.tolist() == [[-1, -2], [-5, 0]]
    assert batch.targets.tolist() == [[0.5, 1.5], [0.5, 0]]
    assert batch.lengths.tolist() == [[3, 2], [1, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    (batch.logps * torch.tensor([[1.0, 2.0], [3.0, 100.0]])).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[1, 1, 1], [2, 2, 2], [3, 3, 3]], "the empty entry has no gradient"


def test_missing_log_probs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt 'a': the loss needs reference_logps"):
        collate([example("a", 1)], torch.zeros(1, 1), frozenset({"reference"}))


def test_sequences_and_tokens() -> None:
    examples = [example("a", 3, 2), example("b", 1)]
    assert [(list(s.prompt_ids), len(s.response_ids)) for s in sequences(examples)] == [([5, 6], 3), ([5, 6], 2), ([5, 6], 1)]
    assert response_tokens(examples) == 6
