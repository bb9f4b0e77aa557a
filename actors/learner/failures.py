"""What is left on disk of a batch whose loss is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raypref.types import Example

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scored:
    """What a micro-batch of M examples with N sequences gave."""

    examples: tuple[int, ...]
    """(M,) indices into the global batch."""
    logps: Tensor
    """(N,) summed log-probs under the policy, one example's sequences after the other's."""
    losses: Tensor
    """(M,)"""


def spread(scored: Iterable[Scored], examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """(total sequences,) log-probs and (B,) losses of the global batch, 0 where another rank has them."""
    starts = np.cumsum([0, *(len(example.response_ids) for example in examples)])
    logps, losses = np.zeros(starts[-1]), np.zeros(len(examples))
    for part in scored:
        rows = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in part.examples])
        logps[rows] = part.logps.double().cpu().numpy()
        losses[list(part.examples)] = part.losses.double().cpu().numpy()
    return logps, losses


def dump_batch(path: Path, examples: Sequence[Example], logps: np.ndarray, losses: np.ndarray) -> None:
    """Write a batch as JSON, the examples with a loss or log-prob that is not finite first.

    Args:
        path: the file; its directory is made.
        examples: the batch.
        logps: (total sequences,) summed log-probs under the policy, one example's sequences after the other's.
        losses: (B,) one loss an example.
    """
    ends = np.cumsum([len(example.response_ids) for example in examples])
    rows = [_row(example, own, loss) for example, own, loss in zip(examples, np.split(logps, ends[:-1]), losses.tolist(), strict=True)]
    rows.sort(key=lambda row: row["finite"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"examples": rows}, indent=1))


def _row(example: Example, logps: np.ndarray, loss: float) -> dict[str, Any]:
    return {
        "prompt_id": example.prompt_id,
        "finite": math.isfinite(loss) and bool(np.isfinite(logps).all()),
        "loss": _number(loss),
        "targets": _numbers(example.targets),
        "policy_logps": _numbers(logps),
        "reference_logps": _numbers(example.reference_logps),
        "previous_logps": _numbers(example.previous_logps),
        "policy_version": example.policy_version,
        "prompt_ids": [prompt.tolist() for prompt in example.prompt_ids],
        "response_ids": [response.tolist() for response in example.response_ids],
    }


def _numbers(values: Iterable[float] | None) -> list[float | str] | None:
    return None if values is None else [_number(float(value)) for value in values]


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity: those are written as text."""
    return value if math.isfinite(value) else str(value)
