"""What a run shows while it goes on: callbacks, and the progress line."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raypref.errors import ConfigError
from raypref.types import Prompt, Verdict

logger = logging.getLogger(__name__)


class Callback:
    """Override the hooks you need. They run on the driver's event loop, so return quickly. What they are given is theirs to change."""

    def on_waiting(self, actors: Sequence[str]) -> None:
        """The run starts, and these actors (``learner-0``, ``rollout-1``) are not ready yet; called again with each one less."""

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

    def on_held_out_loss(self, point: Mapping[str, Any]) -> None:
        """The loss on held-out examples was measured; ``point`` is an entry of the summary's ``held_out``."""

    def on_end(self) -> None:
        """The run has ended or failed. An error here is logged and changes nothing."""


@contextlib.contextmanager
def ended(callbacks: Sequence[Callback]) -> Iterator[Sequence[Callback]]:
    """The callbacks for the time of the block; at its end, or after an error in it, all of them are told.

    Raises:
        ConfigError: one of them is no ``Callback``.
    """
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks: {callback!r} is no raypref.Callback; give instances of a class that is derived from it")
    try:
        yield callbacks
    finally:
        Callbacks(callbacks).on_end()


class Callbacks(Callback):
    """Several callbacks as one. Each is given its own copies."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def on_waiting(self, actors: Sequence[str]) -> None:
        for callback in self._callbacks:
            callback.on_waiting(actors)

    def on_iteration(self, iteration: int) -> None:
        for callback in self._callbacks:
            callback.on_iteration(iteration)

    def on_sample(self, prompt: Prompt) -> None:
        for callback in self._callbacks:
            callback.on_sample(prompt)

    def on_group(self, verdict: Verdict) -> None:
        for callback in self._callbacks:
            callback.on_group(verdict)

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        for callback in self._callbacks:
            callback.on_step(step, dict(metrics))

    def on_evaluation(self, result: Mapping[str, Any]) -> None:
        for callback in self._callbacks:
            callback.on_evaluation(copy.deepcopy(result))

    def on_held_out_loss(self, point: Mapping[str, Any]) -> None:
        for callback in self._callbacks:
            callback.on_held_out_loss(dict(point))

    def on_end(self) -> None:
        for callback in self._callbacks:
            try:
                callback.on_end()
            except Exception:  # the run's result, or its error, must not be lost for it
                logger.exception("%s.on_end failed", type(callback).__name__)


MOST_NAMES = 6
"""Actors that the progress line names while it waits for them."""


def waiting_for(actors: Sequence[str]) -> str:
    """``learner-0, rollout-0 and 3 more``."""
    more = len(actors) - MOST_NAMES
    return ", ".join(actors[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


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
        self._live = Status("reading the data", console=self._console) if self._console.is_terminal else None
        self._every_s = every_s
        self._iterations = iterations
        self._steps = "" if steps is None else f"/{steps}"
        self._iteration = self._step = self._groups = self._evaluated = 0
        self._loss = self._win_rate = float("nan")
        self._held_out = ""
        self._start = self._printed = time.monotonic()
        self._sampling = _Sampling()
        self._waiting: Sequence[str] = ()
        self._over = threading.Event()
        if self._live is not None:
            self._live.start()

    def on_waiting(self, actors: Sequence[str]) -> None:
        if not self._waiting and actors:
            threading.Thread(target=self._tick, daemon=True, name="progress").start()
        first, self._waiting = not self._waiting, actors
        self._show(force=first)

    def on_iteration(self, iteration: int) -> None:
        self._waiting = ()
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

    def on_held_out_loss(self, point: Mapping[str, Any]) -> None:
        self._held_out = f"held-out loss {point['loss']:.4g} after step {point['step']}"
        self._show()

    def on_end(self) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()

    def _tick(self) -> None:
        """Count the seconds of the start, in which nothing else happens."""
        while self._waiting and not self._over.wait(1.0):
            self._show()

    def line(self) -> str:
        """``iteration 2/3  step 52  groups 610  5100 tokens/s  loss 0.83  win rate 0.610 after iteration 1  41 s``

        tokens/s is there while responses are being sampled. Before the first iteration: ``starting learner-0, rollout-0 ... (12 s)``.
        """
        if self._waiting:
            return f"starting {waiting_for(self._waiting)} ... ({time.monotonic() - self._start:.0f} s)"
        rate = self._sampling.tokens_per_s()
        parts = [
            f"iteration {max(1, self._iteration)}/{self._iterations}",
            f"step {self._step}{self._steps}" if self._step else "",
            f"groups {self._groups}",
            f"{rate:.0f} tokens/s" if rate is not None else "",
            f"loss {self._loss:.4g}" if self._loss == self._loss else "",
            self._held_out,
            f"win rate {self._win_rate:.3f} after iteration {self._evaluated}" if self._evaluated else "",
            f"{time.monotonic() - self._start:.0f} s",
        ]
        return "  ".join(part for part in parts if part)

    def _show(self, force: bool = False) -> None:
        if self._over.is_set():
            return
        if self._live is not None:
            self._live.update(self.line())
        elif force or time.monotonic() - self._printed >= self._every_s:
            self._printed = time.monotonic()
            self._console.print(self.line(), highlight=False, markup=False, soft_wrap=True)


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
