"""REBEL, regression to relative rewards (arXiv 2404.16767): regress the pair's log-ratio margin on its reward margin.

Shapes: B examples of S = 2 sequences, chosen first; K responses of a prompt.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from raypref.losses.base import Frozen, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, check_count, margin
from raypref.losses.terms.ratios import log_ratios
from raypref.preferences import mean_scores, win_rates
from raypref.types import PreferenceMatrix


@losses.register("rebel")
class REBEL(PairLoss):
    """( (1/eta) (r_1 - r_2) - (R_1 - R_2) )^2, r = log pi_theta(y | x) - log pi_t(y | x), R the rewards.

    Source: REBEL, Algorithm 1. It takes the rewards of a reward model; here they come from the oracle's preferences: the mean score over
    the group, which for a Bradley-Terry oracle is the reward minus the group's mean, or the win rate (the paper's general preferences).
    The loss of the authors' code is eta^2 times this one, ( (r_1 - r_2) - eta (R_1 - R_2) )^2: the same minimum with other step sizes.
    Log-odds are cut at 27.6 nats (probabilities at 1e-12): rewards that differ by more count as 27.6 apart, and so does every certain
    verdict of a judge. ``oracle/saturated`` is the share of such comparisons; where it is above 0, take ``rewards: win_rate``.
    """

    type: str = "rebel"
    eta: PositiveFloat = 1.0
    """Step size, in nats for one unit of reward; above 0."""
    rewards: Literal["score", "win_rate"] = "score"
    """score: mean of log(P[i, j] / P[j, i]), in nats, each cut at 27.6; win_rate: mean of P[i, j]; both over the group, y_i
    itself included."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"previous"})

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the rewards.

        Raises:
            Unanswered: a reward depends on a comparison without an answer.
            ConfigError: the selection does not give pairs.
        """
        check_count(self, picked)
        return (mean_scores if self.rewards == "score" else win_rates)(matrix.values, picked)

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "previous")
        loss = (margin(r) / self.eta - margin(batch.targets).to(r.dtype)).square()
        return LossValue(loss, preference_metrics(r, batch))
