"""SPPO, self-play preference optimisation (papers: arXiv 2405.00675).

Shapes: B examples, S sequences of an example (2, or all K of the prompt), K responses.

DPO and IPO depend only on the difference of a pair's log-ratios. SPPO instead regresses the log-ratio of each response on its win rate
against the policy that sampled it, so that the chosen response's probability rises and the rejected one's falls.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, model_validator

from raypref.errors import ConfigError
from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import answered
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix


@losses.register("sppo")
class SPPO(Loss):
    """sum_i ( log pi_theta(y_i | x) - log pi_t(y_i | x) - eta (p_i - b) )^2.

    Source: SPPO (3.6) with p_i the win rate over the group (``against: group``), (E.1) with p_i = P(y_i > the other one)
    (``against: pair``); the baseline b in place of 1/2: Appendix B. (3.6) is an expectation over the responses and (E.1) a sum over two:
    ``average_terms`` chooses. The log-probs are sums over the response tokens.
    """

    type: str = "sppo"
    eta: PositiveFloat = 1000.0
    """Step size of the multiplicative weights, in nats for one unit of win rate; above 0 (the paper: 1000)."""
    baseline: float | Literal["half", "ordered", "estimate"] = "half"
    """b, in place of (1/eta) log Z: half (the limit of disordered preferences), a number, ordered (the limit of fully ordered preferences),
    or estimate (from the win rates of the prompt's responses; only with ``against: group``)."""
    against: Literal["group", "pair"] = "group"
    """p_i: the win rate over the K responses of the prompt, y_i itself included; or P(y_i > the pair's other response)."""
    labels: Literal["soft", "hard"] = "soft"
    """With ``against: pair``: the oracle's probability, or 1 for the chosen and 0 for the rejected response."""
    average_terms: bool = False
    """Take the mean of the example's squared terms, as the authors' code does, instead of their sum."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"previous"})

    @property
    def responses(self) -> tuple[int, int | None]:
        return (2, 2) if self.against == "pair" else (1, None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.against == "group" and self.labels == "hard":
            raise ConfigError("loss.labels: 'hard' is for single pairs; set loss.against=pair, or loss.labels=soft")
        if self.against == "pair" and self.baseline == "estimate":
            raise ConfigError("loss.baseline: 'estimate' is computed from win rates; set loss.against=group, or another baseline")
        return self

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(S,) eta (p_i - b), in nats.

        Raises:
            Unanswered: a win rate depends on a comparison without an answer.
            ConfigError: ``against: pair``, and the selection does not give pairs.
        """
        chances = matrix.win_rates(picked) if self.against == "group" else self._pair_chances(matrix, picked)
        return self.eta * (chances - self._baseline(matrix))

    def _pair_chances(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        if len(picked) != 2:
            raise ConfigError(
                f"loss.against: 'pair' needs examples of two responses, the selection gave {len(picked)}; set loss.against=group"
            )
        if self.labels == "hard":
            return np.array([1.0, 0.0])
        chosen, rejected = picked
        return np.array([answered(matrix, chosen, rejected), answered(matrix, rejected, chosen)])

    def _baseline(self, matrix: PreferenceMatrix) -> float:
        if self.baseline == "half":
            return 0.5
        if self.baseline == "ordered":
            return ordered_baseline(self.eta)
        if self.baseline == "estimate":
            return estimated_baseline(matrix.win_rates(), self.eta)
        return float(self.baseline)

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "previous")
        residuals = (r - batch.targets.to(r.dtype)).masked_fill(~batch.mask, 0.0)
        loss = residuals.square().sum(dim=1)
        if self.average_terms:
            loss = loss / batch.mask.sum(dim=1)
        return LossValue(loss, preference_metrics(r, batch))


def ordered_baseline(eta: float) -> float:
    """(1/eta) log((e^eta - 1) / eta), without computing e^eta.

    Source: SPPO Appendix B, (1/eta) log Z for a large group in which every response beats all later ones. Tends to 1/2 for small eta
    and to 1 for large eta.
    """
    return 1.0 + math.log(-math.expm1(-eta) / eta) / eta


def estimated_baseline(rates: NDArray[np.float64], eta: float) -> float:
    """(1/eta) log mean_k exp(eta w_k), without overflow.

    Source: SPPO Appendix B, Z over the prompt's responses; (3.5) itself samples new ones.

    Args:
        rates: (K,) win rates w_k.
    """
    highest = float(rates.max())
    return highest + float(np.log(np.exp(eta * (rates - highest)).mean())) / eta
