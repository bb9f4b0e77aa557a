"""SPO on numbers worked out by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.losses.base import LossBatch, losses
from raypref.losses.spo import SPO
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch, metrics_of
from tests.losses.bed import gradient, with_statistics

MATRIX = PreferenceMatrix(np.array([[0.5, 0.8, 0.9], [0.2, 0.5, 0.7], [0.1, 0.3, 0.5]]), "by hand")


def pair(targets: Sequence[float] = (1.0, 0.0)) -> LossBatch:
    """log pi = (-10, -20)."""
    return loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [list(targets)])


def three(targets: Sequence[float] = (0.0, -1.0, -2.0)) -> LossBatch:
    """pi = (1/2, 1/4, 1/4)."""
    return loss_batch([[math.log(0.5), math.log(0.25), math.log(0.25)]], [[-1.0, -1.0, -1.0]], [list(targets)])


def test_loss_of_one_pair() -> None:
    """(9), alpha = 0.1: -10 log sigmoid(0.1 * 10) = 10 log(1 + e^-1); (10): -(-10 + 20)/2 = -5."""
    value = SPO(alpha=0.1, gamma=0)(pair())
    assert value.loss.item() == pytest.approx(10 * math.log(1 + math.exp(-1)))
    metrics = metrics_of(value)
    assert (metrics["rewards/chosen"], metrics["rewards/rejected"]) == ([-10.0], [-20.0]), "the log-probs: there is no frozen policy"
    assert (metrics["rewards/margins"], metrics["rewards/accuracies"], metrics["loss/weight"]) == ([10.0], [1.0], [1.0])
    assert SPO(alpha=0, gamma=0)(pair()).loss.item() == -5.0


def test_loss_of_an_uncertain_pair() -> None:
    """q = 0.8: 0.8 * 10 log(1 + e^-1) + 0.2 * 10 log(1 + e); at alpha = 0, -0.8 * 5 + 0.2 * 5 = -3."""
    value = SPO(alpha=0.1, gamma=0, labels="soft")(pair((0.8, 0.2)))
    assert value.loss.item() == pytest.approx(8 * math.log(1 + math.exp(-1)) + 2 * math.log(1 + math.e))
    assert SPO(alpha=0, gamma=0, labels="soft")(pair((0.8, 0.2))).loss.item() == pytest.approx(-3.0)


def test_loss_of_a_best_of_n_set() -> None:
    """(16): alpha = 1: -log(1/2) = log 2; alpha = 2: -1/2 log( (1/4) / (1/4 + 1/16 + 1/16) ) = 1/2 log(3/2)."""
    assert SPO(form="best_of_n", alpha=1, gamma=0)(three()).loss.item() == pytest.approx(math.log(2))
    assert SPO(form="best_of_n", alpha=2, gamma=0)(three()).loss.item() == pytest.approx(math.log(1.5) / 2)


def test_loss_of_a_ranking() -> None:
    """(17), alpha = 1: log 2 for the first place, log 2 for the second of the two that are left. d = 1/2: (1/2 + 1/4) log 2."""
    assert SPO(form="ranking", alpha=1, gamma=0)(three()).loss.item() == pytest.approx(2 * math.log(2))
    assert SPO(form="ranking", alpha=1, gamma=0, decay=0.5)(three()).loss.item() == pytest.approx(0.75 * math.log(2))


@pytest.mark.parametrize("form", ["best_of_n", "ranking"])
def test_a_set_of_two_is_a_pair(form: str) -> None:
    for alpha in (0.0, 0.1):
        settings = {"alpha": alpha, "gamma": 0.0}
        assert SPO(form=form, **settings)(pair()).loss.item() == pytest.approx(SPO(**settings)(pair()).loss.item())


@pytest.mark.parametrize("form", ["pair", "best_of_n", "ranking"])
def test_alpha_zero_is_the_limit_of_the_gradient(form: str) -> None:
    batch = pair() if form == "pair" else three()
    settings = {"form": form, "gamma": 0.0}
    torch.testing.assert_close(gradient(SPO(alpha=0, **settings), batch), gradient(SPO(alpha=1e-7, **settings), batch), atol=1e-6, rtol=0)


def test_weight() -> None:
    """(13), gamma = 1/2: pairs with pi_w + pi_l = 1/4 and 1/16, so m = 1/2 and 1/4, their mean 3/8.

    mu = 2 sigmoid(1/8) and 2 sigmoid(-1/8).
    """
    eighth, thirty_second = math.log(1 / 8), math.log(1 / 32)
    batch = loss_batch([[eighth] * 2, [thirty_second] * 2], [[0.0] * 2] * 2, [[1.0, 0.0]] * 2)
    loss = SPO(alpha=1, gamma=0.5)
    assert loss.statistics(batch)["mass"].tolist() == pytest.approx([0.5, 0.25])
    value = loss(with_statistics(loss, batch))
    expected = [2 / (1 + math.exp(-1 / 8)), 2 / (1 + math.exp(1 / 8))]
    assert value.metrics["loss/weight"].tolist() == pytest.approx(expected)
    assert value.loss.tolist() == pytest.approx([math.log(2) * mu for mu in expected])


def test_weights_of_a_ranking() -> None:
    """gamma = 1: the masses are 1 and 1/2, their mean 3/4: mu = 2 sigmoid(1/4) and 2 sigmoid(-1/4), which add up to 2."""
    loss = SPO(form="ranking", alpha=1, gamma=1)
    batch = with_statistics(loss, three())
    assert batch.statistics["mass"].item() == pytest.approx(0.75)
    assert loss(batch).loss.item() == pytest.approx(2 * math.log(2))


def test_the_weight_passes_no_gradient_and_does_not_underflow() -> None:
    """(14): the gradient is mu times the unweighted one. Sequences of -5,000 nats: m = exp(0.01 * -5,000) = e^-50, not 0."""
    batch = loss_batch([[-5000.0, -5010.0], [-10.0, -20.0]], [[0.0] * 2] * 2, [[1.0, 0.0]] * 2)
    loss, plain = SPO(alpha=0.1), SPO(alpha=0.1, gamma=0)
    assert loss.statistics(batch)["mass"][0].item() == pytest.approx(math.exp(-50), rel=1e-4)
    weighted = with_statistics(loss, batch)
    weight = loss(weighted).metrics["loss/weight"]
    torch.testing.assert_close(gradient(loss, weighted), weight[:, None] * gradient(plain, batch))


def test_in_dataset_regularisers() -> None:
    """Table 4 beside a preference loss of -5, coefficient 0.1: -log pi(y_w) = 10; the token-wise KL of 3 and 5, on average 4; with
    log-ratios 2 and -1, (2 e^2 - e^-1)/2 = 7.2051.
    """
    base = {"alpha": 0.0, "gamma": 0.0, "coefficient": 0.1}
    assert SPO(regulariser="log_prob", **base)(pair()).loss.item() == pytest.approx(-5 + 1.0)
    with_kl = replace(pair(), token_kl=torch.tensor([[3.0, 5.0]], dtype=torch.float64))
    assert SPO(regulariser="tokenwise", **base)(with_kl).loss.item() == pytest.approx(-5 + 0.4)
    value = SPO(regulariser="importance", **base)(pair())
    assert value.loss.item() == pytest.approx(-5 + 0.72051, abs=1e-5)
    assert value.metrics["loss/regulariser"].item() == pytest.approx(7.2051, abs=1e-4)


def test_importance_sampling_goes_on_as_a_tangent() -> None:
    """Log-ratios 25 and 0: e^20 (20 + 5 * 21) / 2, with gradient e^20 * 21 / 2 in the first and 1/2 in the second."""
    batch = loss_batch([[-10.0, -20.0]], [[-35.0, -20.0]], [[0.5, 0.5]])
    loss = SPO(alpha=0, gamma=0, labels="soft", regulariser="importance", coefficient=1)
    assert loss(batch).loss.item() == pytest.approx(math.exp(20) * 125 / 2)
    torch.testing.assert_close(gradient(loss, batch), torch.tensor([[math.exp(20) * 21 / 2, 0.5]], dtype=torch.float64))


def test_the_token_wise_regulariser_trains_through_the_kl() -> None:
    leaf = torch.tensor([[3.0, 5.0]], dtype=torch.float64, requires_grad=True)
    loss = SPO(regulariser="tokenwise", gamma=0, coefficient=0.1)
    assert loss.token_kl
    loss(replace(pair(), token_kl=leaf)).loss.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.tensor([[0.05, 0.05]], dtype=torch.float64))
    with pytest.raises(ValueError, match="'tokenwise' needs the token-wise KL"):
        loss(pair())


def test_targets() -> None:
    assert SPO().targets(MATRIX, (0, 2)).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(SPO(labels="soft").targets(MATRIX, (0, 2)), [0.9, 0.1])
    assert SPO(form="best_of_n").targets(MATRIX, (1, 0, 2)).tolist() == [1.0, 0.0, 0.0]
    assert SPO(form="ranking").targets(MATRIX, (0, 1, 2)).tolist() == [0.0, -1.0, -2.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "ranking", "labels": "soft"}, r"loss\.labels: 'soft' is for pairs"),
        ({"decay": 0.5}, r"loss\.decay: only a ranking has places"),
        ({"alpha": -1}, r"loss\.alpha: .* greater than or equal to 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        losses.build({"type": "spo", **settings})


def test_selections_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="'spo' needs pairs, the selection gave 3"):
        SPO().targets(MATRIX, (0, 1, 2))
    with pytest.raises(ConfigError, match="'spo' needs at least 2 responses, the selection gave 1"):
        SPO(form="ranking").targets(MATRIX, (0,))


def test_the_first_pass_is_only_made_for_weights() -> None:
    assert SPO().has_statistics
    assert not SPO(gamma=0).has_statistics
