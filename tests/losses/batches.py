"""Loss batches and a finite-difference check, in float64."""

from collections.abc import Callable

import torch

from raypref.losses.base import LossBatch, LossValue


def loss_batch(logps, frozen, targets, mask=None, lengths=None) -> LossBatch:
    """A batch of (B, S) nested lists; ``frozen`` stands for both frozen policies."""
    logps, frozen, targets = (torch.as_tensor(values, dtype=torch.float64) for values in (logps, frozen, targets))
    mask = torch.ones(logps.shape, dtype=torch.bool) if mask is None else torch.tensor(mask)
    lengths = torch.full(logps.shape, 10) if lengths is None else torch.tensor(lengths)
    return LossBatch(logps.requires_grad_(), frozen, frozen, targets, lengths, mask)


def metrics_of(value: LossValue) -> dict[str, list[float]]:
    """Name -> (B,) as a list."""
    return {name: figures.tolist() for name, figures in value.metrics.items()}


def gradients(loss: Callable[[LossBatch], LossValue], logps, frozen, targets, step: float = 1e-4) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, S) gradient of the summed loss by autograd, and by central differences."""
    batch = loss_batch(logps, frozen, targets)
    loss(batch).loss.sum().backward()
    assert batch.logps.grad is not None
    point = batch.logps.detach()
    numeric = torch.zeros_like(point)
    for place in range(point.numel()):
        shift = torch.zeros(point.numel(), dtype=torch.float64)
        shift[place] = step
        shift = shift.view_as(point)
        above, below = (loss(loss_batch(point + sign * shift, frozen, targets)).loss.sum() for sign in (1, -1))
        numeric.view(-1)[place] = ((above - below) / (2 * step)).detach()
    return batch.logps.grad, numeric
