"""Best-response SFT: supervised fine-tuning on the best response of a group.

Shapes: B examples of S sequences, the best first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raypref.losses.base import Loss, LossBatch, LossValue, losses
from raypref.losses.terms.ratios import policy_logps
from raypref.types import PreferenceMatrix


@losses.register("best_response_sft")
class BestResponseSFT(Loss):
    """-log pi_theta(y_1 | x), y_1 the first response of the example.

    Source: SPO section 7.2, the baseline that its win rates are measured against. The other responses of an example pass through
    the model but are not trained on, so a selection of single responses is cheaper. Unlike in ``sft``, all prompts have the same weight,
    whatever the length of their answers.
    """

    type: str = "best_response_sft"
    average_logps: bool = False
    """Divide the negative log-likelihood by the number of response tokens."""

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(S,) 1 for the best, 0 for the others."""
        return (np.arange(len(picked)) == 0).astype(np.float64)

    def __call__(self, batch: LossBatch) -> LossValue:
        per_token = policy_logps(batch, average=True)[:, 0].detach()
        return LossValue(-policy_logps(batch, average=self.average_logps)[:, 0], {"logps/chosen_per_token": per_token})
