"""What a run shows by default: bars by stage in a terminal, plain lines in a file (a job's log)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raypref.metrics.progress import Callback
from raypref.types import Prompt, Verdict

MOST_NAMES = 6
"""Actors that the progress line names while it waits for them."""


def waiting_for(actors: Sequence[str]) -> str:
    """``learner-0, rollout-0 and 3 more``."""
    more = len(actors) - MOST_NAMES
    return ", ".join(actors[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage of the iteration."""

    stage: str
    done: int
    total: int
    """0: not known."""
    unit: str
    note: str = ""


class ProgressLine(Callback):
    """Bars by stage, with the time that is left, in a terminal; a plain line every ``every_s`` seconds if the output is a file."""

    def __init__(self, iterations: int, every_s: float = 15.0, steps: int | None = None) -> None:
        """
        Args:
            iterations: how many the run has.
            every_s: seconds between two plain lines.
            steps: how many optimiser steps the run has, where the config says so (``loop.steps``).
        """
        from rich.console import Console

        self._console = Console()
        self._every_s = every_s
        self._iterations = iterations
        self._steps = "" if steps is None else f"/{steps}"
        self._iteration = self._step = self._groups = self._evaluated = 0
        self._groups_before = self._steps_before = 0
        """Of the iterations before this one."""
        self._sizes = (0, 0)
        """Groups and steps of an iteration; 0: not known."""
        self._first: tuple[int, float] | None = None
        """The iteration that came first since the actors started, and when."""
        self._loss = self._win_rate = float("nan")
        self._held_out = ""
        self._start = time.monotonic()
        self._printed = float("-inf")
        self._sampling = _Sampling()
        self._actors = 0
        self._waiting: Sequence[str] | None = None
        """None: the actors are not being started yet."""
        self._showing = threading.Lock()
        self._over = threading.Event()
        self._live = self._started_live() if self._console.is_terminal else None
        self._show()
        threading.Thread(target=self._tick, daemon=True, name="progress").start()

    def on_waiting(self, actors: Sequence[str]) -> None:
        first, self._waiting = not self._waiting, actors
        if first:  # the start, or another one after a failure
            self._actors, self._first = len(actors), None
        self._show(force=first)

    def on_sizes(self, groups: int, steps: int) -> None:
        self._sizes = (groups, steps)

    def on_iteration(self, iteration: int) -> None:
        self._waiting = ()
        self._iteration = iteration
        self._groups_before, self._steps_before = self._groups, self._step
        self._sampling = _Sampling()
        if self._first is None:
            self._first = (iteration, time.monotonic())

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
        name, value = ("loss", point["loss"]) if "loss" in point else ("text NLL", point["text_nll"])
        self._held_out = f"held-out {name} {value:.4g} after step {point['step']}"
        self._show()

    def on_end(self) -> None:
        self._over.set()
        with self._showing:
            if self._live is not None:
                self._live.stop()

    def line(self) -> str:
        """``iteration 2/3  step 52  groups 610  5100 tokens/s  loss 0.83  win rate 0.610 after iteration 1  41 s, about 20 s left``

        tokens/s is there while responses are being sampled. Before the first iteration: ``starting learner-0, rollout-0 ... (12 s)``.
        """
        seconds = time.monotonic() - self._start
        if self._waiting is None:
            return f"reading the config, the model's files and the data ... ({seconds:.0f} s)"
        if self._waiting:
            return f"starting {waiting_for(self._waiting)} ... ({seconds:.0f} s)"
        parts = [self._place(), f"groups {self._groups}", self._rate(), self._result(), self._clock(seconds)]
        return "  ".join(part for part in parts if part)

    def bars(self) -> Iterator[Bar]:
        """The stages: the actors' start, or sampling and training of the iteration."""
        if self._waiting:
            yield Bar("starting", self._actors - len(self._waiting), self._actors, "actors")
        elif self._waiting is not None:
            groups, steps = self._sizes
            if groups or self._groups:
                yield Bar("sampled, judged", self._groups - self._groups_before, groups, "groups", self._rate())
            yield Bar("trained", self._step - self._steps_before, steps, "steps")

    def left_s(self) -> float | None:
        """Seconds that the run may still take, from how far it has come since its first iteration; None before a twentieth of one."""
        if self._first is None:
            return None
        first, began = self._first
        sizes = [size for size in self._sizes if size]
        counts = [self._groups - self._groups_before, self._step - self._steps_before]
        shares = [min(1.0, count / size) for count, size in zip(counts, self._sizes, strict=True) if size]
        done = self._iteration - first + (sum(shares) / len(sizes) if sizes else 0.0)
        if done < 0.05:
            return None
        return (time.monotonic() - began) * (self._iterations - first + 1 - done) / done

    def _place(self) -> str:
        step = f"  step {self._step}{self._steps}" if self._step else ""
        return f"iteration {max(1, self._iteration)}/{self._iterations}{step}"

    def _rate(self) -> str:
        rate = self._sampling.tokens_per_s()
        return f"{rate:.0f} tokens/s" if rate is not None else ""

    def _result(self) -> str:
        parts = [
            f"loss {self._loss:.4g}" if self._loss == self._loss else "",
            self._held_out,
            f"win rate {self._win_rate:.3f} after iteration {self._evaluated}" if self._evaluated else "",
        ]
        return "  ".join(part for part in parts if part)

    def _clock(self, seconds: float) -> str:
        left = self.left_s()
        return f"{seconds:.0f} s" + ("" if left is None or left < 1.0 else f", about {in_words(left)} left")

    def _tick(self) -> None:
        """Show that time passes, also while nothing else happens."""
        while not self._over.wait(1.0):
            self._show()

    def _show(self, force: bool = False) -> None:
        with self._showing:
            if self._over.is_set():
                return
            if self._live is not None:
                self._live.update(self._shown(), refresh=force)
            elif force or time.monotonic() - self._printed >= self._every_s:
                self._printed = time.monotonic()
                self._console.print(self.line(), highlight=False, markup=False, soft_wrap=True)

    def _started_live(self) -> Any:
        from rich.live import Live

        live = Live(self._shown(), console=self._console, transient=True, refresh_per_second=4)
        live.start()
        return live

    def _shown(self) -> Any:
        """Bars and a line below them."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for bar in self.bars():
            known = f"{bar.done}/{bar.total} {bar.unit}" if bar.total else f"{bar.done} {bar.unit}"
            drawn = ProgressBar(total=bar.total or None, completed=min(bar.done, bar.total or bar.done), width=24, pulse=not bar.total)
            grid.add_row(bar.stage, drawn, known, Text(bar.note))
        seconds = time.monotonic() - self._start
        below = self.line() if not self._iteration else "  ".join(filter(None, [self._place(), self._result(), self._clock(seconds)]))
        return Group(grid, Text(below))


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
