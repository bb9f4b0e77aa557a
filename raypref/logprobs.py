"""Log-probs of response tokens under a model: the one code path of learner and reference.

Shapes: N sequences, T tokens of the longest sequence, R tokens of the longest response, V vocabulary. Two code paths differ by 1e-5
relative, which a loss that subtracts two of them sees; hence one. Import it lazily where torch must not be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raypref import types

_CHUNK_ELEMENTS = 1 << 24
"""Logits that are held in float32 at once: 64 MiB."""


def response_logps(model: nn.Module, sequences: Sequence[types.Sequence]) -> tuple[Tensor, Tensor]:
    """log p(response token | prompt, earlier response tokens), at temperature 1.

    What padding is around a sequence changes its log-probs by rounding alone.

    Args:
        model: a causal language model of transformers, bare, wrapped by peft or by DeepSpeed.
        sequences: N prompts with a response each; a prompt has at least one token, a response may have none.

    Returns:
        (N, R) float32 log-probs in nats, 0 where there is no token, and the (N, R) bool mask of the tokens. Row n's tokens are its
        last ones, in order: ``logps[n][mask[n]]`` has the length of the response.

    Raises:
        ValueError: there is no sequence, or one has an empty prompt.
    """
    logits, tokens, mask = response_logits(model, sequences)
    return torch.where(mask, token_logps(logits, tokens), 0.0), mask


def response_logits(model: nn.Module, sequences: Sequence[types.Sequence]) -> tuple[Tensor, Tensor, Tensor]:
    """The logits that the response tokens were, or could have been, drawn from.

    One forward pass over one batch, padded on the left, so that the responses end together and only the last R + 1 positions reach the
    model's head. Only ``model(...)`` is called: right under ZeRO-3, under peft, and under ``torch.no_grad``.

    Args:
        model: see ``response_logps``.
        sequences: N prompts with a response each.

    Returns:
        (N, R, V) logits in the model's dtype, (N, R) int64 tokens and (N, R) bool mask of the tokens.

    Raises:
        ValueError: there is no sequence, or one has an empty prompt.
    """
    device = next(model.parameters()).device
    inputs, attention, width = _pad_left(sequences)
    inputs, attention = inputs.to(device), attention.to(device)
    mask = _response_mask(sequences, width).to(device)
    positions = (attention.long().cumsum(-1) - 1).clamp_min(0)
    output: Any = model(
        input_ids=inputs,
        attention_mask=attention.long(),
        position_ids=positions,
        use_cache=False,
        logits_to_keep=width + 1,
    )
    return output.logits[:, -width - 1 : -1], inputs[:, -width:], mask


def token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits)[token], in float32 whatever the dtype of the logits.

    The softmax is computed in chunks of tokens and again in the backward pass: neither pass holds a float32 copy of all logits.

    Args:
        logits: (N, R, V).
        tokens: (N, R) int64.

    Returns:
        (N, R) float32, in nats.
    """
    flat: Tensor = _TokenLogps.apply(logits.flatten(0, 1), tokens.flatten())
    return flat.view(tokens.shape)


class _TokenLogps(torch.autograd.Function):
    """d log softmax(z)[t] / dz = onehot(t) - softmax(z), from the saved log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        """logits (M, V), tokens (M,) -> (M,) float32."""
        normaliser = torch.cat([chunk.float().logsumexp(-1) for chunk in logits.split(rows_at_once(logits))])
        ctx.save_for_backward(logits, tokens, normaliser)
        return logits.gather(-1, tokens[:, None]).squeeze(-1).float() - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """gradient (M,) -> (M, V) in the dtype of the logits."""
        logits, tokens, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows = rows_at_once(logits)
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            probabilities = (logits[part].float() - normaliser[part, None]).exp_()
            wanted = probabilities.mul_(-gradient[part, None])
            wanted.scatter_add_(-1, tokens[part, None], gradient[part, None])
            result[part] = wanted
        return result, None


def rows_at_once(logits: Tensor) -> int:
    """How many of the (M, V) logits' rows are held in float32 at a time."""
    return max(1, _CHUNK_ELEMENTS // logits.shape[-1])


def _pad_left(sequences: Sequence[types.Sequence]) -> tuple[Tensor, Tensor, int]:
    """(N, T) int64 tokens, (N, T) bool attention mask, and R (at least 1). Padding tokens are 0, a token of every vocabulary."""
    if not sequences:
        raise ValueError("response_logits: no sequences")
    if any(len(sequence.prompt_ids) == 0 for sequence in sequences):
        raise ValueError("response_logits: an empty prompt leaves nothing to condition the first response token on")
    rows = [np.concatenate([sequence.prompt_ids, sequence.response_ids]) for sequence in sequences]
    width = max(1, *(len(sequence.response_ids) for sequence in sequences))
    total = max(width + 1, *(len(row) for row in rows))
    tokens = np.zeros((len(rows), total), dtype=np.int64)
    present = np.zeros((len(rows), total), dtype=np.bool_)
    for target, filled, row in zip(tokens, present, rows, strict=True):
        target[total - len(row) :] = row
        filled[total - len(row) :] = True
    return torch.from_numpy(tokens), torch.from_numpy(present), width


def _response_mask(sequences: Sequence[types.Sequence], width: int) -> Tensor:
    lengths = torch.tensor([len(sequence.response_ids) for sequence in sequences])
    return torch.arange(width) >= width - lengths[:, None]
