"""The token-wise KL divergence over the whole vocabulary, without float32 copies of all logits.

Shapes: M response positions of all sequences, V vocabulary. Import it lazily where torch must not be loaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raypref.head import rows_at_once


def token_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(pi_theta || pi_ref) of the next token, at every position: sum_s pi_theta(s) log( pi_theta(s) / pi_ref(s) ).

    Source: SPO (15), the inner sum over the vocabulary S. Both distributions are made of the logits in chunks of rows, in float32
    whatever the logits' dtype, and again in the backward pass: neither pass holds a [tokens, vocabulary] pair in float32.

    Args:
        logits: (M, V) of the policy.
        reference_logits: (M, V) of the frozen policy; no gradient reaches them.

    Returns:
        (M,) float32 in nats, at least 0 up to rounding, with the gradient of ``logits``.
    """
    return _TokenKL.apply(logits, reference_logits.detach())


class _TokenKL(torch.autograd.Function):
    """d KL / dz_s = p_s ( log p_s - log q_s - KL ) for p = softmax(z)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, reference_logits: Tensor) -> Tensor:
        """Both (M, V) -> (M,) float32."""
        rows = rows_at_once(logits.shape[-1])
        chunks = zip(logits.split(rows), reference_logits.split(rows), strict=True)
        divergence = torch.cat([(p * excess).sum(-1) for p, excess in (_parts(*chunk) for chunk in chunks)])
        ctx.save_for_backward(logits, reference_logits, divergence)
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """gradient (M,) -> (M, V) in the dtype of the logits."""
        logits, reference_logits, divergence = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows = rows_at_once(logits.shape[-1])
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            p, excess = _parts(logits[part], reference_logits[part])
            result[part] = p.mul_(excess.sub_(divergence[part, None])).mul_(gradient[part, None])
        return result, None


def _parts(logits: Tensor, reference_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(m, V) float32 each: p, and log p - log q."""
    log_p = logits.float().log_softmax(-1)
    return log_p.exp(), log_p - reference_logits.float().log_softmax(-1)
