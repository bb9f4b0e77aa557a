"""CPO, R-DPO, SimPO, RPO, SLiC-HF, ORPO and REBEL on numbers worked out by hand, and how all pair losses refuse what is no pair."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.losses.base import LossBatch, losses
from raypref.losses.cpo import CPO
from raypref.losses.orpo import ORPO, log_odds
from raypref.losses.r_dpo import RDPO
from raypref.losses.rebel import REBEL
from raypref.losses.rpo import RPO
from raypref.losses.simpo import SimPO
from raypref.losses.slic_hf import SLiCHF
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch, metrics_of
from tests.losses.bed import gradient

PAIR_LOSSES = sorted(name for name in losses.names() if losses.build({"type": name}).responses == (2, 2))


def pair(targets: Sequence[float] = (1.0, 0.0), lengths: Sequence[int] = (5, 10)) -> LossBatch:
    """Log-probs -10 and -20; log-ratios 2 and -1."""
    return loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [list(targets)], lengths=[list(lengths)])


def softplus(x: float) -> float:
    """-log sigmoid(-x)."""
    return math.log(1 + math.exp(x))


def test_cpo() -> None:
    """beta = 0.1: -log sigmoid(0.1 * 10) = log(1 + e^-1); alpha = 0.5: + 0.5 * 10, or a token + 0.5 * 10/5."""
    value = CPO(beta=0.1, alpha=0.5)(pair())
    assert value.loss.item() == pytest.approx(softplus(-1.0) + 5.0)
    metrics = metrics_of(value)
    assert (metrics["rewards/chosen"], metrics["rewards/rejected"], metrics["rewards/margins"]) == ([-1.0], [-2.0], [1.0]), "beta log pi"
    assert (metrics["rewards/accuracies"], metrics["logps/chosen"], metrics["logps/rejected"]) == ([1.0], [-10.0], [-20.0])
    assert metrics["loss/nll_chosen"] == [10.0]
    assert CPO(beta=0.1, alpha=0.5, average_sft=True)(pair()).loss.item() == pytest.approx(softplus(-1.0) + 1.0)


def test_r_dpo() -> None:
    """0.1 * 3 + 0.01 (5 - 10) = 0.25; with a longer chosen response 0.1 * 3 + 0.01 (10 - 5) = 0.35, and the gradient is smaller."""
    assert RDPO(beta=0.1, alpha=0.01)(pair()).loss.item() == pytest.approx(softplus(-0.25))
    assert RDPO(beta=0.1, alpha=0.01)(pair(lengths=(10, 5))).loss.item() == pytest.approx(softplus(-0.35))
    assert RDPO(beta=0.1, alpha=0)(pair()).loss.item() == pytest.approx(softplus(-0.3))
    shorter, longer = (gradient(RDPO(alpha=0.1), pair(lengths=lengths)).abs().max() for lengths in ((5, 10), (10, 5)))
    assert longer < shorter


def test_simpo() -> None:
    """Means -1 and -2 a token of ten, beta = 2, gamma = 0.5: 2 * 1 - 0.5 = 1.5; means -2 and -2: -0.5."""
    assert SimPO(beta=2, gamma=0.5)(pair(lengths=(10, 10))).loss.item() == pytest.approx(softplus(-1.5))
    value = SimPO(beta=2, gamma=0.5)(pair())
    assert value.loss.item() == pytest.approx(softplus(0.5))
    metrics = metrics_of(value)
    assert (metrics["rewards/chosen"], metrics["rewards/rejected"], metrics["rewards/accuracies"]) == ([-4.0], [-4.0], [0.5]), (
        "beta log pi/|y|"
    )
    assert (metrics["logps/chosen_per_token"], metrics["logps/rejected_per_token"]) == ([-2.0], [-2.0])


def test_rpo() -> None:
    """beta = 0.1, eta = 0.5: log(1 + e^-0.3) + 0.05 * 10; averaged: log-ratios 0.4 and -0.1, log(1 + e^-0.05) + 0.05 * 2; q = 0.8."""
    assert RPO(beta=0.1, eta=0.5)(pair()).loss.item() == pytest.approx(softplus(-0.3) + 0.5)
    assert RPO(beta=0.1, eta=0.5, average_logps=True)(pair()).loss.item() == pytest.approx(softplus(-0.05) + 0.1)
    soft = RPO(beta=0.1, eta=0.5, labels="soft")(pair((0.8, 0.2)))
    assert soft.loss.item() == pytest.approx(0.8 * softplus(-0.3) + 0.2 * softplus(0.3) + 0.5)


def test_slic_hf() -> None:
    """10 nats ahead of a margin of 1: only imitation, 0.1 * 10. Margin 15: 5 + 1. A token: max(0, 1 + 2 - 2) + 0.1 * 2."""
    assert SLiCHF(delta=1)(pair()).loss.item() == pytest.approx(1.0)
    assert SLiCHF(delta=15)(pair()).loss.item() == pytest.approx(6.0)
    assert SLiCHF(delta=1, average_logps=True)(pair()).loss.item() == pytest.approx(1.2)


def test_orpo() -> None:
    """p = 1/2 and 1/5 a token: odds 1 and 1/4, -log sigmoid(log 4) = log(5/4); weight 0.1: log 2 + 0.1 log(5/4)."""
    batch = loss_batch([[10 * math.log(0.5), 10 * math.log(0.2)]], [[0.0, 0.0]], [[1.0, 0.0]])
    assert ORPO(weight=0.1)(batch).loss.item() == pytest.approx(math.log(2) + 0.1 * math.log(1.25))


def test_odds_of_a_certain_answer_are_finite() -> None:
    """log p = 0 counts as -1e-6: log odds = -log(1e-6); log p = -5,000: -5,000."""
    logps = torch.tensor([0.0, -5000.0, math.log(0.5)], dtype=torch.float64)
    assert log_odds(logps).tolist() == pytest.approx([6 * math.log(10), -5000.0, 0.0], abs=1e-5)
    certain = loss_batch([[0.0, -20.0]], [[0.0, 0.0]], [[1.0, 0.0]])
    assert gradient(ORPO(), certain).isfinite().all()


def test_rebel() -> None:
    """eta = 2: 3/2 of log-ratio against a reward difference of 3/4: (3/4)^2."""
    assert REBEL(eta=2)(pair((0.5, -0.25))).loss.item() == pytest.approx(0.5625)


def test_rewards_of_a_bradley_terry_oracle() -> None:
    """Rewards 1, 0 and -2, on average -1/3: the mean scores are 4/3, 1/3 and -5/3. Win rates are row means."""
    rewards = np.array([1.0, 0.0, -2.0])
    values = 1 / (1 + np.exp(rewards[None, :] - rewards[:, None]))
    matrix = PreferenceMatrix(values, "Bradley-Terry")
    np.testing.assert_allclose(REBEL().targets(matrix, (0, 2)), [4 / 3, -5 / 3])
    np.testing.assert_allclose(REBEL(rewards="win_rate").targets(matrix, (0, 2)), values.mean(axis=1)[[0, 2]])


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_other_than_pairs_are_refused(name: str) -> None:
    matrix = PreferenceMatrix(np.full((3, 3), 0.5), "by hand")
    with pytest.raises(ConfigError, match=f"'{name}' needs pairs, the selection gave 3 responses"):
        losses.build({"type": name}).targets(matrix, (0, 1, 2))
