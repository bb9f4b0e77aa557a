"""How much memory the actors have held at most, asked now and then while the run goes on: ``memory_peak/<memory>/<role>``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

INTERVAL_S = 5.0
"""Shortest time between two questions to the same actor."""
GROWTH = 0.01
"""Share by which a peak must have grown to be written again."""
_GIB = 2**30


class MemoryPeaks:
    """Asks every actor without waiting for it: an answer is taken when it is there. An actor answers between two of its calls."""

    def __init__(self, handles: Mapping[str, Any]) -> None:
        """
        Args:
            handles: name of an actor (``learner-0``) -> its handle; those of replacements appear here.
        """
        self._handles = handles
        self._asked: dict[str, Any] = {}
        """Name of an actor -> the reference of its answer."""
        self._due: dict[str, float] = {}
        self._written: dict[str, float] = {}

    def take_metrics(self) -> dict[str, float]:
        """The peaks in GiB that have grown since they were last taken: the largest of each role's processes."""
        found: dict[str, float] = {}
        for name, peaks in self._answers().items():
            for memory, size in peaks.items():
                metric = f"memory_peak/{memory}/{name.rpartition('-')[0]}"
                found[metric] = max(found.get(metric, 0.0), size / _GIB)
        grown = {metric: size for metric, size in found.items() if size > (1 + GROWTH) * self._written.get(metric, 0.0)}
        self._written |= grown
        self._ask(time.monotonic())
        return grown

    def _answers(self) -> dict[str, dict[str, int]]:
        names = {reference: name for name, reference in self._asked.items()}
        ready, _ = ray.wait(list(names), num_returns=len(names), timeout=0) if names else ([], [])
        answers = {}
        for reference in ready:
            del self._asked[names[reference]]
            try:
                answers[names[reference]] = ray.get(reference)
            except RayError:  # the actor is gone, which its supervision notices and reports
                continue
        return answers

    def _ask(self, now: float) -> None:
        for name, handle in self._handles.items():
            if name not in self._asked and now >= self._due.get(name, 0.0):
                self._due[name] = now + INTERVAL_S
                self._asked[name] = handle.__ray_call__.remote(own_peaks)


def own_peaks(actor: object) -> dict[str, int]:
    """Bytes that this process has held at most: ``gpu`` of PyTorch's tensors on one GPU, where it has any, and ``host`` of all memory."""
    peaks = {"host": _host_peak()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        peaks["gpu"] = max(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    return {memory: size for memory, size in peaks.items() if size}


def _host_peak() -> int:
    """The largest resident set so far, from the kernel (``VmHWM``, in KiB)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)
