"""What a run tells while it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raypref.types import Verdict


class Callback:
    """Override what you want to hear of. Called from the driver, between two awaits: be quick."""

    def on_iteration(self, iteration: int) -> None:
        """An iteration begins; the first is 0."""

    def on_group(self, verdict: Verdict) -> None:
        """A prompt's responses were sampled and judged."""

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """An optimiser step was taken."""

    def on_evaluation(self, result: Mapping[str, Any]) -> None:
        """The policy of a finished iteration was evaluated; ``result`` is an entry of the summary's ``evaluations``."""

    def on_end(self) -> None:
        """The run is over, or failed."""


class ProgressLine(Callback):
    """One live line in a terminal; a plain line every ``every_s`` seconds where the output is a file (a Ray job's log)."""

    def __init__(self, iterations: int, every_s: float = 15.0) -> None:
        from rich.console import Console
        from rich.status import Status

        self._console = Console()
        self._live = Status("starting", console=self._console) if self._console.is_terminal else None
        self._every_s = every_s
        self._iterations = iterations
        self._iteration = self._step = self._groups = self._tokens = self._evaluated = 0
        self._loss = self._win_rate = float("nan")
        self._start = self._printed = time.monotonic()
        self._first_group: float | None = None
        self._last_group = 0.0
        if self._live is not None:
            self._live.start()

    def on_iteration(self, iteration: int) -> None:
        self._iteration = iteration
        self._first_group, self._tokens = None, 0

    def on_group(self, verdict: Verdict) -> None:
        self._last_group = time.monotonic()
        if self._first_group is None:
            self._first_group = self._last_group
        self._groups += 1
        self._tokens += int(verdict.metrics.get("rollout/tokens", 0))
        self._show()

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._step = step
        self._loss = metrics.get("loss", float("nan"))
        self._show()

    def on_evaluation(self, result: Mapping[str, Any]) -> None:
        self._win_rate, self._evaluated = result["base"]["win_rate"], result["iteration"]
        self._show(force=True)

    def on_end(self) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self) -> str:
        """``iteration 2/3  step 52  groups 610  5100 tokens/s  loss 0.83  win rate 0.610 after iteration 1  41 s``"""
        sampling_s = self._last_group - self._first_group if self._first_group is not None else 0.0
        parts = [
            f"iteration {self._iteration + 1}/{self._iterations}",
            f"step {self._step}" if self._step else "",
            f"groups {self._groups}",
            f"{self._tokens / sampling_s:.0f} tokens/s" if sampling_s > 0.1 and self._tokens else "",
            f"loss {self._loss:.4g}" if self._loss == self._loss else "",
            f"win rate {self._win_rate:.3f} after iteration {self._evaluated}" if self._evaluated else "",
            f"{time.monotonic() - self._start:.0f} s",
        ]
        return "  ".join(part for part in parts if part)

    def _show(self, force: bool = False) -> None:
        if self._live is not None:
            self._live.update(self.line())
        elif force or time.monotonic() - self._printed >= self._every_s:
            self._printed = time.monotonic()
            self._console.print(self.line(), highlight=False, soft_wrap=True)
