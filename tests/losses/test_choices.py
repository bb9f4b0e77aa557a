"""The Plackett-Luce choice, and the two losses that are nothing but it: S-DPO and ranking DPO."""

import itertools
import math

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.losses.base import LossBatch
from raypref.losses.dpo import DPO
from raypref.losses.ranking_dpo import RankingDPO
from raypref.losses.s_dpo import SDPO
from raypref.losses.terms.choices import choice_terms, log_mass, mean_choice_terms
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch

MATRIX = PreferenceMatrix(np.full((3, 3), 0.5), "by hand")


def three() -> LossBatch:
    """Log-ratios 2, -1 and 0."""
    return loss_batch([[-10.0, -20.0, -30.0]], [[-12.0, -19.0, -30.0]], [[1.0, 0.0, 0.0]])


def test_choices_by_hand() -> None:
    """exp(v) = 4, 1, 3: chances 4/8, 1/4 and 1; what is left: 8, 4, 3; of values: means 2, 2, 3 less 4, 1, 3."""
    weights = torch.tensor([[4.0, 1.0, 3.0, 99.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(choice_terms(weights.log(), mask), torch.tensor([[2.0, 4.0, 1.0, 1.0]], dtype=torch.float64).log())
    torch.testing.assert_close(log_mass(weights.log(), mask), torch.tensor([[8.0, 4.0, 3.0, 1.0]], dtype=torch.float64).log())
    expected = torch.tensor([[8 / 3 - 4, 2.0 - 1, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(mean_choice_terms(weights, mask), expected)


def test_the_chances_of_all_rankings_add_up_to_one() -> None:
    """SPO (3), over the 24 rankings of four."""
    values = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rankings = torch.stack([values[list(order)] for order in itertools.permutations(range(4))])
    chances = (-choice_terms(rankings, torch.ones(24, 4, dtype=torch.bool)).sum(dim=1)).exp()
    assert chances.sum().item() == pytest.approx(1.0)


def test_s_dpo() -> None:
    """beta = 0.1, r = (2, -1, 0): log(1 + e^-0.3 + e^-0.2)."""
    assert SDPO(beta=0.1)(three()).loss.item() == pytest.approx(math.log(1 + math.exp(-0.3) + math.exp(-0.2)))


def test_ranking_dpo() -> None:
    """The second place besides: log(1 + e^(0.1 (0 + 1)))."""
    expected = math.log(1 + math.exp(-0.3) + math.exp(-0.2)) + math.log(1 + math.exp(0.1))
    assert RankingDPO(beta=0.1)(three()).loss.item() == pytest.approx(expected)


def test_with_two_responses_both_are_dpo() -> None:
    batch = loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [[1.0, 0.0]])
    expected = DPO(beta=0.3)(batch).loss.item()
    assert SDPO(beta=0.3)(batch).loss.item() == pytest.approx(expected)
    assert RankingDPO(beta=0.3)(batch).loss.item() == pytest.approx(expected)


def test_targets() -> None:
    assert SDPO().targets(MATRIX, (2, 0, 1)).tolist() == [1.0, 0.0, 0.0]
    assert RankingDPO().targets(MATRIX, (2, 0, 1)).tolist() == [0.0, -1.0, -2.0]
    for loss in (SDPO(), RankingDPO()):
        with pytest.raises(ConfigError, match=f"'{loss.type}' needs at least 2 responses, the selection gave 1 .*selection.type=ranking"):
            loss.targets(MATRIX, (0,))
