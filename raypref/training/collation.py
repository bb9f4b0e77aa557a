"""Examples as the loss reads them: their sequences, and the ``LossBatch`` made from per-token log-probs.

Shapes: M examples of a micro-batch, N their sequences, R tokens of the longest response, S sequences of an example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from raypref import types
from raypref.losses.base import Frozen, LossBatch


def sequences(examples: Iterable[types.Example]) -> list[types.TokenSequence]:
    """(N,) the sequences of all examples, in the order of the examples."""
    pairs = [pair for example in examples for pair in zip(example.prompt_ids, example.response_ids, strict=True)]
    return [types.TokenSequence(prompt, response) for prompt, response in pairs]


def response_tokens(examples: Iterable[types.Example]) -> int:
    """Number of response tokens of all sequences of the examples."""
    return sum(len(response) for example in examples for response in example.response_ids)


def sequence_tokens(examples: Iterable[types.Example]) -> int:
    """Prompt and response tokens; a prompt that sequences of an example share counts once."""
    examples = list(examples)
    prompts = sum(len(prompt) for example in examples for prompt in {id(prompt): prompt for prompt in example.prompt_ids}.values())
    return prompts + response_tokens(examples)


def collate(
    examples: Sequence[types.Example],
    logps: Tensor,
    needs: frozenset[Frozen],
    *,
    statistics: Mapping[str, Tensor] | None = None,
    token_kl: Tensor | None = None,
) -> LossBatch:
    """The input of a loss, in float64, since sums over hundreds of tokens are subtracted from each other.

    Args:
        examples: M examples.
        logps: (N, R) float32 per-token log-probs of ``sequences(examples)``, 0 where there is no token.
        needs: the frozen log-probs that the loss reads.
        statistics: name -> () mean over the global batch.
        token_kl: (N, R) float32 per-token KL(pi_theta || pi_ref), 0 where there is no token.

    Raises:
        ValueError: an example has no frozen log-probs that the loss needs.
    """
    widths = np.array([len(example.response_ids) for example in examples])
    present = np.arange(widths.max()) < widths[:, None]
    mask = torch.from_numpy(present).to(logps.device)

    def table(values: Sequence[np.ndarray]) -> Tensor:
        padded = np.zeros(present.shape)
        padded[present] = np.concatenate(values)
        return torch.from_numpy(padded).to(logps.device)

    def frozen(slot: Frozen) -> Tensor | None:
        return table([_frozen_logps(example, slot) for example in examples]) if slot in needs else None

    def summed(tokens: Tensor) -> Tensor:
        rows = tokens.double().sum(-1)
        return torch.zeros(mask.shape, dtype=rows.dtype, device=logps.device).masked_scatter(mask, rows)

    return LossBatch(
        logps=summed(logps),
        reference_logps=frozen("reference"),
        previous_logps=frozen("previous"),
        targets=table([example.targets for example in examples]),
        lengths=table([np.array([len(response) for response in example.response_ids]) for example in examples]),
        mask=mask,
        statistics=statistics or {},
        token_kl=None if token_kl is None else summed(token_kl),
    )


def _frozen_logps(example: types.Example, slot: Frozen) -> np.ndarray:
    logps = example.reference_logps if slot == "reference" else example.previous_logps
    if logps is None:
        raise ValueError(f"example of prompt {example.prompt_id!r}: the loss needs {slot}_logps, and the reference actors gave none")
    return logps
