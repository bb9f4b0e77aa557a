"""The file that describes a batch whose loss is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raypref.types import Example


def write_batch(path: Path, examples: Sequence[Example], logps: np.ndarray, losses: np.ndarray) -> None:
    """Write a batch as JSON, the examples with a loss or log-prob that is not finite first.

    Args:
        path: the file; its directory is created.
        examples: (B,) the batch.
        logps: (sequences of all examples,) summed log-probs under the policy, in nats; one example's sequences after the other's.
        losses: (B,) one loss per example.
    """
    ends = np.cumsum([len(example.response_ids) for example in examples])
    by_example = zip(examples, np.split(logps, ends[:-1]), losses.tolist(), strict=True)
    rows = [_row(example, example_logps, loss) for example, example_logps, loss in by_example]
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
