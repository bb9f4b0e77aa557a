"""REBEL, regression to relative rewards (arXiv 2404.16767): the pair's log-ratio difference is fitted to its reward difference.

Shapes: B examples of S = 2 sequences, winner first; K responses of a prompt.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import check_count, gap
from raypref.losses.terms.ratios import log_ratios
from raypref.preferences import mean_scores, win_rates
from raypref.types import PreferenceMatrix


@losses.register("rebel")
class REBEL(Loss):
    """( (1/eta) (r_1 - r_2) - (R_1 - R_2) )^2, r = log pi_theta(y | x) - log pi_t(y | x), R the rewards.

    Source: REBEL, Algorithm 1. It takes the rewards of a reward model; here they are made of the oracle's preferences: the mean score over
    the group, which for a Bradley-Terry oracle is the reward less the group's mean, or the win rate (the paper's general preferences).
    """

    type: str = "rebel"
    eta: PositiveFloat = 1.0
    """Step size, in nats for one unit of reward; above 0."""
    rewards: Literal["score", "win_rate"] = "score"
    """score: mean of log(P[i, j] / P[j, i]), in nats; win_rate: mean of P[i, j]; over the group, y_i itself included."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"previous"})
    responses: ClassVar[tuple[int, int | None]] = (2, 2)

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
        loss = (gap(r) / self.eta - gap(batch.targets).to(r.dtype)).square()
        return LossValue(loss, margins(r, batch.targets, batch.mask))
