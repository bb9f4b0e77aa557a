from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raypref import types
from raypref.training.collation import collate, response_tokens, sequence_tokens, sequences
from raypref.training.micro_batches import MicroBatch, Size, critical_path_tokens, distribute, plan_micro_batches
from raypref.training.packing import Packing, model_inputs

SIZES = st.lists(st.builds(Size, st.integers(1, 6), st.integers(2, 50)), min_size=1, max_size=40)


@settings(deadline=None)
@given(sizes=SIZES, ranks=st.integers(1, 5), budget=st.integers(1, 400))
def test_a_plan_holds_every_example_once_and_every_rank_in_step(sizes: list[Size], ranks: int, budget: int) -> None:
    found = distribute(sizes, ranks, budget)
    assert len({len(of_rank) for of_rank in found}) == 1, "under ZeRO-3 a rank with fewer passes hangs the others"
    micro = [item for of_rank in found for item in of_rank]
    counted = [k for item in micro if item.counted for k in item.examples]
    assert sorted(counted) == list(range(len(sizes)))
    for item in micro:
        cost = sum(sizes[k].rows for k in item.examples) * max(sizes[k].longest for k in item.examples)
        assert item.padded_tokens == cost
        assert cost <= budget or len(item.examples) == 1
    assert len(micro) - sum(item.counted for item in micro) < ranks, "no more repeats than fill the last round"
    assert found == distribute(list(sizes), ranks, budget)


@settings(deadline=None)
@given(sizes=SIZES, ranks=st.integers(2, 4), budget=st.integers(1, 400))
def test_ranks_are_balanced_to_one_micro_batch(sizes: list[Size], ranks: int, budget: int) -> None:
    found = distribute(sizes, ranks, budget)
    loads = [sum(item.padded_tokens for item in of_rank) for of_rank in found]
    assert max(loads) - min(loads) <= max(item.padded_tokens for of_rank in found for item in of_rank)


def test_two_ranks_get_like_shares_of_what_one_pass_does_not_hold() -> None:
    """Ten rows of 10 tokens and a budget of 90: cut at the budget they would be 9 and 1; even, they are 5 and 5."""
    found = distribute([Size(1, 10)] * 10, 2, 90)
    assert [[item.padded_tokens for item in of_rank] for of_rank in found] == [[50], [50]]


def test_a_plan_by_hand() -> None:
    """Pairs of 10, 8, 4, 4, 2 tokens, two ranks, 20 padded tokens: 2 x 10 fills one; 8 with 4 would be 4 x 8 = 32, so alone; 4 and 4 are
    4 x 4 = 16, the 2 would make it 6 x 4. Four micro-batches of 20, 16, 16, 4: the first round gives 20 and 16 to ranks 0 and 1, the
    second the costlier one to rank 1."""
    sizes = [Size(2, longest) for longest in (4, 10, 2, 8, 4)]
    assert distribute(sizes, 2, 20) == (
        (MicroBatch((1,), True, 20), MicroBatch((2,), True, 4)),
        (MicroBatch((0, 4), True, 16), MicroBatch((3,), True, 16)),
    )


def test_one_example_on_three_ranks_is_repeated_without_weight() -> None:
    assert distribute([Size(2, 7)], 3, 100) == tuple((MicroBatch((0,), counts, 14),) for counts in (True, False, False))


def test_a_group_is_halved_rather_than_repeated() -> None:
    """Four examples fit into one pass, but there are two ranks: two each."""
    found = distribute([Size(1, 5)] * 4, 2, 1000)
    assert [[(item.examples, item.counted) for item in of_rank] for of_rank in found] == [[((0, 1), True)], [((2, 3), True)]]


def draw(prompt: int, prompt_tokens: int, *responses: int) -> list[types.TokenSequence]:
    """Sequences with the same prompt, made of the token ``prompt``; no two responses are alike."""
    ids = np.full(prompt_tokens, prompt, dtype=np.int32)
    return [types.TokenSequence(ids, np.full(length, k, dtype=np.int32)) for k, length in enumerate(responses)]


ITEMS = st.lists(
    st.builds(lambda prompt, *lengths: draw(prompt, 3 + prompt, *lengths), st.integers(0, 4), st.integers(0, 9), st.integers(1, 9)),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("kind", ["padded", "prefix_sharing", "varlen"])
@settings(deadline=None)
@given(items=ITEMS, ranks=st.integers(1, 3), budget=st.integers(1, 200))
def test_a_share_holds_every_example_once_within_the_budget(
    kind: str, items: list[list[types.TokenSequence]], ranks: int, budget: int
) -> None:
    """What is laid out for a micro-batch has as many positions as planned; above the budget is only an example by itself."""
    packing = Packing(kind, 8)  # type: ignore[arg-type]
    found = plan_micro_batches(items, ranks, budget, packing)
    assert len({len(of_rank) for of_rank in found}) == 1
    micro = [item for of_rank in found for item in of_rank]
    assert sorted(k for item in micro if item.counted for k in item.examples) == list(range(len(items)))
    for item in micro:
        inputs = model_inputs([sequence for k in item.examples for sequence in items[k]], packing)
        assert inputs.input_ids.numel() == item.padded_tokens
        assert item.padded_tokens <= budget or len(item.examples) == 1
    assert sum(item.counted for item in micro) >= min(ranks, len(items)), "a rank repeats while others have several examples"


def test_examples_of_one_prompt_go_together() -> None:
    """Pairs (a, b), (b, c), (a, c) of a prompt of 10 tokens, responses of 4: with another prompt's pair between them they are still one
    row of 10 + 3 * 3 positions, the other a row of 10 + 2 * 3."""
    a, b, c = draw(1, 10, 4, 4, 4)
    items = [[a, b], draw(2, 10, 4, 4), [b, c], [a, c]]
    (of_rank,) = plan_micro_batches(items, 1, 20, Packing("prefix_sharing", 1000))
    assert of_rank == (MicroBatch((0, 2, 3), True, 19), MicroBatch((1,), True, 16))


def test_no_rank_repeats_while_another_has_two() -> None:
    """Four prompts of 200 tokens, four pairs each, responses of 300 (299 positions), eight ranks: two pairs of one prompt each, in two
    rows with a shared prefix of 200 + 2 * 299 = 798 positions."""
    items = [draw(prompt, 200, *(300,) * 8)[2 * k : 2 * k + 2] for prompt in range(4) for k in range(4)]
    found = plan_micro_batches(items, 8, 16_384, Packing("prefix_sharing", 1000))
    assert [len(of_rank) for of_rank in found] == [1] * 8
    micro = [item for of_rank in found for item in of_rank]
    assert [(item.counted, item.padded_tokens) for item in micro] == [(True, 2 * 798)] * 8
    assert all(len({k // 4 for k in item.examples}) == 1 for item in micro), "a prompt's pairs, and no other's"


def test_a_prompt_is_computed_twice_where_that_is_over_sooner() -> None:
    """Prompts of 4 tokens, one with a response of 21 (20 positions) and one with three, two ranks. Kept together: rows of 24 and of 64,
    over after 64. With one of the three beside the other prompt: two rows of 24 there, and one of 44."""
    items = [[sequence] for sequence in (*draw(1, 4, 21), *draw(2, 4, 21, 21, 21))]
    found = plan_micro_batches(items, 2, 1000, Packing("prefix_sharing", 1000))
    assert found == ((MicroBatch((0, 1), True, 48),), (MicroBatch((2, 3), True, 44),))
    assert critical_path_tokens(found) == 48


def test_what_is_laid_out_stays_within_the_budget() -> None:
    """A prompt of 10, responses a of 10 and b, c of 20 tokens, reach 20. a and b in one row of 38: 38 + 38^2 / 20 = 110, apart 2 (29 +
    29^2 / 20) = 142. The three in one row of 57: 219.5, in two of 38: 220.4, apart 213.2, which are 3 x 29 = 87 positions. Two rows, of
    (a, b) and of c, would be 76, within 78; but together they are laid out as three."""
    items = [[sequence] for sequence in draw(1, 10, 10, 20, 20)]
    (of_rank,) = plan_micro_batches(items, 1, 78, Packing("prefix_sharing", 20))
    assert of_rank == (MicroBatch((0, 1), True, 38), MicroBatch((2,), True, 29))


@pytest.mark.parametrize("kind", ["padded", "varlen"])
def test_a_prompt_that_is_not_shared_keeps_nothing_together(kind: str) -> None:
    """Pairs (a, b), (c, d), (b, e) of a prompt of 10, responses of 4: b is computed once, so that the first and the last are 3 rows of
    13 positions and the other is 2, on a rank of its own."""
    a, b, c, d, e = draw(1, 10, 4, 4, 4, 4, 4)
    found = plan_micro_batches([[a, b], [c, d], [b, e]], 2, 1000, Packing(kind))  # type: ignore[arg-type]
    assert found == ((MicroBatch((0, 2), True, 39),), (MicroBatch((1,), True, 26),))


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
    assert sequence_tokens(examples) == 6 + 2 + 2, "the prompt of two tokens once per example"
