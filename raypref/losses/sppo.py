"""SPPO, self-play preference optimisation (papers: arXiv 2405.00675).

Shapes: B examples, S sequences of an example (2, or all K of the prompt), K responses.

Unlike DPO and IPO, which see only the difference of a pair's log-ratios, SPPO regresses each response's own log-ratio on its own win
rate against the policy that sampled it. The winner's probability therefore rises, and the loser's falls, each for itself.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, model_validator

from raypref.errors import ConfigError
from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.ratios import log_ratios
from raypref.preferences import Unanswered
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
    """b, in place of (1/eta) log Z: half (the limit of disordered preferences), a number of your own, ordered (their fully ordered limit),
    or estimate (from the win rates of the prompt's own responses; only with ``against: group``)."""
    against: Literal["group", "pair"] = "group"
    """p_i: the win rate over the K responses of the prompt, y_i itself included; or the chance against the pair's other response."""
    labels: Literal["soft", "hard"] = "soft"
    """With ``against: pair``: the oracle's probability, or 1 for the winner and 0 for the loser."""
    average_terms: bool = False
    """Mean of the example's squared terms, as the authors' code has it, instead of their sum."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"previous"})

    @property
    def responses(self) -> tuple[int, int | None]:  # type: ignore[override]  # the settings decide
        return (2, 2) if self.against == "pair" else (1, None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.against == "group" and self.labels == "hard":
            raise ConfigError("loss.labels: 'hard' is for single pairs; set loss.against=pair, or loss.labels=soft")
        if self.against == "pair" and self.baseline == "estimate":
            raise ConfigError("loss.baseline: 'estimate' is made of win rates; set loss.against=group, or another baseline")
        return self

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(S,) eta (p_i - b), in nats.

        Raises:
            Unanswered: a win rate depends on a comparison without an answer.
            ConfigError: the pair form was given other than two sequences.
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
        winner, loser = picked
        if np.isnan(matrix.values[winner, loser]):
            raise Unanswered(f"the comparison of responses {winner} and {loser} has no answer")
        return np.array([matrix.values[winner, loser], matrix.values[loser, winner]])

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
        misses = (r - batch.targets.to(r.dtype)).masked_fill(~batch.mask, 0.0)
        loss = misses.square().sum(dim=1)
        if self.average_terms:
            loss = loss / batch.mask.sum(dim=1)
        return LossValue(loss, margins(r, batch.targets, batch.mask))


def ordered_baseline(eta: float) -> float:
    """(1/eta) log((e^eta - 1) / eta), without computing e^eta.

    Source: SPPO Appendix B, (1/eta) log Z for a large group in which every response beats all later ones. Tends to 1/2 for small eta
    and to 1 for large eta.
    """
    return 1.0 + math.log(-math.expm1(-eta) / eta) / eta


def estimated_baseline(rates: NDArray[np.float64], eta: float) -> float:
    """(1/eta) log mean_k exp(eta w_k), without overflow.

    Source: SPPO Appendix B, Z over the prompt's own responses; (3.5) itself takes fresh ones.

    Args:
        rates: (K,) win rates w_k.
    """
    highest = float(rates.max())
    return highest + float(np.log(np.exp(eta * (rates - highest)).mean())) / eta
