"""An oracle that takes almost no time: of two responses, it prefers the one with more different words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rewards(prompts: Sequence[str], completions: Sequence[str], **more: Any) -> list[float]:
    """The number of different words of ``benchmarks.models`` in each completion, whether spaces separate them or not."""
    return [float(len({word.strip() for word in text.split("w")} - {""})) for text in completions]


def preferences(prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[NDArray[np.float64]]:
    """P[i, j] = sigmoid(reward i - reward j): a (K, K) matrix for each prompt."""
    scores = [np.array(rewards([prompt] * len(group), group)) for prompt, group in zip(prompts, responses, strict=True)]
    return [1 / (1 + np.exp(row[None, :] - row[:, None])) for row in scores]
