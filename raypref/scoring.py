"""Per-token log-probs of many sequences, without a gradient, in micro-batches: what the learner's probe and the references compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raypref import batching, types
from raypref.logprobs import response_logps
from raypref.packing import packing_of


@torch.no_grad()
def per_token_logps(model: Any, sequences: Sequence[types.Sequence], micro_batch_tokens: int) -> list[NDArray[np.float64]]:
    """Log-probs in nats of each sequence's response tokens: (T_s,) each, in the order of the sequences.

    Args:
        model: as in ``response_logps``.
        sequences: any number.
        micro_batch_tokens: tokens of one forward pass, padding included.
    """
    items = [[sequence] for sequence in sequences]
    answers: dict[int, NDArray[np.float64]] = {}
    for micro in batching.share(items, 1, micro_batch_tokens, packing_of(model))[0] if items else ():
        logps, mask = response_logps(model, [sequences[k] for k in micro.examples])
        found, present = logps.double().cpu().numpy(), mask.cpu().numpy()
        for k, row, tokens in zip(micro.examples, found, present, strict=True):
            answers[k] = row[tokens]
    return [answers[k] for k in range(len(sequences))]
