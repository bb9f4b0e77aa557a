"""Supervised fine-tuning on numbers worked out by hand."""

import numpy as np

from raypref.losses.best_response_sft import BestResponseSFT
from raypref.losses.sft import SFT
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch
from tests.losses.bed import gradient


def test_loss_is_the_summed_negative_log_likelihood() -> None:
    """-(-3) = 3; two answers to one prompt: 3 + 4 = 7; a sequence that is not there adds nothing."""
    batch = loss_batch([[-3.0, 99.0], [-3.0, -4.0]], [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, mask=[[True, False], [True, True]])
    assert SFT()(batch).loss.tolist() == [3.0, 7.0]


def test_the_learner_divides_by_tokens_and_no_frozen_policy_is_needed() -> None:
    assert SFT().reduction == "tokens"
    assert SFT().needs == frozenset()
    assert SFT().targets(PreferenceMatrix(np.full((1, 1), 0.5), "none"), (0,)).tolist() == [0.0]


def test_the_gradient_is_minus_one_everywhere() -> None:
    """The loss is linear, at log-probs of -5,000 too."""
    assert gradient(SFT(), loss_batch([[-5000.0, -7.5]], [[0.0, 0.0]], [[0.0, 0.0]])).tolist() == [[-1.0, -1.0]]


def test_per_answer_all_count_alike() -> None:
    """Means 3/10 and 4/20 a token, of one example's two answers: 1/4. An example of one: 3/10."""
    batch = loss_batch(
        [[-3.0, 99.0], [-3.0, -4.0]], [[0.0] * 2] * 2, [[0.0] * 2] * 2, mask=[[True, False], [True, True]], lengths=[[10, 0], [10, 20]]
    )
    loss = SFT(per="answer")
    np.testing.assert_allclose(loss(batch).loss.detach(), [0.3, 0.25])
    assert loss.reduction == "examples"


def test_best_response() -> None:
    """The first of each example, -3 of ten tokens; the others are not trained on."""
    batch = loss_batch([[-3.0, -9.0], [-5.0, -1.0]], [[0.0] * 2] * 2, [[1.0, 0.0]] * 2)
    value = BestResponseSFT()(batch)
    assert value.loss.tolist() == [3.0, 5.0]
    assert value.metrics["logps/chosen_per_token"].tolist() == [-0.3, -0.5]
    assert BestResponseSFT(average_logps=True)(batch).loss.tolist() == [0.3, 0.5]
    value.loss.sum().backward()
    assert batch.logps.grad.tolist() == [[-1.0, 0.0], [-1.0, 0.0]]
    assert BestResponseSFT().targets(PreferenceMatrix(np.full((2, 2), 0.5), "none"), (1, 0)).tolist() == [1.0, 0.0]
