"""The loop: sample, judge, train, sync; the whole of it, top to bottom.

    pi_0 -> engines
    for each iteration t:
        the engines sample K responses a prompt from pi_t            } overlapped: the learner starts on the first
        the oracle compares them, the selection keeps some           } full batch while the engines still sample
        the reference actors add log-probs under pi_ref and pi_t     }
        the learner takes its steps                                  }
        pi_{t+1} -> engines and references, checked
        it is evaluated on held-out prompts, and saved                 overlapped with the first sampling of iteration t + 1

Every algorithm is this loop. What differs is data: which responses are kept, which frozen log-probs are asked for, which loss.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from raypref.config import RunConfig
from raypref.errors import DataError, LossNotFinite
from raypref.loop.batches import Batch, BatchStream, rebatch
from raypref.loop.evaluation import Evaluator
from raypref.loop.garbage_collection import frozen_heap
from raypref.loop.groups import Groups
from raypref.loop.iterations import Iterations
from raypref.loop.partners import Partners
from raypref.loop.reference_refresh import ReferenceRefresh
from raypref.loop.regulariser import FreshSamples
from raypref.loop.weight_sync import WeightSync
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.metrics import Averages, MetricsWriter, StageClock
from raypref.output.progress import Callback
from raypref.roles import Audience, Roles
from raypref.seeds import seed_for
from raypref.types import Prompt, RunData, SampleRequest, Slice

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What a finished run has to tell."""

    steps: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    sync: dict[str, float] = field(default_factory=dict)
    """The largest of each figure over all syncs."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> wall seconds in which it was at work; stages overlap."""


class Driver:
    """Runs the loop over the roles."""

    def __init__(
        self, config: RunConfig, roles: Roles, data: RunData, *, metrics: MetricsWriter, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.config = config
        self.roles = roles
        self.data = data
        self.iterations = Iterations(config, data)
        self.metrics = metrics
        self.callbacks = callbacks
        self.clock = StageClock()
        self.averages = Averages()
        self.checkpoints = Checkpoints.of(config)
        self.state = RunState()
        self.outcome = Outcome()
        self.evaluator: Evaluator | None = None
        if config.evaluation.wanted(data.held_out):
            self.evaluator = Evaluator(self._sample, roles.oracle, config, data.held_out, data.revise)
        self.weight_sync = WeightSync(config, roles, data, self._request)
        self.refresh = ReferenceRefresh(config.reference, roles.learner, roles.reference, config.output_dir)
        self.fresh: FreshSamples | None = None
        if config.regulariser.on:
            assert roles.rollout is not None
            self.fresh = FreshSamples(config, roles.learner, roles.rollout, data.prompts, self._sync_weights)
        self._synced_step = -1
        """The step at which the engines were last given pi_t."""
        self.groups = Groups(config, roles, self.clock, self.averages, callbacks)

    async def run(self, resume_from: Path | None = None) -> Outcome:
        """Run to the end, or from a checkpoint to the end.

        Args:
            resume_from: a directory that ``Checkpoints`` wrote; the result is that of the run that was never stopped.
        """
        self.clock.take()  # the time until now went into the start
        with frozen_heap():
            await self._run(resume_from)
        self.outcome.steps = self.state.step
        self.outcome.seconds = self.clock.seconds()
        return self.outcome

    async def _run(self, resume_from: Path | None) -> None:
        await self._sync()
        settled = resume_from is not None
        if resume_from is not None:
            await self._evaluate()
            await self._resume(resume_from)
        while self.state.iteration < self.config.loop.iterations:
            await self._iterate(settled)
            await self._sync()
            self.metrics.write(self.state.step, self.clock.take())
            settled = False
        if not settled:
            await self._settle()
        with self.clock.stage("export"):
            await self.roles.learner.export(self.policy_dir)

    @property
    def policy_dir(self) -> Path:
        """Where the final policy goes, as a Hugging Face model directory."""
        return self.config.output_dir / "policy"

    # ---------------------------------------------------------------------------------------------------- one iteration

    async def _iterate(self, settled: bool) -> None:
        """Train pi_{t+1} on the responses that pi_t samples.

        Args:
            settled: whether pi_t has been evaluated and saved; otherwise that comes before the first step.
        """
        state = self.state
        beside = self.config.loop.overlap and not self.refresh.due(state.iteration)  # a new pi_ref is pi_t, which is saved first
        if not (settled or beside):
            await self._settle()
        for callback in self.callbacks:
            callback.on_iteration(state.iteration)
        await self.refresh.before(state.iteration)
        stream = self._stream()
        try:
            if beside and not settled:
                await self._settle(stream)
            taken = await self._train(stream)
        finally:
            await stream.close()
        if not taken:
            raise DataError(
                f"data: iteration {state.iteration} has no training example: the prompts are used up, or every group was dropped "
                f"(oracle/dropped in metrics.jsonl); the policy of the iterations before is in {self.checkpoints.directory}"
            )
        if self.roles.oracle is not None and self.data.sampled:
            await self.roles.oracle.seal(state.iteration)
        self.state = replace(self.state, iteration=state.iteration + 1, cursor=state.cursor + self.iterations.used(taken))

    async def _train(self, stream: BatchStream[Any]) -> int:
        """The iteration's steps; how many of its groups were used up."""
        config, iteration = self.config, self.state.iteration
        await self.roles.learner.begin_iteration(iteration, self.iterations.steps())
        again: list[Batch] = []
        taken = 0
        async with contextlib.aclosing(self._batches(stream)) as batches:
            async for batch in batches:
                await self._step(batch)
                taken = batch.groups_taken
                if config.learner.epochs > 1:
                    again.append(batch)
        for epoch in range(1, config.learner.epochs):
            seed = seed_for(config.seed, "epoch", iteration, str(epoch))
            for batch in rebatch(again, config.learner.global_batch, seed):
                await self._step(batch)
        return taken

    def _stream(self) -> BatchStream[Any]:
        """The iteration's batches, none of them begun."""
        loop = self.config.loop
        return BatchStream(
            self._processing(),
            self.iterations.items(self.state.cursor),
            batch_size=self.config.learner.global_batch,
            window=self.config.groups_in_flight(),
            max_batches=loop.sync_interval,
            most=self.iterations.examples_at_most(),
        )

    async def _batches(self, stream: BatchStream[Any]) -> AsyncGenerator[Batch]:
        """Batches as they fill; without overlap, all of them at once when the last has filled.

        A regulariser needs the engines between the steps, so what they sample for training is finished first.
        """
        batches = stream.batches()
        if not self.config.loop.overlap or (self.fresh is not None and self.data.sampled):
            everything = [batch async for batch in batches]
            for batch in everything:
                yield batch
            return
        async with contextlib.aclosing(batches):
            async for batch in batches:
                yield batch

    def _processing(self) -> Callable[[Any], Awaitable[Slice]]:
        """What is done with each item: a prompt is answered and judged, a given example is as it is."""
        if not self.data.sampled:
            return self.groups.given
        partners = Partners(self._answer, self.data.prompts, self.state.cursor) if self.config.loss.mismatched else None
        return partial(self.groups.sampled, self._answer if partners is None else partners.of)

    # ------------------------------------------------------------------------------------------------- one answer, one step

    def _answer(self, prompt: Prompt) -> Coroutine[Any, Any, Any]:
        return self._sample(prompt, self.config.rollout.responses, "train", self.state.iteration)

    async def _sample(self, prompt: Prompt, count: int, purpose: str, iteration: int) -> Any:
        assert self.roles.rollout is not None
        with self.clock.stage("rollout" if purpose == "train" else "evaluate"):
            return await self.roles.rollout.sample(self._request(prompt, count, purpose, iteration))

    def _request(self, prompt: Prompt, count: int, purpose: str, iteration: int) -> SampleRequest:
        rollout = self.config.rollout
        return SampleRequest(
            prompt=prompt,
            count=count,
            seed=seed_for(self.config.seed, purpose, iteration, prompt.id),
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            max_tokens=rollout.max_tokens,
            policy_version=self.state.iteration,
        )

    async def _step(self, batch: Batch) -> None:
        if self.fresh is not None:
            with self.clock.stage("regulariser"):
                await self.fresh.before_step(self.state.step, self.state.iteration if self._synced_step == self.state.step else None)
        with self.clock.stage("train"):
            try:
                values = await self.roles.learner.step(batch.slices)
            except LossNotFinite:
                await self.roles.learner.export(self.config.output_dir / "policy_before_failure")
                raise
        self.state = replace(self.state, step=self.state.step + 1)
        self.metrics.write(self.state.step, {**values, **self.averages.take()})
        for callback in self.callbacks:
            callback.on_step(self.state.step, values)

    # ----------------------------------------------------------------------------------- between two iterations

    async def _sync(self) -> None:
        """pi_t to every engine and reference, then proof that it arrived."""
        if self.weight_sync.needed:
            await self._sync_weights(self.state.iteration)
            self._synced_step = self.state.step

    async def _sync_weights(self, version: int, audience: Audience = "all") -> None:
        with self.clock.stage("sync"):
            found = await self.weight_sync.sync(version, audience)
        self.metrics.write(self.state.step, found)
        self.outcome.sync = self.weight_sync.largest

    async def _evaluate(self) -> None:
        """Win rates of pi_t on the held-out prompts, against pi_0 and against the policy evaluated before."""
        iteration = self.state.iteration
        if self.evaluator is None or (iteration % self.config.evaluation.every and iteration != self.config.loop.iterations):
            return
        with self.clock.stage("evaluate"):
            result = await self.evaluator.evaluate(iteration)
        if result is None:
            return
        self.outcome.evaluations.append(result)
        values = {
            f"eval/win_rate_against_{opponent}": result[opponent]["win_rate"] for opponent in ("base", "previous") if opponent in result
        }
        observed = {name.replace("oracle/", "eval/oracle/", 1): value for name, value in result["oracle"].items()}
        self.metrics.write(self.state.step, values | observed | {"eval/response_tokens": result["response_tokens"]})
        for callback in self.callbacks:
            callback.on_evaluation(result)

    async def _settle(self, beside: BatchStream[Any] | None = None) -> None:
        """Save pi_t and evaluate it. Once saved it is not lost, whatever becomes of its evaluation.

        Args:
            beside: the next iteration's batches. The engines begin on them while the learner saves; the held-out prompts go first.

        Raises:
            Exception: the first failure of the three.
        """
        if beside is None:
            await self._save()
            await self._evaluate()
        else:
            await beside.start_beside(self._evaluate(), self._save())
        self._commit()

    async def _save(self) -> None:
        if not self.state.iteration:
            return
        with self.clock.stage("checkpoint"):
            await self.roles.learner.save(self.checkpoints.begin(self.state) / "learner")
        self._commit()

    def _commit(self) -> None:
        if self.state.iteration:
            self.checkpoints.commit(self.state, evaluations=self.outcome.evaluations)

    async def _resume(self, directory: Path) -> None:
        """Continue from a checkpoint. The base policy's answers were sampled again before; pi_t's are sampled again here."""
        self.state, self.outcome.evaluations = self.checkpoints.read(directory)
        with self.clock.stage("load"):
            await self.roles.learner.load(directory / "learner")
        await self._sync()
        if self.evaluator is not None:
            await self.evaluator.resume()
        logger.info("resumed from %s: iteration %d, step %d", directory, self.state.iteration, self.state.step)
