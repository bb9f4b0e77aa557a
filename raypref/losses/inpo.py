"""INPO, iterative Nash policy optimisation (papers: arXiv 2407.00617).

Shapes: B examples of S = 2 sequences, winner first; K responses of a prompt.

Like IPO it regresses a pair's margin on a constant, but its policy is held by two frozen ones at once: by pi_ref, which the game's KL
terms ask for, and by pi_t, which mirror descent steps from. Responses must be drawn independently from pi_t for the theorem to hold.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator

from raypref.errors import ConfigError
from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import check_count, gap, pair_labels, regression
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix


@losses.register("inpo")
class INPO(Loss):
    """q (h - 1/(2 eta))^2 + (1 - q) (h + 1/(2 eta))^2, or (h - (w_w - w_l)/eta)^2 with ``labels: win_rate``.

    h = log(pi(y_w)/pi(y_l)) - (tau/eta) log(pi_ref(y_w)/pi_ref(y_l)) - ((eta - tau)/eta) log(pi_t(y_w)/pi_t(y_l)).

    Source: INPO section 3.2 (h) and (8), the loss of Algorithm 1, with q = 1; ``labels: soft`` is (8)'s expectation over its preference
    distribution (1), ``labels: win_rate`` is (7) with the win rates over the group in place of P(y > pi_t). eta is an inverse rate here.
    """

    type: str = "inpo"
    eta: PositiveFloat = 0.005
    """Inverse of mirror descent's learning rate; above 0 (the paper: 0.005)."""
    tau: Annotated[float, Field(ge=0)] | None = None
    """Strength of the pull to pi_ref, from 0 (the ablation of section 4.3) to eta; not given: a third of eta, as in the paper."""
    labels: Literal["hard", "soft", "win_rate"] = "hard"
    """q: 1, or the oracle's P(y_w > y_l); win_rate: regress on the difference of the pair's win rates, the diagonal's one half included."""

    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tau is not None and self.tau > self.eta:
            raise ConfigError(f"loss.tau: {self.tau} is above loss.eta={self.eta}, and pi_t would count negatively; set tau from 0 to eta")
        return self

    @property
    def pull(self) -> float:
        """tau/eta in [0, 1]: pi_ref's part in the frozen log-probs; pi_t has the rest."""
        return 1 / 3 if self.tau is None else self.tau / self.eta

    @property
    def parts(self) -> dict[Frozen, float]:
        """Whose frozen log-probs are subtracted, and how much of each; those with no part are not asked for."""
        both: dict[Frozen, float] = {"reference": self.pull, "previous": 1.0 - self.pull}
        return {name: part for name, part in both.items() if part > 0}

    @property
    def needs(self) -> frozenset[Frozen]:  # type: ignore[override]  # the settings decide
        return frozenset(self.parts)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (q, 1 - q), or the win rates over eta.

        Raises:
            Unanswered: a comparison that the label or the win rates depend on has no answer.
            ConfigError: the selection does not give pairs.
        """
        if self.labels == "win_rate":
            check_count(self, picked)
            return matrix.win_rates(picked) / self.eta
        return pair_labels(self, matrix, picked, self.labels)

    def __call__(self, batch: LossBatch) -> LossValue:
        import torch

        r = torch.stack([part * log_ratios(batch, name) for name, part in self.parts.items()]).sum(dim=0)
        if self.labels == "win_rate":
            loss = (gap(r) - gap(batch.targets).to(r.dtype)).square()
        else:
            loss = regression(gap(r), 1.0 / (2.0 * self.eta), batch.targets)
        return LossValue(loss, margins(r, batch.targets, batch.mask))
