"""SPO's in-dataset regularisers: the baselines that its KL on fresh samples is compared with.

Shapes: B examples, S sequences of an example, the winner first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raypref.losses.base import LossBatch
from raypref.losses.terms.ratios import log_ratios, policy_logps

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 20.0
"""Log-ratio, in nats, above which rho log rho goes on as its tangent: e^710 is no float64 any more."""


def negative_log_prob(batch: LossBatch) -> Tensor:
    """(B,) -log pi_theta(y_w | x), in nats.

    Source: SPO Table 4, in-dataset (log probability); CPO and SLiC-HF have it too.
    """
    return -policy_logps(batch)[:, 0]


def tokenwise_kl(batch: LossBatch) -> Tensor:
    """(B,) sum over positions of KL( pi_theta(. | x, y_<t) || pi_ref(. | x, y_<t) ), the mean over the example's responses, in nats.

    Source: SPO Table 4, in-dataset (tokenwise).

    Raises:
        ValueError: whoever made the batch did not compute ``token_kl``.
    """
    if batch.token_kl is None:
        raise ValueError("loss.regulariser: 'tokenwise' needs the token-wise KL of the batch's responses, and the learner gave none")
    return _mean(batch.token_kl.to(batch.logps.dtype), batch.mask)


def importance_kl(batch: LossBatch) -> Tensor:
    """(B,) rho log rho with rho = pi_theta(y | x) / pi_ref(y | x), the mean over the example's responses.

    Source: SPO Table 4, in-dataset (importance sampling). Departs from it above log rho = 20, where the tangent takes over: there the
    value and the gradient stay finite, and the pull back does not end.
    """
    r = log_ratios(batch, "reference")
    capped = r.clamp(max=LARGEST)
    rho = capped.exp()
    beyond = (r - LARGEST).clamp(min=0.0)
    return _mean(rho * capped + beyond * rho.detach() * (1.0 + LARGEST), batch.mask)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)
