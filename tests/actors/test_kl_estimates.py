"""KL estimates of an optimiser step, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from actors.learner.results import MicroBatchResult, kl_examples, kl_sums
from raypref.config import RunConfig
from raypref.plan.memory_job import Job
from raypref.plan.model_shape import ModelShape
from raypref.types import Example


def example(sampled: list[float] | None, reference: list[float] | None = None) -> Example:
    sequences = len(sampled or reference or [0.0])
    ids = np.zeros(1, dtype=np.int32)
    return Example(
        prompt_index=0,
        prompt_id="p",
        prompt_ids=(ids,) * sequences,
        response_ids=(ids,) * sequences,
        targets=np.zeros(sequences),
        policy_version=0,
        reference_logps=None if reference is None else np.array(reference),
        sampled_logps=None if sampled is None else np.array(sampled),
    )


def result(examples: tuple[int, ...], logps: list[float], token_kl: list[float] | None = None) -> MicroBatchResult:
    kl = None if token_kl is None else torch.tensor(token_kl, dtype=torch.float64)
    return MicroBatchResult(examples, torch.tensor(logps, dtype=torch.float64), torch.zeros(len(examples)), kl)


def estimates(results: list[MicroBatchResult], examples: list[Example], *, token_kl: bool = False) -> dict[str, float]:
    return {name: value.item() / kl_examples(examples) for name, value in kl_sums(results, examples, token_kl=token_kl).items()}


def test_both_estimates_are_means_over_examples_of_means_over_their_sequences() -> None:
    """Example 0: -10 - -12 = 2 and -20 - -19 = -1, mean 1/2; example 1: -5 - -8 = 3. Mean 1.75.

    To pi_ref: (-12 + 13) = 1 and (-19 + 20) = 1, mean 1; -8 + 11 = 3. Mean 2. Two micro-batches, out of order.
    """
    examples = [example([-10.0, -20.0], [-13.0, -20.0]), example([-5.0], [-11.0])]
    results = [result((1,), [-8.0]), result((0,), [-12.0, -19.0])]
    assert estimates(results, examples) == pytest.approx({"kl_previous": 1.75, "kl": 2.0})


def test_ranks_add_up() -> None:
    """The same two examples on two ranks, of which a third has none: sums 1/2 and 3 and 0."""
    examples = [example([-10.0, -20.0]), example([-5.0])]
    parts = [[result((0,), [-12.0, -19.0])], [result((1,), [-8.0])], []]
    assert [kl_sums(part, examples, token_kl=False)["kl_previous"].item() for part in parts] == [0.5, 3.0, 0.0]


def test_sequences_that_were_not_sampled_do_not_count() -> None:
    """A revision and a mismatched response have no sampled log-prob: of four sequences two count, (2 + -1) / 2."""
    nan = float("nan")
    examples = [example([-10.0, -20.0, nan, nan], [-13.0, -20.0, -1.0, -1.0])]
    found = estimates([result((0,), [-12.0, -19.0, -99.0, -99.0])], examples)
    assert found == pytest.approx({"kl_previous": 0.5, "kl": 1.0})


def test_given_data_has_no_estimate() -> None:
    """Even where pi_ref's log-probs are there: the policy did not sample these responses."""
    assert kl_sums([result((0,), [-8.0])], [example(None, [-5.0])], token_kl=False) == {}


def test_without_a_slot_for_the_reference_there_is_no_kl_to_it() -> None:
    assert set(estimates([result((0,), [-8.0])], [example([-5.0])])) == {"kl_previous"}


def test_a_loss_that_reads_the_token_wise_kl_gives_the_kl() -> None:
    """The mean of 0.5 and 1.5; a rank without examples gives the same names."""
    examples = [example([-10.0, -20.0])]
    assert estimates([result((0,), [-12.0, -19.0], [0.5, 1.5])], examples, token_kl=True)["kl"] == 1.0
    assert kl_sums([], examples, token_kl=True).keys() == {"kl_previous", "kl"}


def test_measure_kl_gives_the_references_a_slot_for_pi_ref() -> None:
    """SPPO reads pi_t alone: one slot, or with measure_kl two. Given data has no KL to measure."""
    sections: dict[str, Any] = {"policy": {"path": "p"}, "loss": {"type": "sppo"}, "rollout": {"responses": 2}}
    measured = {"reference": {"measure_kl": True}}
    assert RunConfig.parse(sections).frozen_logps == {"previous"}
    both = RunConfig.parse(sections | measured)
    assert both.frozen_logps == {"previous", "reference"}
    assert RunConfig.parse(sections | measured | {"data": {"type": "preferences"}}).frozen_logps == {"previous"}
    shape = ModelShape(layers=1, hidden=8, intermediate=16, heads=2, kv_heads=1, head_width=4, vocabulary=32, parameters=1000)
    assert [Job.of(config, shape).reference_slots for config in (RunConfig.parse(sections), both)] == [1, 2]
