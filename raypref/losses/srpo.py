"""SRPO, self-improving robust preference optimisation (papers: arXiv 2406.01660).

Shapes: B examples of a pair (w, l), as S = 6 sequences: w, l given x; w, l given (x, w); w, l given (x, l). K responses of a prompt.

One model is both the policy pi(y | x) and the improver pi(y' | y, x), which is shown an earlier answer y. The solution depends on the
preferences alone, and not on the policy that the responses came from, as DPO's and IPO's do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import pair_labels
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix

if TYPE_CHECKING:
    from torch import Tensor


@losses.register("srpo")
class SRPO(Loss):
    """(1 - alpha) L + alpha L_improve: of the improver and the policy together, and of the improver alone.

    Source: SRPO (17) of (16) and (15), the sample losses (``labels: hard``); (2) of (4) and (3), the population losses, with the oracle's
    p in place of the indicator (``labels: soft``). (16) is 4 times (4) and (15) twice (3) for a pair and p = 1, so that alpha here with
    hard labels weighs as alpha / (2 - alpha) does with soft ones. (4) and (14) are printed with the two log-ratios of pi swapped; (5),
    (11) and (16) agree with each other, and are followed.
    """

    type: str = "srpo"
    beta: PositiveFloat = 0.01
    """Strength of the pull to pi_ref; above 0 (the paper: 0.01 on TL;DR; 1.3 on UltraFeedback, averaged)."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Part of the improver's own loss, in [0, 1]; the solution is unique between the two ends. The paper leaves it open for language
    models; its Figure 4 finds most of the benefit in the improver's part."""
    labels: Literal["hard", "soft"] = "hard"
    """hard: y_w is better, (15) to (17); soft: better with the oracle's probability, (2) to (4)."""
    average_logps: bool = False
    """r divided by the response's tokens (Appendix D)."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})
    responses: ClassVar[tuple[int, int | None]] = (2, 2)
    revisions: ClassVar[bool] = True

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (p, 1 - p), p = P(y_w > y_l).

        Raises:
            Unanswered: the label is soft, and the pair's own comparison has no answer.
            ConfigError: the selection does not give pairs.
        """
        return pair_labels(self, matrix, picked, self.labels)

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "reference", average=self.average_logps)
        if self.labels == "hard":
            joint, improve = sample_joint(r, self.beta), sample_improve(r, self.beta)
        else:
            p = batch.targets[:, 0].to(r.dtype)
            joint, improve = population_joint(r, p, self.beta), population_improve(r, p, self.beta)
        answers = margins(r[:, :2], batch.targets[:, :2], batch.mask[:, :2])
        parts = {"joint": joint.detach(), "improve": improve.detach(), "revision_margin": (r[:, 4] - r[:, 5]).detach()}
        return LossValue((1.0 - self.alpha) * joint + self.alpha * improve, answers | parts)


def improvement_margins(r: Tensor) -> tuple[Tensor, Tensor]:
    """(B,), (B,) r(w | l, x) - r(l | l, x), and r(w | w, x) - r(l | w, x): how the improver sets the winner above the loser, shown each.

    Args:
        r: (B, 6) log-ratios to pi_ref.
    """
    return r[:, 4] - r[:, 5], r[:, 2] - r[:, 3]


def joint_margin(r: Tensor) -> Tensor:
    """(B,) r(w | l, x) + r(w | x) - r(l | w, x) - r(l | x).

    Args:
        r: (B, 6) log-ratios to pi_ref.
    """
    return r[:, 4] + r[:, 0] - r[:, 3] - r[:, 1]


def sample_improve(r: Tensor, beta: float) -> Tensor:
    """(B,) [1/2 - beta (r(w | l) - r(l | l))]^2 + [1/2 - beta (r(w | w) - r(l | w))]^2.

    Source: SRPO (15).
    """
    shown_loser, shown_winner = improvement_margins(r)
    return (0.5 - beta * shown_loser).square() + (0.5 - beta * shown_winner).square()


def sample_joint(r: Tensor, beta: float) -> Tensor:
    """(B,) [beta (r(w | l) + r(w) - r(l | w) - r(l)) - 1]^2.

    Source: SRPO (16).
    """
    return (beta * joint_margin(r) - 1.0).square()


def population_improve(r: Tensor, p: Tensor, beta: float) -> Tensor:
    """(B,) the mean over both orders of the pair of [P(y' > y) - 1/2 - beta (r(y' | y) - r(y | y))]^2.

    Source: SRPO (3), whose y and y' are drawn alike: each order of an unordered pair has one half.

    Args:
        r: (B, 6) log-ratios to pi_ref.
        p: (B,) P(w > l).
        beta: above 0.
    """
    shown_loser, shown_winner = improvement_margins(r)
    return 0.5 * ((p - 0.5 - beta * shown_loser).square() + (p - 0.5 - beta * shown_winner).square())


def population_joint(r: Tensor, p: Tensor, beta: float) -> Tensor:
    """(B,) [P(w > l) - 1/2 - (beta/2) (r(w | l) + r(w) - r(l | w) - r(l))]^2; both orders of the pair give the same.

    Source: SRPO (4), with the two log-ratios of pi the other way round than printed: see ``SRPO``.
    """
    return (p - 0.5 - 0.5 * beta * joint_margin(r)).square()
