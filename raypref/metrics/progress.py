"""Callbacks: what a run tells while it goes on."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raypref.errors import ConfigError
from raypref.types import Prompt, Verdict

logger = logging.getLogger(__name__)


class Callback:
    """Override the hooks you need. They run on the driver's event loop, so return quickly. What they are given is theirs to change."""

    def on_waiting(self, actors: Sequence[str]) -> None:
        """The run starts, and these actors (``learner-0``, ``rollout-1``) are not ready yet; called again with each one less."""

    def on_sizes(self, groups: int, steps: int) -> None:
        """The loop begins: in an iteration without dropped groups so many prompts are sampled (0: given data), and so many steps taken."""

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
        """The loss on held-out examples or the likelihood of texts was measured; ``point`` is an entry of the summary's ``held_out``."""

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

    def on_sizes(self, groups: int, steps: int) -> None:
        for callback in self._callbacks:
            callback.on_sizes(groups, steps)

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
