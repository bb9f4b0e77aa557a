"""What a run shows while it goes on: callbacks, and the progress line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raypref.types import Prompt, Verdict


class Callback:
    """Override the hooks you need. They run on the driver's event loop, so return quickly."""

    def on_iteration(self, iteration: int) -> None:
        """An iteration begins; the first is 1."""

    def on_sample(self, prompt: Prompt) -> None:
        """The engines are asked for a training prompt's responses."""

    def on_group(self, verdict: Verdict) -> None:
        """A prompt's responses were sampled and judged."""

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """An optimiser step was taken; the first is 1."""

    def on_evaluation(self, result: Mapping[str, Any]) -> None:
        """The policy of a finished iteration was evaluated; ``result`` is an entry of the summary's ``evaluations``."""

    def on_end(self) -> None:
        """The run has ended or failed."""


class ProgressLine(Callback):
    """One live line in a terminal; a plain line every ``every_s`` seconds if the output is a file (a Ray job's log)."""

    def __init__(self, iterations: int, every_s: float = 15.0, steps: int | None = None) -> None:
        """
        Args:
            iterations: how many the run has.
            every_s: seconds between two plain lines.
            steps: how many optimiser steps the run has, where the config says so (``loop.steps``).
        """
        from rich.console import Console
        from rich.status import Status

        self._console = Console()
        self._live = Status("starting", console=self._console) if self._console.is_terminal else None
        self._every_s = every_s
        self._iterations = iterations
        self._steps = "" if steps is None else f"/{steps}"
        self._iteration = self._step = self._groups = self._evaluated = 0
        self._loss = self._win_rate = float("nan")
        self._start = self._printed = time.monotonic()
        self._sampling = _Sampling()
        if self._live is not None:
            self._live.start()

    def on_iteration(self, iteration: int) -> None:
        self._iteration = iteration
        self._sampling = _Sampling()

    def on_sample(self, prompt: Prompt) -> None:
        self._sampling.asked()

    def on_group(self, verdict: Verdict) -> None:
        self._groups += 1
        self._sampling.answered(int(verdict.metrics.get("rollout/tokens", 0)))
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
        """``iteration 2/3  step 52  groups 610  5100 tokens/s  loss 0.83  win rate 0.610 after iteration 1  41 s``

        tokens/s is there while responses are being sampled.
        """
        rate = self._sampling.tokens_per_s()
        parts = [
            f"iteration {max(1, self._iteration)}/{self._iterations}",
            f"step {self._step}{self._steps}" if self._step else "",
            f"groups {self._groups}",
            f"{rate:.0f} tokens/s" if rate is not None else "",
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


class _Sampling:
    """The sampling of one iteration: tokens of finished groups, since the first request was sent."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._in_flight = 0
        self._tokens = 0

    def asked(self) -> None:
        if self._started is None:
            self._started = time.monotonic()
        self._in_flight += 1

    def answered(self, tokens: int) -> None:
        self._in_flight -= 1
        self._tokens += tokens

    def tokens_per_s(self) -> float | None:
        """None before the first group and while nothing is being sampled."""
        if self._started is None or not self._tokens or self._in_flight <= 0:
            return None
        return self._tokens / max(time.monotonic() - self._started, 1e-3)
