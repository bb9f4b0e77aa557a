"""The learner's loss on held-out examples, and the policy's likelihood of held-out texts, measured while the run trains.

Within an iteration the frozen log-probs of held-out examples come from the same policies as those of its training examples: pi_ref, and
the pi_t that the iteration started from. So the loss after an iteration's last step can be compared with that of its training batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from raypref.config import RunConfig
from raypref.loop.iterations import due
from raypref.metrics.progress import Callback
from raypref.metrics.writer import RunMeter
from raypref.output.checkpoint import RunState
from raypref.output.outcome import Outcome
from raypref.roles import LearnerRole
from raypref.types import Example, ExamplesRef, Slice


class HeldOutLoss:
    """Measures the loss on held-out examples and the likelihood of texts where it is due; training is the same with and without it."""

    def __init__(
        self,
        config: RunConfig,
        learner: LearnerRole,
        examples: Sequence[Example],
        texts: Sequence[Example] = (),
        *,
        score: Callable[[ExamplesRef], Awaitable[ExamplesRef]],
        outcome: Outcome,
        meter: RunMeter,
        callbacks: Callback,
    ) -> None:
        """
        Args:
            config: of the run; ``evaluation`` says how often.
            learner: evaluates the loss.
            examples: the held-out ones, for the loss.
            texts: examples for the likelihood. With none of either nothing happens.
            score: fills in the frozen log-probs that the loss reads.
            outcome: what is measured is added to its ``held_out``, which holds what a resumed run measured before.
            meter: writes the metrics, under ``eval/``.
            callbacks: called after each measurement.
        """
        self._config = config
        self._learner = learner
        self._examples = examples if config.evaluation.wanted(examples) else ()
        self._texts = tuple(texts) if config.evaluation.wanted(texts) else ()
        self._score = score
        self._outcome = outcome
        self._meter = meter
        self._callbacks = callbacks
        self._epoch = 0
        """Of the last batch."""
        self._scored: list[Slice] = []
        """The examples with the frozen log-probs of the iteration ``_scored_for``."""
        self._scored_for: int | None = None

    async def before_step(self, state: RunState, epoch: int) -> None:
        """Measure the loss before the run's first step, and before the first step after an epoch.

        Args:
            state: of the step.
            epoch: of its batch.
        """
        ended, self._epoch = epoch > self._epoch, epoch
        whole_epochs = self._config.steps_per_iteration is None  # with a sync interval an epoch is a few steps
        if state.step == 0 or (ended and whole_epochs and self._iteration_due(state)) or self._multiple(state):
            await self._measure(state)

    def passed_over(self, epoch: int) -> None:
        """Note the epoch of a batch that is not trained again, in a resumed run."""
        self._epoch = epoch

    async def after_steps(self, state: RunState) -> None:
        """Measure the loss after an iteration's last step, while its frozen policies are still there.

        Args:
            state: after the step, in that iteration.
        """
        if state.step > 0 and (self._iteration_due(state) or self._multiple(state)):
            await self._measure(state)

    def _multiple(self, state: RunState) -> bool:
        every = self._config.evaluation.loss_every_steps
        return every is not None and state.step % every == 0

    def _iteration_due(self, state: RunState) -> bool:
        """Whether the policy is evaluated at the end of this iteration."""
        evaluation = self._config.evaluation
        return due(self._config, state.iteration + 1, every=evaluation.every, every_steps=evaluation.every_steps)

    async def _measure(self, state: RunState) -> None:
        """Measure loss and likelihood, unless that was done at this step."""
        points = self._outcome.held_out
        if not (self._examples or self._texts) or (points and points[-1]["step"] == state.step):
            return
        counts, values = {}, {}
        with self._meter.stage("evaluate"):
            if self._examples:
                await self._score_all(state.iteration)
                counts, values = {"examples": len(self._examples)}, dict(await self._learner.evaluate(self._scored))
            if self._texts:
                counts["texts"] = len(self._texts)
                values |= await self._learner.likelihood([Slice(self._texts, 0, len(self._texts))])
        points.append({"iteration": state.iteration + 1, "step": state.step, **counts, **values})
        self._meter.write(state.step, {f"eval/{name}": value for name, value in values.items()})
        self._callbacks.on_held_out_loss(points[-1])

    async def _score_all(self, iteration: int) -> None:
        """Fill in the frozen log-probs, if those that are there may be of other policies."""
        changes = "previous" in self._config.frozen_logps or self._config.reference.policy == "refreshed"
        if self._scored_for is not None and (self._scored_for == iteration or not changes):
            return
        size = self._config.learner.global_batch
        parts = [tuple(self._examples[start : start + size]) for start in range(0, len(self._examples), size)]
        scored = await asyncio.gather(*(self._score(part) for part in parts))
        self._scored = [Slice(ref, 0, len(part)) for ref, part in zip(scored, parts, strict=True)]
        self._scored_for = iteration
