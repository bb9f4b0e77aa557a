"""What ``raypref generate`` shows while the policy answers: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from raypref.metrics.progress import Callback
from raypref.metrics.progress_line import waiting_for
from raypref.types import Chain


class Answering(Callback):
    """A bar on standard error, which leaves standard output to the results; a plain line every ``every_s`` seconds if that is a file."""

    def __init__(self, prompts: int, every_s: float = 15.0) -> None:
        """
        Args:
            prompts: how many are to be answered.
            every_s: seconds between two plain lines.
        """
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._prompts, self._every_s = prompts, every_s
        self._answered = self._tokens = 0
        self._waiting: Sequence[str] = ()
        self._start = self._printed = time.monotonic()
        self._sampling: float | None = None
        described = TextColumn("{task.description}", markup=False)
        columns = (described, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar: Any = Progress(*columns, console=self._console) if self._console.is_terminal else None
        if self._bar is not None:
            self._task = self._bar.add_task("starting", total=prompts)
            self._bar.start()

    def on_waiting(self, actors: Sequence[str]) -> None:
        first, self._waiting = not self._waiting, actors
        if not actors:
            self._sampling = time.monotonic()
        self._show(force=first or not actors)

    def on_answered(self, chain: Chain) -> None:
        """A prompt's answers, and their revisions, are there."""
        self._answered += 1
        self._tokens += sum(len(response.token_ids) for answers in chain.rounds for response in answers)
        self._show(force=self._answered == self._prompts)

    def on_conversation(self) -> None:
        """A conversation has its last answer."""
        self._answered += 1
        self._show(force=self._answered == self._prompts)

    def on_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self) -> str:
        """``120 of 1000 prompts answered  5100 tokens/s  41 s``; before that ``starting rollout-0 ... (12 s)``."""
        seconds = time.monotonic() - self._start
        if self._waiting:
            return f"starting {waiting_for(self._waiting)} ... ({seconds:.0f} s)"
        return f"{self._answered} of {self._prompts} prompts answered{self._rate()}  {seconds:.0f} s"

    def _rate(self) -> str:
        if self._sampling is None or not self._tokens:
            return ""
        return f"  {self._tokens / max(time.monotonic() - self._sampling, 1e-3):.0f} tokens/s"

    def _show(self, *, force: bool) -> None:
        if self._bar is not None:
            described = f"starting {waiting_for(self._waiting)}" if self._waiting else f"answering{self._rate()}"
            self._bar.update(self._task, completed=self._answered, description=described)
        elif force or time.monotonic() - self._printed >= self._every_s:
            self._printed = time.monotonic()
            self._console.print(self.line(), highlight=False, markup=False, soft_wrap=True)
