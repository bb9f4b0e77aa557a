"""The tabular policy: the batches that the losses are given, and the ways down."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.games.policies import uniform
from benchmarks.games.population import Population, whole_group
from benchmarks.games.tabular import Task, descend, logits, policy_of, stationary_policy
from raypref.losses.base import Loss, LossBatch, LossValue, losses
from raypref.selection.base import selections

PAIR = Population(np.array([[0, 0]]), np.array([[0, 1]]), np.array([[1.0, 0.0]]), np.array([1.0]))


def test_a_batch_of_a_pair() -> None:
    """log 0.2 and log 0.8 of the policy, log 1/2 twice of the reference; no previous policy."""
    batch = Task(losses.build({"type": "dpo"}), PAIR, reference=uniform(2)).batch(logits(np.array([0.2, 0.8])))
    np.testing.assert_allclose(batch.logps.exp(), [[0.2, 0.8]])
    np.testing.assert_allclose(batch.reference_logps.exp(), [[0.5, 0.5]])
    assert batch.previous_logps is None
    assert batch.logps.dtype == torch.float64
    assert batch.targets.tolist() == [[1.0, 0.0]]


def test_a_batch_with_revisions() -> None:
    """w = 0, l = 1, always; row 0 is pi(y), row 1 pi(y' | w), row 2 pi(y' | l): w, l given the prompt, given w too, given l too."""
    table, loss = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]), losses.build({"type": "srpo"})
    pairs = whole_group(loss, selections.build({"type": "best_worst"}), (0, 1), np.array([[0.5, 1.0], [0.0, 0.5]]))
    batch = Task(loss, pairs, reference=np.full((3, 2), 0.5)).batch(logits(table))
    np.testing.assert_allclose(batch.logps.exp(), [[0.1, 0.9, 0.2, 0.8, 0.3, 0.7]])
    assert batch.reference_logps.shape == (1, 6)
    assert batch.targets.tolist() == [[1.0, 0.0] * 3]
    assert batch.mask.shape == batch.lengths.shape == (1, 6)


class Counted(Loss):
    """log pi of the first response, times the mean over the batch of its probability."""

    type: str = "counted"

    def statistics(self, batch: LossBatch) -> dict[str, Tensor]:
        return {"mean": batch.logps[:, 0].exp()}

    def __call__(self, batch: LossBatch) -> LossValue:
        return LossValue(batch.statistics["mean"] * batch.logps[:, 0], {})


def test_statistics_are_expectations_without_a_gradient() -> None:
    """Examples of arms 0 and 1 with weights 1 and 3, policy (0.2, 0.8): mean = (0.2 + 3 * 0.8)/4 = 0.65, loss 0.65 (log 0.2 + 3 log 0.8)/4;
    its gradient 0.65 ((1/4, 3/4) - (0.2, 0.8))."""
    data = Population(np.zeros((2, 2), dtype=int), np.array([[0, 1], [1, 0]]), np.zeros((2, 2)), np.array([1.0, 3.0]))
    theta = logits(np.array([0.2, 0.8])).requires_grad_()
    value = Task(Counted(), data).objective(theta)
    assert value.item() == pytest.approx(0.65 * (np.log(0.2) + 3 * np.log(0.8)) / 4)
    value.backward()
    np.testing.assert_allclose(theta.grad, [[0.65 * 0.05, -0.65 * 0.05]])


def test_a_loss_over_tokens_is_divided_by_tokens() -> None:
    """Two tokens per pair: -(log 0.2 + log 0.8)/2."""
    value = Task(losses.build({"type": "sft"}), PAIR).objective(logits(np.array([0.2, 0.8])))
    assert value.item() == pytest.approx(-(np.log(0.2) + np.log(0.8)) / 2)


def test_a_loss_that_needs_another_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="'kto'"):
        Task(losses.build({"type": "kto"}), PAIR, reference=uniform(2)).objective(logits(uniform(2)))


def test_stationary_policy_of_cross_entropy() -> None:
    """-sum q log pi is least at q, from near and from far."""
    q = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    for start in (uniform(3), np.array([0.998, 0.001, 0.001])):
        found = stationary_policy(lambda theta: -(q * torch.log_softmax(theta, dim=-1)).sum(), start)
        np.testing.assert_allclose(found, q, atol=1e-12)


def test_no_stationary_policy_where_the_loss_has_no_minimum() -> None:
    with pytest.raises(ArithmeticError, match="the gradient is still"):
        stationary_policy(lambda theta: -(torch.log_softmax(theta, dim=-1)[0, 0] ** 3) * 1e6 + theta[0, 1], uniform(2), steps=20)


@pytest.mark.parametrize("adam", [False, True])
def test_descending(adam: bool) -> None:
    """The first of the policies is the start; -log pi(0) sends all mass to arm 0; one plain step of lr 1 moves theta by (1/2, -1/2)."""
    path = descend(lambda theta: -torch.log_softmax(theta, dim=-1)[0, 0], uniform(2), steps=200, lr=1.0, adam=adam)
    assert path.shape == (201, 1, 2)
    np.testing.assert_allclose(path[0, 0], [0.5, 0.5])
    if not adam:
        np.testing.assert_allclose(path[1, 0, 0] / path[1, 0, 1], np.e)
    assert path[-1, 0, 0] > 0.99


def test_logits_and_policies_are_inverse() -> None:
    policy = np.array([[0.2, 0.8], [0.6, 0.4]])
    np.testing.assert_allclose(policy_of(logits(policy)), policy)
