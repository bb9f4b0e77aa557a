"""The loop, top to bottom: sample, judge, score, train, sync; evaluate and save between iterations.

             sample            judge              score             train
    prompt -----------> rollout -------> examples -------> batch ------------> pi_{t+1}
             engines           oracle          references        learner          |
                ^                                  ^                              |
                |                                  |                              |
                +----------------------------------+------------ sync ------------+

    sync pi_0
    for each iteration t:
        save and evaluate pi_t               }  with ``loop.overlap`` all three run at the same time: the engines sample while
        for each prompt: sample, judge, score}  pi_t is saved and evaluated, and the learner takes its first step as soon as one
        for each full batch: train           }  batch is full and pi_t is saved
        sync pi_{t+1}, and check every copy
    save and evaluate the last policy, export it

Every algorithm is this loop. What differs is data: which responses are kept, which log-probs are computed, which loss is taken. Given
preferences are examples already: they are only scored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raypref.config import RunConfig
from raypref.data.fingerprint import Fingerprint
from raypref.errors import LossNotFinite
from raypref.loop.batch_stream import Batch, BatchStream
from raypref.loop.evaluation import Evaluator
from raypref.loop.garbage_collection import frozen_heap
from raypref.loop.groups import GroupStages
from raypref.loop.held_out_loss import HeldOutLoss
from raypref.loop.iterations import Iterations
from raypref.loop.mismatched_partners import MismatchedPartners
from raypref.loop.reference_refresh import ReferenceRefresh
from raypref.loop.regulariser_samples import RegulariserSamples
from raypref.loop.requests import RequestBuilder
from raypref.loop.saving import Saving
from raypref.loop.unfinished import UnfinishedIteration
from raypref.loop.weight_sync import WeightSync
from raypref.metrics.failures import Failures
from raypref.metrics.progress import Callback, Callbacks
from raypref.metrics.writer import MetricsWriter, RunMeter
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.outcome import Outcome
from raypref.output.removal import replacing
from raypref.output.resumption import settings_hash
from raypref.output.set_aside import SetAside
from raypref.roles import Audience, Roles
from raypref.types import RunData

logger = logging.getLogger(__name__)


class Driver:
    """Runs the loop over the roles."""

    def __init__(
        self,
        config: RunConfig,
        roles: Roles,
        data: RunData,
        *,
        metrics: MetricsWriter,
        callbacks: Sequence[Callback] = (),
        recorded: frozenset[str] = frozenset(),
    ) -> None:
        """
        Args:
            config: of the run.
            roles: what the loop runs over.
            data: of the run.
            metrics: where metrics go.
            callbacks: told of everything that happens.
            recorded: origins of the groups that an interrupted run has sampled and judged.
        """
        self.config = config
        self.roles = roles
        self.data = data
        self.callbacks = Callbacks(callbacks)
        self.meter = RunMeter(metrics, config.placement)
        self.state = RunState()
        self.outcome = Outcome()
        self.requests = RequestBuilder(config.seed, config.rollout, settings_hash(config))
        self.failures = Failures(self.outcome, self.meter, lambda: self.state.step, SetAside(config.output_dir))
        self.groups = GroupStages(roles, self.requests, config.rollout.responses, self.meter, self.callbacks, recorded, self.failures)
        self.iterations = Iterations(config, data)
        self.checkpoints = Checkpoints.of(config, Fingerprint.of(data))
        self.saving = Saving(config, roles.learner, self.checkpoints, self.meter.stage)
        self.weight_sync = WeightSync(config, roles, data, self.requests)
        self.reference_refresh = ReferenceRefresh(config.reference, roles.learner, roles.reference, config.output_dir)
        judged = roles.oracle is not None and config.evaluation.wanted(data.held_out)
        self.evaluator = Evaluator(config, roles, data, self.requests) if judged else None
        shown: dict[str, Any] = {"outcome": self.outcome, "meter": self.meter, "callbacks": self.callbacks}
        self.held_out_loss = HeldOutLoss(config, roles.learner, data.held_out_examples, data.texts, score=self.groups.score, **shown)
        self.regulariser = (
            RegulariserSamples(config, roles, data, requests=self.requests, sync=self._sync_weights) if config.regulariser.on else None
        )
        self._partners: MismatchedPartners | None = None
        """For a loss that wants mismatched responses: the rollouts of the current iteration, in pairs."""
        self._synced_step: int | None = None
        """The step after which the engines were last given pi_t."""
        self._repeats = False
        """Whether what is done now is a repetition, in a resumed run."""
        self._concluded: int | None = None
        """The last iteration whose policy was saved and evaluated, where it was due."""
        self._unfinished: UnfinishedIteration | None = None
        """The iteration that the run is resumed in, until its first new step."""

    async def run(self, resume_from: Path | None = None) -> Outcome:
        """Run all iterations, from the start or from a checkpoint.

        Args:
            resume_from: a directory that ``Checkpoints`` wrote; the result is the same as that of a run that was never stopped.
        """
        self.meter.started()
        self.callbacks.on_sizes(self.iterations.groups(), self.iterations.steps())
        with frozen_heap():
            self._repeats = resume_from is not None
            await self._sync()
            if resume_from is not None:
                await self._resume(resume_from)
            self._repeats = False
            try:
                while self.state.iteration < self.config.iterations:
                    await self._iterate()
                    await self._sync()
                    self.meter.iteration(self.state.step)
                self.iterations.note_missing_steps(self.state)
                await self._save_and_evaluate()
                with self.meter.stage("export"), replacing(self.config.output_dir / "policy") as place:
                    await self.roles.learner.export(place)
                await self.saving.end(self.outcome)
            except (Exception, asyncio.CancelledError) as error:
                await self.saving.rescue(self.state, self.outcome, error)
                raise
        self.outcome.steps, self.outcome.sync, self.outcome.seconds = self.state.step, self.weight_sync.largest, self.meter.seconds()
        return self.outcome

    # --- one iteration ----------------------------------------------------------------------------------------------------------------

    async def _iterate(self) -> None:
        """Train pi_{t+1} on the responses of pi_t. pi_t is saved and evaluated before the first step."""
        state = self.state
        overlap = self.config.loop.overlap and not self.reference_refresh.due(state.iteration)  # a new pi_ref is pi_t, which is saved first
        if not overlap:
            await self._save_and_evaluate()
        self.callbacks.on_iteration(state.iteration + 1)
        await self.reference_refresh.before(state.iteration, resumed_from=self.saving.iterations())
        stream = self._stream()
        try:
            if overlap:
                await self._save_and_evaluate(meanwhile=stream)
            taken = await self._train(stream)
        finally:
            await stream.close()
        self.meter.unused(stream.unused() | (self._partners.unused() if self._partners else {}))
        if not taken:
            if state.iteration != self.saving.newest:
                await self.saving.save(state, self.outcome)  # the policy is still pi_t
            raise self.iterations.no_example(state, self.checkpoints.directory)
        end = RunState(state.iteration + 1, self.state.step, state.cursor + self.iterations.items_used(taken))
        self.state = self.saving.trained = end
        if self.roles.oracle is not None and self.data.sampled and self.saving.due(end):
            await self.roles.oracle.seal(end.iteration)  # else an online run would write a file for each step
            if self.roles.reference is not None:
                await self.roles.reference.seal(end.iteration)

    def _stream(self) -> BatchStream[Any]:
        """The batches of this iteration; nothing is started yet."""
        t = self.state.iteration
        if self.data.sampled and self.config.loss.mismatched:
            sample = partial(self.groups.sample, iteration=t)
            self._partners = MismatchedPartners(sample, self.data.prompts, self.state.cursor)
        from_prompt = partial(self.groups.from_prompt, iteration=t, partners=self._partners)
        process = from_prompt if self.data.sampled else self.groups.from_example
        return BatchStream(
            self._unfinished.scoring(process, self.config.learner.epochs) if self._unfinished else partial(process, scored=True),
            self.iterations.items(self.state.cursor),
            batch_size=self.config.learner.global_batch,
            window=self.config.groups_in_flight(),
            max_batches=self.config.loop.sync_interval,
            max_examples=self.iterations.max_examples(),
        )

    # --- train ----------------------------------------------------------------------------------------------------------------------------

    async def _train(self, stream: BatchStream[Any]) -> int:
        """Take the iteration's steps; how many of its groups they used up."""
        await self.roles.learner.begin_iteration(self.state.iteration, self.iterations.steps())
        seeds = self.iterations.epoch_seeds(self.state.iteration)
        # Without overlap, and where a regulariser needs the engines between the steps, all of the iteration's responses are sampled first.
        sample_first = not self.config.loop.overlap or (self.regulariser is not None and self.data.sampled)
        taken = 0
        async with contextlib.aclosing(stream.epochs(seeds, complete_first=sample_first)) as batches:
            if self._unfinished is not None:
                await self._unfinished.pass_over(batches, learner=self.roles.learner, held_out=self.held_out_loss, meter=self.meter)
                self.state, self._unfinished = self._unfinished.state, None
            async for batch in batches:
                await self._step(batch)
                taken = batch.groups_taken
        await self.held_out_loss.after_steps(self.state)
        return taken

    async def _step(self, batch: Batch) -> None:
        if self.regulariser is not None and self.state != self.saving.newest_within:  # a checkpoint has the samples
            held_version = self.state.iteration if self._synced_step == self.state.step else None
            with self.meter.stage("regulariser"):
                await self.regulariser.before_step(self.state.step, held_version)
        await self.held_out_loss.before_step(self.state, batch.epoch)
        await self.saving.before_step(self.state, self.outcome)
        with self.meter.stage("train"):
            try:
                values = await self.roles.learner.step(batch.slices)
            except LossNotFinite:
                with replacing(self.config.output_dir / "policy_before_failure") as place:
                    await self.roles.learner.export(place)
                raise
        self.state = self.state.after_step(batch.groups_taken)
        self.meter.step(self.state.step, values, self._synced_step)
        self.callbacks.on_step(self.state.step, values)

    # --- sync -----------------------------------------------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        """Give pi_t to every engine and reference, and check that it arrived."""
        if self.weight_sync.needed:
            await self._sync_weights(self.state.iteration, "all")
            self._synced_step = self.state.step

    async def _sync_weights(self, version: int, audience: Audience) -> None:
        with self.meter.stage("sync"):
            metrics = await self.weight_sync.sync(version, audience)
        if not self._repeats:
            self.meter.write(self.state.step, {**metrics, "sync/policy_version": float(version)})

    # --- evaluate and save ----------------------------------------------------------------------------------------------------------------

    async def _save_and_evaluate(self, meanwhile: BatchStream[Any] | None = None) -> None:
        """Save pi_t and evaluate it, each if it is due, and once. Once saved it is not lost if the evaluation fails.

        Args:
            meanwhile: the next iteration's batches. The engines answer the held-out prompts first, then these prompts.

        Raises:
            Exception: the first failure, of saving, of evaluating or of a group.
        """
        if self._concluded == self.state.iteration:
            return
        if meanwhile is None:
            await self._save_if_due()
            await self._evaluate()
        else:
            save = asyncio.ensure_future(self._save_if_due())
            try:
                await meanwhile.fill_during(self._evaluate(), asyncio.shield(save))
            finally:
                await save  # also after a failure elsewhere: what was trained is worth the wait
        self.saving.commit(self.state, self.outcome)
        self._concluded = self.state.iteration

    async def _save_if_due(self) -> None:
        if self.saving.due(self.state):
            await self.saving.save(self.state, self.outcome)

    async def _evaluate(self) -> None:
        if self.evaluator is not None and self.evaluator.due(self.state.iteration):
            await self.evaluator.report(self.state, self.outcome, self.meter, self.callbacks)

    async def _resume(self, directory: Path) -> None:
        """Continue from a checkpoint; for one within an iteration from its start, and ``UnfinishedIteration`` loads the rest. Responses
        that evaluations compare with are sampled again, with equal seeds: those of pi_0, and those of the policy that was evaluated last,
        if its checkpoint is still there. An evaluation that was cut off is made up for."""
        await self._evaluate()
        state, self.outcome.evaluations = self.checkpoints.read(directory)
        start = self.checkpoints.start_of(directory)
        if state.steps_within:
            self._unfinished, self.saving.newest_within = UnfinishedIteration(directory, state), state
        self.outcome.held_out[:] = self.checkpoints.read_held_out(directory)
        evaluated = self.outcome.evaluations[-1]["iteration"] if self.outcome.evaluations else 0
        earlier = self.checkpoints.of_iteration(evaluated) if self.evaluator is not None else None
        for checkpoint in dict.fromkeys(path for path in (earlier or start, start) if path is not None):
            self.state, _ = self.checkpoints.read(checkpoint)
            with self.meter.stage("load"):
                await self.roles.learner.load(checkpoint / "learner")
            await self._sync()
            if self.evaluator is not None and evaluated and checkpoint == (earlier or start):
                with self.meter.stage("evaluate"):
                    await self.evaluator.resume(self.state.iteration)
        await self.saving.resume(self.state)
        t = self.state.iteration
        self._concluded = None if self.evaluator is not None and self.evaluator.due(t) and evaluated != t else t
        logger.info("resumed from %s: iteration %d, step %d", directory, t, state.step)
