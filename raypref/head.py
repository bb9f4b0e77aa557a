"""Log-probs of tokens from what enters a model's head, without the [tokens, vocabulary] matrix of logits.

Shapes: M tokens, H hidden size, V vocabulary. Import it lazily where torch must not be loaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from raypref import fused

CHUNK_ELEMENTS = 1 << 25
"""Logits that are held in float32 at once: 128 MiB."""


def head_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Tensor:
    """log softmax(hidden weight^T + bias)[token], in float32 from logits in the dtype of ``weight``.

    Forward and backward pass go over chunks of tokens. The first chunk's probabilities are kept for the backward pass, those of the
    others are computed again there: no more than two chunks exist at a time. The gradient of a weight in half precision is summed over
    the chunks in float32. Where Liger's kernels are available, they do the work.

    Args:
        hidden: (M, H).
        weight: (V, H).
        bias: (V,) or None.
        tokens: (M,) int64.

    Returns:
        (M,) float32, in nats.
    """
    if len(tokens) and fused.available(hidden.device):
        return fused.fused_head_logps(hidden, weight, bias, tokens)
    return _HeadLogps.apply(hidden, weight, bias, tokens)


def rows_at_once(vocabulary: int) -> int:
    """How many rows of logits are held in float32 at a time."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


class _HeadLogps(torch.autograd.Function):
    """d log softmax(z)[t] / dz = onehot(t) - softmax(z), then through z = h W^T + b."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Tensor:
        rows = rows_at_once(len(weight))
        wanted = any(ctx.needs_input_grad)
        normalisers = torch.empty(len(hidden), device=hidden.device)
        result = torch.empty(len(hidden), device=hidden.device)
        ctx.kept = None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = linear(hidden[part], weight, bias).float()
            highest = logits.amax(-1, keepdim=True)
            picked = logits.gather(-1, tokens[part, None])
            unnormalised = logits.sub_(highest).exp_()
            total = unnormalised.sum(-1, keepdim=True)
            normaliser = highest + total.log()
            normalisers[part] = normaliser.squeeze(-1)
            result[part] = (picked - normaliser).squeeze(-1)
            if wanted and start == 0:
                ctx.kept = unnormalised.div_(total)
            del logits, unnormalised
        ctx.save_for_backward(hidden, weight, bias, tokens, normalisers)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight, bias, tokens, normalisers = ctx.saved_tensors
        to_hidden, to_weight, to_bias, _ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if to_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if to_bias else None
        rows = rows_at_once(len(weight))
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            probabilities, ctx.kept = ctx.kept, None  # what is kept is the first chunk, and good for one pass
            if probabilities is None:
                probabilities = linear(hidden[part], weight, bias).float().sub_(normalisers[part, None]).exp_()
            d_logits = probabilities.mul_(-gradient[part, None])
            d_logits.scatter_add_(-1, tokens[part, None], gradient[part, None])
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_logits = d_logits.to(weight.dtype)
            if d_hidden is not None:
                torch.mm(d_logits, weight, out=d_hidden[part])
            if d_weight is not None:
                _add_product(d_weight, d_logits, hidden[part])
            del probabilities, d_logits
        return d_hidden, _as(d_weight, weight), _as(d_bias, bias), None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left^T right."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right


def _as(gradient: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    return None if gradient is None or parameter is None else gradient.to(parameter.dtype)
