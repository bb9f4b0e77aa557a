"""SRPO, self-improving robust preference optimisation (papers: arXiv 2406.01660).

Shapes: B examples of a pair (w, l), as S = 6 sequences: w, l given x; w, l given (x, w); w, l given (x, l). K responses of a prompt.

One model is both the policy pi(y | x) and the improver pi(y' | y, x), which is shown an earlier answer y. The solution depends on the
preferences alone; those of DPO and IPO also depend on the policy that sampled the responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from raypref.losses.base import Frozen, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss
from raypref.losses.terms.ratios import log_ratios

if TYPE_CHECKING:
    from torch import Tensor


@losses.register("srpo")
class SRPO(PairLoss):
    """(1 - alpha) L + alpha L_improve: a loss of improver and policy together, and one of the improver alone.

    Source: SRPO (17) of (16) and (15), the sample losses (``labels: hard``); (2) of (4) and (3), the population losses, with the oracle's
    p in place of the indicator (``labels: soft``). (16) is 4 times (4) and (15) twice (3) for a pair and p = 1, so that alpha with hard
    labels has the effect of alpha / (2 - alpha) with soft ones. (4) and (14) are printed with the two log-ratios of pi swapped; (5),
    (11) and (16) agree with each other, and this class follows them.
    """

    type: str = "srpo"
    beta: PositiveFloat = 0.01
    """Strength of the regularisation towards pi_ref; above 0 (the paper: 0.01 on TL;DR; 1.3 on UltraFeedback, averaged)."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the improver's loss, in [0, 1]; the solution is unique strictly between 0 and 1. The paper gives no value for language
    models; its Figure 4 finds most of the benefit in the improver's loss."""
    labels: Literal["hard", "soft"] = "hard"
    """hard: y_w is better, (15) to (17); soft: better with the oracle's probability, (2) to (4)."""
    average_logps: bool = False
    """Divide r by the number of response tokens (Appendix D)."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})
    revisions: ClassVar[bool] = True

    @property
    def soft_labels(self) -> bool:
        return self.labels == "soft"

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "reference", average=self.average_logps)
        if self.labels == "hard":
            joint, improve = sample_joint(r, self.beta), sample_improve(r, self.beta)
        else:
            p = batch.targets[:, 0].to(r.dtype)
            joint, improve = population_joint(r, p, self.beta), population_improve(r, p, self.beta)
        first_answers = batch.mask.clone()
        first_answers[:, 2:] = False
        metrics = preference_metrics(self.beta * r, batch, first_answers)
        metrics |= {"loss/joint": joint.detach(), "loss/improve": improve.detach()}
        metrics["rewards/revision_margins"] = self.beta * improvement_margins(r.detach())[0]
        return LossValue((1.0 - self.alpha) * joint + self.alpha * improve, metrics)


def improvement_margins(r: Tensor) -> tuple[Tensor, Tensor]:
    """(B,), (B,) r(w | l, x) - r(l | l, x), and r(w | w, x) - r(l | w, x): the improver's margins, shown l and shown w.

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
    shown_rejected, shown_chosen = improvement_margins(r)
    return (0.5 - beta * shown_rejected).square() + (0.5 - beta * shown_chosen).square()


def sample_joint(r: Tensor, beta: float) -> Tensor:
    """(B,) [beta (r(w | l) + r(w) - r(l | w) - r(l)) - 1]^2.

    Source: SRPO (16).
    """
    return (beta * joint_margin(r) - 1.0).square()


def population_improve(r: Tensor, p: Tensor, beta: float) -> Tensor:
    """(B,) the mean over both orders of the pair of [P(y' > y) - 1/2 - beta (r(y' | y) - r(y | y))]^2.

    Source: SRPO (3). Its y and y' have the same distribution, so each order of a pair has weight 1/2.

    Args:
        r: (B, 6) log-ratios to pi_ref.
        p: (B,) P(w > l).
        beta: above 0.
    """
    shown_rejected, shown_chosen = improvement_margins(r)
    return 0.5 * ((p - 0.5 - beta * shown_rejected).square() + (p - 0.5 - beta * shown_chosen).square())


def population_joint(r: Tensor, p: Tensor, beta: float) -> Tensor:
    """(B,) [P(w > l) - 1/2 - (beta/2) (r(w | l) + r(w) - r(l | w) - r(l))]^2; both orders of the pair give the same.

    Source: SRPO (4), with the two log-ratios of pi swapped against the printed formula: see ``SRPO``.
    """
    return (p - 0.5 - 0.5 * beta * joint_margin(r)).square()
