"""The token-wise KL divergence over the whole vocabulary, without the [tokens, vocabulary] matrices that it sums over.

Shapes: M response positions of all sequences, H hidden size, V vocabulary. Import it lazily where torch must not be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from raypref.training.head import HeadGradients, chunk_rows


def head_kl(hidden: Tensor, head: nn.Linear, tokens: Tensor, reference_hidden: Tensor, reference_head: nn.Linear) -> Tensor:
    """``token_kl`` and log softmax(logits)[token], from the inputs of both policies' heads.

    Forward and backward pass go over chunks of tokens, so that no more than three chunks of logits exist at a time.

    Args:
        hidden: (M, H) input of the policy's head.
        head: the policy's.
        tokens: (M,) int64.
        reference_hidden: (M, H) of the frozen policy, whose H may differ; neither it nor its head gets a gradient.
        reference_head: the frozen policy's; the same object if both policies share it.

    Returns:
        (2, M) float32 in nats: the divergences, and the log-probs.
    """
    frozen = reference_hidden.detach(), reference_head.weight, reference_head.bias
    return _HeadKL.apply(hidden, head.weight, head.bias, tokens, *frozen)


class _HeadKL(torch.autograd.Function):
    """dKL / dz_s = p_s (log p_s - log q_s - KL) and d log p_t / dz = onehot(t) - p, then through z = h W^T + b."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, *frozen: Tensor) -> Tensor:
        result = torch.empty(2, len(hidden), device=hidden.device)
        rows = chunk_rows(len(weight), hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            log_p = linear(hidden[part], weight, bias).float().log_softmax(-1)
            result[1, part] = log_p.gather(-1, tokens[part, None]).squeeze(-1)
            p, excess = _probabilities_and_log_ratios(log_p, _frozen_logits(frozen, part))
            result[0, part] = p.mul_(excess).sum(-1)
            del log_p, p, excess
        ctx.save_for_backward(hidden, weight, bias, tokens, result[0], *frozen)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """gradient (2, M)."""
        hidden, weight, bias, tokens, divergence, *frozen = ctx.saved_tensors
        to_divergence, to_logps = gradient
        gradients = HeadGradients(hidden, weight, bias, ctx.needs_input_grad)
        rows = chunk_rows(len(weight), hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            log_p = linear(hidden[part], weight, bias).float().log_softmax(-1)
            p, excess = _probabilities_and_log_ratios(log_p, _frozen_logits(frozen, part))
            d_logits = excess.sub_(divergence[part, None]).mul_(to_divergence[part, None]).sub_(to_logps[part, None]).mul_(p)
            d_logits.scatter_add_(-1, tokens[part, None], to_logps[part, None])
            del log_p, p
            gradients.add(part, d_logits)
            del d_logits, excess
        return *gradients.result(), *[None] * 4


def _frozen_logits(frozen: Sequence[Tensor | None], part: slice) -> Tensor:
    """(m, V) logits of the frozen policy."""
    hidden, weight, bias = frozen
    assert hidden is not None
    assert weight is not None
    return linear(hidden[part], weight, bias)


def token_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(pi_theta || pi_ref) of the next token, at every position: sum_s pi_theta(s) log( pi_theta(s) / pi_ref(s) ).

    Source: SPO (15), the inner sum over the vocabulary S. Both distributions are computed from the logits in chunks of rows, in
    float32 whatever the logits' dtype, and again in the backward pass. For heads that are not a plain linear layer; see ``head_kl``.

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
        rows = chunk_rows(logits.shape[-1], logits.device)
        chunks = zip(logits.split(rows), reference_logits.split(rows), strict=True)
        parts = (_probabilities_and_log_ratios(policy.float().log_softmax(-1), reference) for policy, reference in chunks)
        divergence = torch.cat([p.mul_(excess).sum(-1) for p, excess in parts])
        ctx.save_for_backward(logits, reference_logits, divergence)
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """gradient (M,) -> (M, V) in the dtype of the logits."""
        logits, reference_logits, divergence = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows = chunk_rows(logits.shape[-1], logits.device)
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            p, excess = _probabilities_and_log_ratios(logits[part].float().log_softmax(-1), reference_logits[part])
            result[part] = p.mul_(excess.sub_(divergence[part, None])).mul_(gradient[part, None])
        return result, None


def _probabilities_and_log_ratios(log_p: Tensor, reference_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(m, V) float32 each: p, which overwrites log p, and log p - log q."""
    excess = reference_logits.float().log_softmax(-1).neg_().add_(log_p)
    return log_p.exp_(), excess
