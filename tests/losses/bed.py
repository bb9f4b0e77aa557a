"""A suitable batch for any loss, made from what the loss declares: how many responses, whose log-probs, which sequences beside them.

Shapes: B examples, S sequences of an example. Log-probs are multiples of 1/8 below 2^14, and so the same number in float32 and float64.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from raypref.losses.base import Loss, LossBatch
from raypref.types import PreferenceMatrix

MOST = 4
"""Responses of an example, where the loss sets no limit."""
LEVEL = {"near": 40.0, "extreme": 5000.0}
"""Size of a sequence's log-prob, in nats."""
DRIFT = {"near": 4.0, "extreme": 5000.0}
"""Size of the difference between the policy and a frozen one, in nats."""


def bed(loss: Loss, examples: int = 6, *, regime: str = "near", seed: int = 0) -> LossBatch:
    """A batch of ``examples`` with the statistics of itself; a loss that allows several numbers of responses gets different ones.

    Args:
        regime: ``near``, as in training, or ``extreme``: log-probs and log-ratios of thousands of nats.
    """
    draw = np.random.default_rng(seed)
    fewest, most = loss.responses
    counts = [int(draw.integers(fewest, 1 + (most or MOST))) for _ in range(examples)]
    copies = 3 if loss.revisions else 2 if loss.mismatched else 1
    present = np.arange(max(counts) * copies) < np.array(counts)[:, None] * copies
    logps = -_eighths(draw.uniform(0.1, 1.0, present.shape) * LEVEL[regime])
    targets = np.zeros(present.shape)
    for row, count in enumerate(counts):
        values = np.tile(loss.targets(preferences(draw, count + 1), tuple(range(count))), copies)
        targets[row, : len(values)] = values
    batch = LossBatch(
        logps=_tensor(logps, present),
        reference_logps=_frozen(draw, logps, present, regime) if "reference" in loss.needs else None,
        previous_logps=_frozen(draw, logps, present, regime) if "previous" in loss.needs else None,
        targets=_tensor(targets, present),
        lengths=_tensor(draw.integers(1, 40, present.shape).astype(float), present),
        mask=torch.from_numpy(present),
        token_kl=_tensor(_eighths(draw.uniform(0, 9, present.shape)), present) if loss.token_kl else None,
    )
    return with_statistics(loss, batch)


def preferences(draw: np.random.Generator, size: int) -> PreferenceMatrix:
    """(K, K) of a random oracle, every comparison answered."""
    upper = np.triu(draw.uniform(0.05, 0.95, (size, size)), 1)
    return PreferenceMatrix(upper + np.tril(1.0 - upper.T, -1) + 0.5 * np.eye(size), "drawn")


def with_statistics(loss: Loss, batch: LossBatch) -> LossBatch:
    """The batch with its own statistics, as the learner adds them."""
    found = loss.statistics(batch) if loss.has_statistics else {}
    return replace(batch, statistics={name: values.detach().mean() for name, values in found.items()})


def columns(batch: LossBatch) -> dict[str, Tensor]:
    """The (B, S) fields that are there."""
    found = {name: getattr(batch, name) for name in batch.__slots__ if name != "statistics"}
    return {name: value for name, value in found.items() if value is not None}


def rows(batch: LossBatch, chosen: list[int]) -> LossBatch:
    """Some examples of the batch, no wider than they need, with the whole batch's statistics."""
    width = int(batch.mask[chosen].sum(dim=1).max())
    return replace(batch, **{name: value[chosen, :width] for name, value in columns(batch).items()})


def padded(batch: LossBatch, width: int) -> LossBatch:
    """The same examples with ``width`` more columns, where no sequence is and the log-probs hold rubbish."""

    def widen(name: str, value: Tensor) -> Tensor:
        rubbish = 0 if name in ("mask", "lengths") else 77
        return torch.cat([value, torch.full((len(value), width), rubbish, dtype=value.dtype)], dim=1)

    return replace(batch, **{name: widen(name, value) for name, value in columns(batch).items()})


def in_float32(batch: LossBatch) -> LossBatch:
    """The batch in single precision, statistics included."""
    single = {name: value.float() for name, value in columns(batch).items() if name != "mask"}
    return replace(batch, **single, statistics={name: value.float() for name, value in batch.statistics.items()})


def gradient(loss: Loss, batch: LossBatch) -> Tensor:
    """(B, S) gradient of the summed loss with respect to the policy's log-probs."""
    leaf = batch.logps.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(replace(batch, logps=leaf)).loss.sum(), leaf)
    return found


def numeric_gradient(loss: Loss, batch: LossBatch, step: float = 1e-4) -> Tensor:
    """(B, S) the same by central differences, the statistics held."""
    found = torch.zeros_like(batch.logps)
    for place in range(found.numel()):
        shift = torch.zeros_like(batch.logps)
        shift.view(-1)[place] = step
        above, below = (loss(replace(batch, logps=batch.logps + sign * shift)).loss.sum() for sign in (1, -1))
        found.view(-1)[place] = (above - below) / (2 * step)
    return found


def _frozen(draw: np.random.Generator, logps: np.ndarray, present: np.ndarray, regime: str) -> Tensor:
    return _tensor(logps + _eighths(draw.uniform(-1.0, 1.0, logps.shape) * DRIFT[regime]), present)


def _eighths(values: np.ndarray) -> np.ndarray:
    return np.round(values * 8.0) / 8.0


def _tensor(values: np.ndarray, present: np.ndarray) -> Tensor:
    return torch.from_numpy(np.where(present, values, 0.0))
