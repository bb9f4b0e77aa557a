"""The Plackett-Luce choice: the first of those that are left is chosen, place after place.

Shapes: B examples, S sequences of an example, best first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def choice_terms(values: Tensor, mask: Tensor) -> Tensor:
    """-log of the chance that place k goes to y_k: -log( exp(v_k) / sum_{j >= k} exp(v_j) ).

    Computed as log sum_{j >= k} exp(v_j - v_k): stable wherever the values lie. The first place alone is a best-of-n choice, all places
    together are the ranking; the last of those that are there costs nothing.

    Source: SPO (3), (16), (17); DPO Appendix A.3.

    Args:
        values: (B, S) best first.
        mask: (B, S) True where there is a sequence.

    Returns:
        (B, S) at least 0; 0 where there is no sequence.
    """
    ahead = _left(mask)
    differences = values[:, None, :] - values[:, :, None]
    return differences.masked_fill(~ahead, -float("inf")).logsumexp(dim=2).masked_fill(~mask, 0.0)


def mean_choice_terms(values: Tensor, mask: Tensor) -> Tensor:
    """mean_{j >= k} v_j - v_k: what ``choice_terms(alpha v) / alpha``, less a constant, tends to for alpha -> 0.

    Args:
        values: (B, S) best first.
        mask: (B, S) True where there is a sequence.

    Returns:
        (B, S); 0 where there is no sequence.
    """
    ahead = _left(mask)
    differences = (values[:, None, :] - values[:, :, None]).masked_fill(~ahead, 0.0)
    return (differences.sum(dim=2) / ahead.sum(dim=2)).masked_fill(~mask, 0.0)


def log_mass(values: Tensor, mask: Tensor) -> Tensor:
    """(B, S) log sum_{j >= k} exp(v_j): the log-probability of all that are left at place k; 0 where there is no sequence."""
    return choice_terms(values, mask) + values.masked_fill(~mask, 0.0)


def _left(mask: Tensor) -> Tensor:
    """(B, S, S) True at (k, j) where y_j is left when place k is given away; the diagonal always, so that no row is empty."""
    import torch

    places = torch.arange(mask.shape[1], device=mask.device)
    later = places[None, :] >= places[:, None]
    return (later & mask[:, None, :]) | (places[None, :] == places[:, None])
