"""KTO, Kahneman-Tversky optimisation (arXiv 2402.01306): each response is desirable or undesirable by itself, relative to the policy's KL.

Data without pairs has K = 1: ``data.layout: unpaired``. ``rewards/margins`` is then beta (r - z0), times -1 if y is undesirable, and
``rewards/accuracies`` counts where that is above 0.

Shapes: B examples of K responses of a prompt, followed by K sequences of that prompt with another prompt's responses: S = 2 K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat

from raypref.errors import ConfigError
from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.ratios import log_ratios
from raypref.preferences import TIE
from raypref.types import PreferenceMatrix

if TYPE_CHECKING:
    from torch import Tensor


@losses.register("kto")
class KTO(Loss):
    """lambda_D (1 - sigmoid(beta (r - z0))) if y is desirable, lambda_U (1 - sigmoid(beta (z0 - r))) if not; the example's mean.

    r = log pi_theta(y | x) - log pi_ref(y | x).

    z0 = max(0, the global batch's mean of r over mismatched pairs of prompt and response), an estimate of KL(pi_theta || pi_ref),
    without gradient.

    Source: KTO (8) and its estimate of z0; SPPO (E.4) is the same for a pair, times 2, with lambda_D = lambda_U = 1.
    """

    type: str = "kto"
    beta: PositiveFloat = 0.1
    """How fast gains and losses saturate; above 0."""
    lambda_desirable: NonNegativeFloat = 1.0
    """lambda_D, the weight of desirable responses."""
    lambda_undesirable: NonNegativeFloat = 1.0
    """lambda_U, the weight of undesirable ones."""
    desirable: Literal["chosen", "win_rate"] = "chosen"
    """chosen: the first response of the example; win_rate: those with a win rate above 1/2 in the group (for ``all_responses``)."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})
    mismatched: ClassVar[bool] = True

    @property
    def responses(self) -> tuple[int, int | None]:
        return (1, 2) if self.desirable == "chosen" else (1, None)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(S,) 1 for a desirable response, 0 for an undesirable one.

        Raises:
            Unanswered: a win rate depends on a comparison without an answer.
            ConfigError: the selection gives more than a pair, and the settings do not say which responses are desirable.
        """
        if self.desirable == "win_rate":
            return (matrix.win_rates(picked) > 0.5 + TIE).astype(np.float64)
        if len(picked) > 2:
            raise ConfigError(
                f"loss.desirable: 'chosen' does not say which of {len(picked)} responses are desirable; set loss.desirable=win_rate, "
                f"or selection.type=best_worst"
            )
        return np.array([1.0, 0.0][: len(picked)])

    def labelled_target(self, desirable: bool) -> float:
        """1 for a desirable response, 0 for an undesirable one."""
        return float(desirable)

    def statistics(self, batch: LossBatch) -> dict[str, Tensor]:
        """``drift``: the mean of r over the example's mismatched sequences, in nats."""
        mismatched = batch.mask & ~matched_sequences(batch.mask)
        r = log_ratios(batch, "reference").detach()
        return {"drift": (r * mismatched).sum(dim=1) / mismatched.sum(dim=1).clamp(min=1)}

    def __call__(self, batch: LossBatch) -> LossValue:
        import torch

        matched = matched_sequences(batch.mask)
        r = log_ratios(batch, "reference")
        z0 = batch.statistics["drift"].detach().to(r.dtype).clamp(min=0.0)
        desirable = batch.targets.to(r.dtype)
        gain = desirable * 2.0 - 1.0
        weight = desirable * self.lambda_desirable + (1.0 - desirable) * self.lambda_undesirable
        terms = (weight * torch.sigmoid(-self.beta * gain * (r - z0))).masked_fill(~matched, 0.0)
        metrics = preference_metrics(self.beta * r, batch, matched) | {"loss/kl_baseline": z0.expand(len(r))}
        alone = matched.sum(dim=1) == 1  # unpaired data: no other response to compare with; the loss compares with z0
        margins = (self.beta * gain * (r - z0)).detach()[:, 0]
        metrics["rewards/margins"] = torch.where(alone, margins, metrics["rewards/margins"])
        metrics["rewards/accuracies"] = torch.where(alone, (margins.sign() + 1.0) / 2.0, metrics["rewards/accuracies"])
        return LossValue(terms.sum(dim=1) / matched.sum(dim=1), metrics)


def matched_sequences(mask: Tensor) -> Tensor:
    """(B, S) True at the first half of an example's sequences, whose responses belong to their prompt."""
    place = mask.cumsum(dim=1)
    return mask & (place * 2 <= place[:, -1:])
