"""SPO's in-dataset regularisers, the baselines of its KL on fresh samples.

Shapes: B examples, S sequences of an example, chosen first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raypref.losses.base import LossBatch
from raypref.losses.terms.ratios import log_ratios, policy_logps

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 20.0
"""Log-ratio, in nats, above which rho log rho is continued by its tangent; e^710 would overflow float64."""


def negative_log_prob(batch: LossBatch) -> Tensor:
    """(B,) -log pi_theta(y_w | x) of the chosen response, in nats.

    Source: SPO Table 4, in-dataset (log probability); CPO and SLiC-HF have it too.
    """
    return -policy_logps(batch)[:, 0]


def tokenwise_kl(batch: LossBatch) -> Tensor:
    """(B,) sum over positions of KL( pi_theta(. | x, y_<t) || pi_ref(. | x, y_<t) ), averaged over the example's responses, in nats.

    Source: SPO Table 4, in-dataset (tokenwise).

    Raises:
        ValueError: the batch has no ``token_kl``.
    """
    if batch.token_kl is None:
        raise ValueError("loss.regulariser: 'tokenwise' needs the token-wise KL of the batch's responses, and the batch has none")
    return _mean(batch.token_kl.to(batch.logps.dtype), batch.mask)


def importance_kl(batch: LossBatch) -> Tensor:
    """(B,) rho log rho with rho = pi_theta(y | x) / pi_ref(y | x), averaged over the example's responses.

    Source: SPO Table 4, in-dataset (importance sampling). Departs from it above log rho = 20, where the tangent continues it: value and
    gradient stay finite, and the gradient still pulls rho back.
    """
    r = log_ratios(batch, "reference")
    capped = r.clamp(max=LARGEST)
    rho = capped.exp()
    beyond = (r - LARGEST).clamp(min=0.0)
    return _mean(rho * capped + beyond * rho.detach() * (1.0 + LARGEST), batch.mask)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)
