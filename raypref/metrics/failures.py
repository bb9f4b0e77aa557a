"""What a run tells of the failures that it has survived: metrics, and entries of ``summary.json``."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from raypref.errors import InputSetAside
from raypref.metrics.writer import RunMeter
from raypref.output.outcome import Outcome
from raypref.output.set_aside import SetAside

logger = logging.getLogger(__name__)


class Failures:
    """The failures of one run: those of the infrastructure by role, and those of an input."""

    def __init__(self, outcome: Outcome, meter: RunMeter, step: Callable[[], int], aside: SetAside) -> None:
        """
        Args:
            outcome: gets the entries.
            meter: writes the metrics.
            step: how many optimiser steps have been taken.
            aside: the inputs that are not asked again, also of the run before it was resumed.
        """
        self._outcome = outcome
        outcome.set_aside = aside.entries
        self.aside = aside
        self._meter = meter
        self._step = step
        self._replaced: Counter[str] = Counter()

    def replaced(self, actor: str, reason: str) -> None:
        """An actor was lost, and another one starts in its place."""
        role = actor.rpartition("-")[0]
        self._replaced[role] += 1
        self._outcome.replacements.append({**self._when(), "actor": actor, "reason": reason})
        self._meter.write(self._step(), {f"failures/restarts/{role}": float(self._replaced[role])})

    def set_aside(self, name: str, prompt_id: str, error: InputSetAside) -> None:
        """A prompt's group was dropped; ``name`` is that of its input (``SetAside``)."""
        logger.warning("prompt %r is set aside, and its group dropped: %s", prompt_id, error)
        self.aside.add(name, {**self._when(), "prompt": prompt_id, "reason": str(error)})
        self._meter.write(self._step(), {"failures/set_aside": float(len(self.aside.entries))})

    def _when(self) -> dict[str, object]:
        return {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": self._step()}
