"""Log-probs and log-ratios per sequence, summed over response tokens or averaged over them.

Shapes: B examples, S sequences of an example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raypref.losses.base import Frozen, LossBatch

if TYPE_CHECKING:
    from torch import Tensor


def policy_logps(batch: LossBatch, *, average: bool = False) -> Tensor:
    """log pi_theta(y | x), or with ``average`` its mean over response tokens, log pi_theta(y | x) / |y|.

    Source of the averaged form: arXiv 2406.19188, averaging log-likelihoods in direct alignment (SRPO Appendix D uses it).

    Returns:
        (B, S) in nats (averaged: nats per token), with its gradient; 0 where there is no sequence.
    """
    return _per_token(batch.logps, batch) if average else batch.logps.masked_fill(~batch.mask, 0.0)


def log_ratios(batch: LossBatch, frozen: Frozen, *, average: bool = False) -> Tensor:
    """r = log pi_theta(y | x) - log pi_frozen(y | x), or r / |y|.

    Args:
        frozen: ``reference`` (pi_ref) or ``previous`` (pi_t); no gradient reaches it.
        average: divide by the number of response tokens.

    Returns:
        (B, S) in nats (averaged: nats per token); 0 where there is no sequence.
    """
    frozen_logps = batch.reference_logps if frozen == "reference" else batch.previous_logps
    assert frozen_logps is not None, f"the loss reads {frozen}_logps, which it does not declare in `needs`"
    ratios = (batch.logps - frozen_logps.detach()).masked_fill(~batch.mask, 0.0)
    return _per_token(ratios, batch) if average else ratios


def _per_token(values: Tensor, batch: LossBatch) -> Tensor:
    """Divided by the number of response tokens; an empty response, whose log-prob is 0, counts as one token."""
    return (values / batch.lengths.clamp(min=1).to(values.dtype)).masked_fill(~batch.mask, 0.0)
