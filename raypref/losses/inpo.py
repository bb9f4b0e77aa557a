"""INPO, iterative Nash policy optimisation (papers: arXiv 2407.00617).

Shapes: B examples of S = 2 sequences, chosen first; K responses of a prompt.

Like IPO it regresses a pair's margin on a constant, but two frozen policies hold the policy at once: pi_ref, from the KL terms of the
game, and pi_t, from which mirror descent takes its step. The theorem holds only if responses are drawn independently from pi_t.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator

from raypref.errors import ConfigError
from raypref.losses.base import Frozen, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, check_count, margin, regression
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix


@losses.register("inpo")
class INPO(PairLoss):
    """q (h - 1/(2 eta))^2 + (1 - q) (h + 1/(2 eta))^2, or (h - (w_w - w_l)/eta)^2 with ``labels: win_rate``.

    h = log(pi(y_w)/pi(y_l)) - (tau/eta) log(pi_ref(y_w)/pi_ref(y_l)) - ((eta - tau)/eta) log(pi_t(y_w)/pi_t(y_l)).

    Source: INPO section 3.2 (h) and (8), the loss of Algorithm 1, with q = 1; ``labels: soft`` is (8)'s expectation over its preference
    distribution (1), ``labels: win_rate`` is (7) with the win rates over the group in place of P(y > pi_t). Here eta is the inverse of
    a step size.
    """

    type: str = "inpo"
    eta: PositiveFloat = 0.005
    """Inverse of the step size of mirror descent; above 0 (the paper: 0.005)."""
    tau: Annotated[float, Field(ge=0)] | None = None
    """Strength of the regularisation towards pi_ref, from 0 (the ablation of section 4.3) to eta; default: eta / 3, as in the paper."""
    labels: Literal["hard", "soft", "win_rate"] = "hard"
    """q: 1, or the oracle's P(y_w > y_l); win_rate: regress on the difference of the pair's win rates, the diagonal's
    one half included."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tau is not None and self.tau > self.eta:
            raise ConfigError(
                f"loss.tau: {self.tau} is above loss.eta={self.eta}, so that pi_t would have a negative weight; set tau from 0 to eta"
            )
        return self

    @property
    def pull(self) -> float:
        """tau/eta in [0, 1]: the weight of pi_ref in the frozen log-probs; pi_t has the rest."""
        return 1 / 3 if self.tau is None else self.tau / self.eta

    @property
    def weights(self) -> dict[Frozen, float]:
        """Frozen policy -> weight of its log-probs; a policy of weight 0 is left out, so that its log-probs are not computed."""
        both: dict[Frozen, float] = {"reference": self.pull, "previous": 1.0 - self.pull}
        return {name: weight for name, weight in both.items() if weight > 0}

    @property
    def needs(self) -> frozenset[Frozen]:
        return frozenset(self.weights)

    @property
    def soft_labels(self) -> bool:
        return self.labels == "soft"

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (q, 1 - q), or the win rates divided by eta.

        Raises:
            Unanswered: a comparison that the label or the win rates depend on has no answer.
            ConfigError: the selection does not give pairs.
        """
        if self.labels != "win_rate":
            return super().targets(matrix, picked)
        check_count(self, picked)
        return matrix.win_rates(picked) / self.eta

    def __call__(self, batch: LossBatch) -> LossValue:
        import torch

        r = torch.stack([weight * log_ratios(batch, name) for name, weight in self.weights.items()]).sum(dim=0)
        if self.labels == "win_rate":
            loss = (margin(r) - margin(batch.targets).to(r.dtype)).square()
        else:
            loss = regression(margin(r), 1.0 / (2.0 * self.eta), batch.targets)
        return LossValue(loss, preference_metrics(r, batch))
