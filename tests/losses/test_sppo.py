"""SPPO on numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.losses.base import losses
from raypref.losses.sppo import SPPO, estimated_baseline, ordered_baseline
from raypref.preferences import Unanswered
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch

# Row means 2.2/3, 1.4/3 and 0.9/3: response 0 is best, response 2 is worst.
MATRIX = PreferenceMatrix(np.array([[0.5, 0.8, 0.9], [0.2, 0.5, 0.7], [0.1, 0.3, 0.5]]), "by hand")


def test_targets_of_the_papers_experiment() -> None:
    """eta (w - 1/2) with eta = 30: 30 (2.2/3 - 0.5) = 7 for the best, 30 (0.9/3 - 0.5) = -6 for the worst."""
    np.testing.assert_allclose(SPPO(eta=30).targets(MATRIX, (0, 2)), [7, -6])


def test_targets_of_all_responses() -> None:
    """The middle one: 30 (1.4/3 - 0.5) = -1. With baseline 0.4 every target is 3 higher."""
    np.testing.assert_allclose(SPPO(eta=30).targets(MATRIX, (0, 1, 2)), [7, -1, -6])
    np.testing.assert_allclose(SPPO(eta=30, baseline=0.4).targets(MATRIX, (0, 1, 2)), [10, 2, -3])


def test_targets_of_the_pair_form() -> None:
    """(E.1), eta = 10: soft 10 (0.9 - 0.5) = 4 and -4; hard 10 (1 - 0.5) = 5 and -5."""
    np.testing.assert_allclose(SPPO(eta=10, against="pair").targets(MATRIX, (0, 2)), [4, -4])
    np.testing.assert_allclose(SPPO(eta=10, against="pair", labels="hard").targets(MATRIX, (0, 2)), [5, -5])


def test_loss_of_one_pair() -> None:
    """Log-ratios -10 - (-12) = 2 and -20 - (-19) = -1 against targets 3 and -2: (2 - 3)^2 + (-1 + 2)^2 = 2; their mean is 1."""
    batch = loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [[3.0, -2.0]])
    assert SPPO()(batch).loss.tolist() == [2.0]
    assert SPPO(average_terms=True)(batch).loss.tolist() == [1.0]


def test_metrics_of_chosen_and_rejected() -> None:
    """Of three sequences the first is the chosen one (target 7), the last the rejected one (-6): log-ratios 1 and 4, in the wrong order."""
    batch = loss_batch([[-4.0, -6.0, -6.0]], [[-5.0, -8.0, -10.0]], [[7.0, -1.0, -6.0]])
    metrics = SPPO()(batch).metrics
    assert {name: value.item() for name, value in metrics.items() if name.startswith("rewards/")} == {
        "rewards/chosen": 1.0,
        "rewards/rejected": 4.0,
        "rewards/margins": -3.0,
        "rewards/accuracies": 0.0,
    }
    assert (metrics["logps/chosen"].item(), metrics["logps/rejected"].item()) == (-4.0, -6.0)
    assert not any(value.requires_grad for value in metrics.values())


def test_a_sequence_that_is_not_there_changes_nothing() -> None:
    """The second example has lost its third response; what the padding holds does not matter."""
    whole = loss_batch([[-4.0, -6.0]], [[-5.0, -8.0]], [[7.0, -1.0]])
    padded = loss_batch([[-4.0, -6.0, 99.0]], [[-5.0, -8.0, 1.0]], [[7.0, -1.0, -50.0]], mask=[[True, True, False]])
    for loss in (SPPO(), SPPO(average_terms=True)):
        expected, found = loss(whole), loss(padded)
        assert found.loss.tolist() == expected.loss.tolist()
        assert {k: v.tolist() for k, v in found.metrics.items()} == {k: v.tolist() for k, v in expected.metrics.items()}
        found.loss.sum().backward()
    assert padded.logps.grad is not None
    assert padded.logps.grad[0, 2] == 0


def test_float32_is_kept_and_finite_at_long_sequences() -> None:
    batch = loss_batch([[-5000.0, -4000.0]], [[-5001.0, -4001.0]], [[450.0, -450.0]])
    single = type(batch)(
        *(getattr(batch, k).float() for k in ("logps", "reference_logps", "previous_logps")), batch.targets, batch.lengths, batch.mask
    )
    loss = SPPO()(single).loss
    assert loss.dtype == torch.float32
    assert loss.item() == (1 - 450) ** 2 + (1 + 450) ** 2


def test_ordered_baseline() -> None:
    """(1/eta) log((e^eta - 1)/eta): 0.5413 for eta = 1; for eta = 1000 it is 1 - log(1000)/1000; one half in the limit of eta = 0."""
    assert ordered_baseline(1.0) == pytest.approx(math.log(math.e - 1))
    assert ordered_baseline(1000.0) == pytest.approx(1 - math.log(1000) / 1000)
    assert ordered_baseline(1e-6) == pytest.approx(0.5, abs=1e-6)


def test_ordered_baseline_is_what_the_estimate_tends_to() -> None:
    """Appendix B: for fully ordered responses w_i = (i - 1/2) / K, and the estimate tends to the ordered baseline."""
    rates = (np.arange(100_000) + 0.5) / 100_000
    for eta in (1.0, 1000.0):
        assert estimated_baseline(rates, eta) == pytest.approx(ordered_baseline(eta), abs=1e-4)


def test_estimated_baseline() -> None:
    """w = (0.7, 0.3), eta = 10: (1/10) log((e^7 + e^3) / 2) = 0.63250; at eta = 1000 the highest rate decides: 0.7 - log(2)/1000."""
    rates = np.array([0.7, 0.3])
    assert estimated_baseline(rates, 10.0) == pytest.approx(math.log((math.exp(7) + math.exp(3)) / 2) / 10)
    assert estimated_baseline(rates, 1000.0) == pytest.approx(0.7 - math.log(2) / 1000)


def test_the_estimate_normalises() -> None:
    """With b = (1/eta) log Z over the group, the targets are log-ratios of a distribution: mean_k exp(target_k) = 1."""
    targets = SPPO(eta=3, baseline="estimate").targets(MATRIX, (0, 1, 2))
    assert np.exp(targets).mean() == pytest.approx(1.0)


def test_a_win_rate_with_a_hole_is_refused() -> None:
    values = MATRIX.values.copy()
    values[0, 1] = values[1, 0] = np.nan
    holed = PreferenceMatrix(values, "by hand")
    with pytest.raises(Unanswered):
        SPPO().targets(holed, (0, 2))
    with pytest.raises(Unanswered):
        SPPO(against="pair").targets(holed, (0, 1))
    np.testing.assert_allclose(SPPO(eta=10, against="pair").targets(holed, (0, 2)), [4, -4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "hard"}, r"loss\.labels: 'hard' is for single pairs"),
        ({"against": "pair", "baseline": "estimate"}, r"loss\.baseline: 'estimate' is computed from win rates"),
        ({"eta": 0}, r"loss\.eta: .* greater than 0"),
        ({"beta": 1}, r"loss\.beta: unknown key"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        losses.build({"type": "sppo", **settings})


def test_the_pair_form_needs_pairs() -> None:
    with pytest.raises(ConfigError, match="needs examples of two responses, the selection gave 3"):
        SPPO(against="pair").targets(MATRIX, (0, 1, 2))


def test_needs_the_policy_that_sampled() -> None:
    assert SPPO().needs == {"previous"}
