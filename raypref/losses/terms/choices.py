"""The Plackett-Luce model: a ranking as a sequence of choices among the responses that remain.

Shapes: B examples, S sequences of an example, best first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def choice_terms(values: Tensor, mask: Tensor) -> Tensor:
    """-log P(y_k is chosen among y_k ... y_S): -log( exp(v_k) / sum_{j >= k} exp(v_j) ).

    Computed as log sum_{j >= k} exp(v_j - v_k), which is stable for all values. The first place alone is a best-of-n choice; the sum over
    all places is the ranking. The term of the last sequence is 0.

    Source: SPO (3), (16), (17); DPO Appendix A.3.

    Args:
        values: (B, S) best first.
        mask: (B, S) True where there is a sequence.

    Returns:
        (B, S) at least 0; 0 where there is no sequence.
    """
    remaining = _remaining(mask)
    differences = values[:, None, :] - values[:, :, None]
    return differences.masked_fill(~remaining, -float("inf")).logsumexp(dim=2).masked_fill(~mask, 0.0)


def mean_choice_terms(values: Tensor, mask: Tensor) -> Tensor:
    """mean_{j >= k} v_j - v_k: the limit of ``choice_terms(alpha v) / alpha`` minus a constant for alpha -> 0.

    Args:
        values: (B, S) best first.
        mask: (B, S) True where there is a sequence.

    Returns:
        (B, S); 0 where there is no sequence.
    """
    remaining = _remaining(mask)
    differences = (values[:, None, :] - values[:, :, None]).masked_fill(~remaining, 0.0)
    return (differences.sum(dim=2) / remaining.sum(dim=2)).masked_fill(~mask, 0.0)


def log_mass(values: Tensor, mask: Tensor) -> Tensor:
    """(B, S) log sum_{j >= k} exp(v_j): the unnormalised log-probability of all that remain at place k; 0 where there is no sequence."""
    return choice_terms(values, mask) + values.masked_fill(~mask, 0.0)


def _remaining(mask: Tensor) -> Tensor:
    """(B, S, S) True at (k, j) if y_j remains when place k is assigned; always True on the diagonal, so that no row is empty."""
    import torch

    places = torch.arange(mask.shape[1], device=mask.device)
    later = places[None, :] >= places[:, None]
    return (later & mask[:, None, :]) | (places[None, :] == places[:, None])
