"""The log-probs and losses of a rank's micro-batches, and what is computed from them: arrays over the global batch, KL estimates.

Shapes: B examples of the global batch, M of a micro-batch, N sequences of those M examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raypref.types import Example

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class MicroBatchResult:
    """What one micro-batch computed, still on the device."""

    examples: tuple[int, ...]
    """(M,) indices into the global batch."""
    logps: Tensor
    """(N,) float64 log pi_theta(y | x), summed over response tokens, in nats; the sequences of one example after those of the other."""
    losses: Tensor
    """(M,)"""
    token_kl: Tensor | None = None
    """(N,) float64 KL(pi_theta || pi_ref) over the vocabulary, summed over positions; None unless the loss reads it."""


def batch_arrays(results: Sequence[MicroBatchResult], examples: Sequence[Example]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(sequences of all B examples,) log-probs and (B,) losses on the host, 0 at the examples of other ranks."""
    starts = np.cumsum([0, *(len(example.response_ids) for example in examples)])
    logps, losses = np.zeros(starts[-1]), np.zeros(len(examples))
    for result in results:
        rows = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in result.examples])
        logps[rows] = result.logps.double().cpu().numpy()
        losses[list(result.examples)] = result.losses.double().cpu().numpy()
    return logps, losses


def kl_sums(results: Sequence[MicroBatchResult], examples: Sequence[Example], *, token_kl: bool) -> dict[str, Tensor]:
    """The rank's part of the KL estimates ``kl_previous`` and ``kl``: sums over its examples; the caller divides by ``kl_examples``.

    One example counts with the mean over its sampled sequences of

        kl_previous   log pi_t(y | x) - log pi_theta(y | x)          KL(pi_t || pi_theta)
        kl            log pi_theta(y | x) - log pi_ref(y | x)        KL(pi_theta || pi_ref); else ``token_kl``

    Every rank gives the same names: they depend on the global batch alone. There are none for given data.

    Args:
        results: of this rank, possibly none.
        examples: (B,) the global batch.
        token_kl: whether the results hold the token-wise KL.
    """
    import torch

    sampled = [example for example in examples if example.sampled_logps is not None]
    if not sampled:
        return {}
    mine = [examples[k] for result in results for k in result.examples]
    weights = [_weights(example) for example in mine]
    policy = _weighted_sum(weights, [result.logps for result in results])
    sums = {"kl_previous": _on_host(weights, [example.sampled_logps for example in mine]) - policy}
    if all(example.reference_logps is not None for example in sampled):
        sums["kl"] = policy - _on_host(weights, [example.reference_logps for example in mine])
    elif token_kl:
        sums["kl"] = _weighted_sum(weights, [result.token_kl for result in results if result.token_kl is not None])
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in sums.items()}


def kl_examples(examples: Sequence[Example]) -> int:
    """How many of the global batch's examples count in the KL estimates: those that pi_t sampled."""
    return sum(example.sampled_logps is not None for example in examples)


def _weights(example: Example) -> NDArray[np.float64]:
    """(S,) 1 / (number of sampled sequences) at those sequences, 0 elsewhere."""
    if example.sampled_logps is None:
        return np.zeros(len(example.response_ids))
    present = ~np.isnan(example.sampled_logps)
    return present / max(1, present.sum())


def _weighted_sum(weights: Sequence[NDArray[np.float64]], values: Sequence[Tensor]) -> Tensor | float:
    """() sum of weight * value over the rank's sequences, on the device of the values: one transfer and one product per step."""
    import torch

    if not values:
        return 0.0
    joined = torch.cat(list(values))
    return joined @ torch.from_numpy(np.concatenate(weights)).to(joined.device)


def _on_host(weights: Sequence[NDArray[np.float64]], values: Sequence[NDArray[np.float64] | None]) -> float:
    """The same sum of values that are on the host already; NaN and missing values have weight 0."""
    pairs = zip(weights, values, strict=True)
    return float(sum((np.nan_to_num(logps) * weight).sum() for weight, logps in pairs if logps is not None))
