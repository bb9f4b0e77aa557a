"""Loss batches from nested lists, in float64."""

from typing import Any

import torch

from raypref.losses.base import LossBatch, LossValue


def loss_batch(logps: Any, frozen: Any, targets: Any, mask: Any = None, lengths: Any = None) -> LossBatch:
    """A batch of (B, S) nested lists; ``frozen`` stands for both frozen policies."""
    logps, frozen, targets = (torch.as_tensor(values, dtype=torch.float64) for values in (logps, frozen, targets))
    mask = torch.ones(logps.shape, dtype=torch.bool) if mask is None else torch.tensor(mask)
    lengths = torch.full(logps.shape, 10) if lengths is None else torch.tensor(lengths)
    return LossBatch(logps.requires_grad_(), frozen, frozen, targets, lengths, mask)


def metrics_of(value: LossValue) -> dict[str, list[float]]:
    """Name -> (B,) as a list."""
    return {name: figures.tolist() for name, figures in value.metrics.items()}
