"""Log-probs without the matrix of logits: seconds and peak memory of plain ``linear`` and ``log_softmax``, over those of ours.

Forward and backward pass of one head in float32; the two sides take turns. Memory is the growth of the process' resident set at its peak,
gradients included.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.figure import Figure

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARIES = (32_000, 128_000)
TIME_BARS = {64: 1 / 1.15, 768: 1 / 1.35}
"""Hidden size -> bar."""
MEMORY_BARS = {32_000: 0.0, 128_000: 5.0}
TIMED_TOKENS = {32_000: 2048, 128_000: 512}
"""Two chunks each: one whose probabilities are kept, and one that is computed twice."""
MEASURED_TOKENS = 2048
"""For the memory."""
SAMPLES = 5
MEMORY_SAMPLES = 5
"""They agree within a few MiB."""


def main(arguments: Sequence[str]) -> int:
    for vocabulary in VOCABULARIES:
        for hidden_size, bar in TIME_BARS.items():
            _time(vocabulary, hidden_size, bar)
        _memory(vocabulary, 64)
    return 0


def plain(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    return (hidden @ weight.T).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def ours(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    from raypref.training.head import head_logps

    return head_logps(hidden, weight, None, tokens)


def _time(vocabulary: int, hidden_size: int, bar: float) -> None:
    tokens = TIMED_TOKENS[vocabulary]
    step = _step(tokens, hidden_size, vocabulary)
    turns = [(_seconds(step, plain), _seconds(step, ours)) for _ in range(SAMPLES + 1)][1:]
    a, b = (median(turn[side] for turn in turns) for side in (0, 1))
    unit = f"seconds of plain log-probs ({a:.3f}) over ours ({b:.3f}), {tokens} tokens"
    Figure(f"logprobs_time_{vocabulary}_{hidden_size}", median(x / y for x, y in turns), bar, unit, SAMPLES).show()


def _memory(vocabulary: int, hidden_size: int) -> None:
    step = _step(MEASURED_TOKENS, hidden_size, vocabulary)
    step(ours)  # what is allocated only once
    turns = [(_peak_mib(step, plain), _peak_mib(step, ours)) for _ in range(MEMORY_SAMPLES)]
    a, b = (median(turn[side] for turn in turns) for side in (0, 1))
    unit = f"MiB at the peak of plain log-probs ({a:.0f}) over ours ({b:.0f}), {MEASURED_TOKENS} tokens"
    Figure(f"logprobs_memory_{vocabulary}_{hidden_size}", a / b, MEMORY_BARS[vocabulary], unit, MEMORY_SAMPLES).show()


def _step(tokens: int, hidden_size: int, vocabulary: int) -> Callable[[Callable[..., Tensor]], None]:
    """A function that runs a forward and a backward pass through the log-probs that it is given."""
    import torch

    torch.manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, requires_grad=True)
    weight = (0.05 * torch.randn(vocabulary, hidden_size)).requires_grad_()
    targets, weights = torch.randint(0, vocabulary, (tokens,)), torch.randn(tokens)

    def step(logps: Callable[..., Tensor]) -> None:
        hidden.grad = weight.grad = None
        (logps(hidden, weight, targets) * weights).sum().backward()

    return step


def _seconds(step: Callable[[Callable[..., Tensor]], None], logps: Callable[..., Tensor]) -> float:
    start = time.perf_counter()
    step(logps)
    return time.perf_counter() - start


def _peak_mib(step: Callable[[Callable[..., Tensor]], None], logps: Callable[..., Tensor]) -> float:
    """How far the resident set rises above its present size."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    step(logps)
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """KiB."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
