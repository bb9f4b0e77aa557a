"""The loop: sample, judge, train, sync; the whole of it, top to bottom.

    pi_0 -> engines
    for each iteration t:
        the engines sample K responses a prompt from pi_t            } overlapped: the learner starts on the first
        the oracle compares them, the selection keeps some           } full batch while the engines still sample
        the reference actors add log-probs under pi_ref and pi_t     }
        the learner takes its steps                                  }
        pi_{t+1} -> engines and references, checked; evaluated on held-out prompts; saved

Every algorithm is this loop. What differs is data: which responses are kept, which frozen log-probs are asked for, which loss.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raypref.batches import Batch, BatchStream, rebatch
from raypref.checkpoint import Checkpoints, RunState
from raypref.config import RunConfig
from raypref.errors import LossNotFinite
from raypref.evaluation.matches import Evaluator
from raypref.metrics import Averages, MetricsWriter, StageClock
from raypref.progress import Callback
from raypref.roles import LearnerRole, OracleRole, ReferenceRole, RolloutRole
from raypref.seeds import seed_for
from raypref.sync import Tolerance, verify
from raypref.types import Example, Prompt, SampleRequest, Slice

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who does the work. A role that the run does not need is None."""

    learner: LearnerRole
    rollout: RolloutRole | None = None
    oracle: OracleRole | None = None
    reference: ReferenceRole | None = None


@dataclass(frozen=True, slots=True)
class RunData:
    """What the policy is trained and evaluated on: prompts to sample from, or given examples."""

    prompts: Sequence[Prompt] = ()
    """With given examples: theirs, for the regulariser's samples."""
    examples: Sequence[Example] = ()
    held_out: Sequence[Prompt] = ()

    @property
    def sampled(self) -> bool:
        """Whether the policy's own responses are trained on."""
        return not self.examples

    @property
    def items(self) -> Sequence[Prompt] | Sequence[Example]:
        """What an iteration takes a part of: given examples, or prompts."""
        return self.examples or self.prompts


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
        self.metrics = metrics
        self.callbacks = callbacks
        self.clock = StageClock()
        self.averages = Averages()
        self.checkpoints = Checkpoints(config.output_dir / "checkpoints", keep=config.checkpoint.keep)
        self.state = RunState()
        self.outcome = Outcome()
        self.evaluator = Evaluator(self._sample, roles.oracle, config, data.held_out) if self._evaluates else None

    async def run(self, resume_from: Path | None = None) -> Outcome:
        """Run to the end, or from a checkpoint to the end.

        Args:
            resume_from: a directory that ``Checkpoints`` wrote; the result is that of the run that was never stopped.
        """
        await self._sync()
        await self._evaluate()
        if resume_from is not None:
            await self._resume(resume_from)
        while self.state.iteration < self.config.loop.iterations:
            await self._iterate()
            await self._sync()
            await self._evaluate()
            await self._save()
        with self.clock.stage("export"):
            await self.roles.learner.export(self.policy_dir)
        self.outcome.steps = self.state.step
        self.outcome.seconds = self.clock.seconds()
        return self.outcome

    @property
    def policy_dir(self) -> Path:
        """Where the final policy goes, as a Hugging Face model directory."""
        return self.config.output_dir / "policy"

    # ---------------------------------------------------------------------------------------------------- one iteration

    async def _iterate(self) -> None:
        """Train pi_{t+1} on the responses that pi_t samples."""
        config, state = self.config, self.state
        await self.roles.learner.begin_iteration(state.iteration, self.steps_per_iteration())
        kept: list[Batch] = []
        async with contextlib.aclosing(self._batches()) as batches:
            async for batch in batches:
                await self._step(batch)
                kept.append(batch)
        if not kept:
            raise RuntimeError(f"iteration {state.iteration} gave no training example: every group was dropped, or the prompts are used up")
        for epoch in range(1, config.learner.epochs):
            seed = seed_for(config.seed, "epoch", state.iteration, str(epoch))
            for batch in rebatch(kept, config.learner.global_batch, seed):
                await self._step(batch)
        if self.roles.oracle is not None:
            await self.roles.oracle.seal(state.iteration)
        self.state = replace(state, iteration=state.iteration + 1, cursor=state.cursor + kept[-1].groups_taken, step=self.state.step)

    async def _batches(self) -> AsyncGenerator[Batch]:
        """The iteration's batches as they fill; without overlap, all of them at once when the last has filled."""
        loop = self.config.loop
        process: Callable[[Any], Any] = self._given if self.data.examples else self._group
        stream = BatchStream(
            process, batch_size=self.config.learner.global_batch, window=loop.window_groups, max_batches=loop.sync_interval
        )
        batches = stream.batches(self._items())
        if not loop.overlap:
            everything = [batch async for batch in batches]
            for batch in everything:
                yield batch
            return
        async with contextlib.aclosing(batches):
            async for batch in batches:
                yield batch

    def _items(self) -> Iterator[Prompt] | Iterator[Example]:
        """The prompts (or given examples) of this iteration: those after the last one that was used."""
        items: Sequence[Any] = self.data.examples or self.data.prompts
        start = self.state.cursor
        count = None if self.config.loop.sync_interval else self.items_per_iteration()
        return iter(items[start : None if count is None else start + count])

    def items_per_iteration(self) -> int:
        """Prompts, or given examples, of one iteration, where the config says how many or splits them evenly."""
        available = len(self.data.examples or self.data.prompts)
        return self.config.loop.prompts_per_iteration or available // self.config.loop.iterations

    def steps_per_iteration(self) -> int:
        """Optimiser steps of an iteration when no group is dropped: the schedule's horizon."""
        config = self.config
        if config.loop.sync_interval is not None:
            return config.loop.sync_interval * config.learner.epochs
        most = config.selection.examples_at_most(config.rollout.responses) if config.selection is not None else 1
        return -(-self.items_per_iteration() * most // config.learner.global_batch) * config.learner.epochs

    # ------------------------------------------------------------------------------------------------- one group, one step

    async def _group(self, prompt: Prompt) -> Slice:
        """Prompt -> rollout -> verdict -> examples with their frozen log-probs; references travel, the data does not."""
        assert self.roles.oracle is not None
        rollout = await self._sample(prompt, self.config.rollout.responses, "train", self.state.iteration)
        with self.clock.stage("judge"):
            verdict, examples = await self.roles.oracle.judge(rollout)
        self.averages.add(verdict.metrics)
        for callback in self.callbacks:
            callback.on_group(verdict)
        if verdict.examples:
            examples = await self._frozen_logps(examples)
        return Slice(examples, 0, verdict.examples)

    async def _given(self, example: Example) -> Slice:
        return Slice(await self._frozen_logps((example,)), 0, 1)

    async def _frozen_logps(self, examples: Any) -> Any:
        if self.roles.reference is None:
            return examples
        with self.clock.stage("reference"):
            return await self.roles.reference.score(examples)

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
        roles, config = self.roles, self.config
        if roles.rollout is None and roles.reference is None:
            return
        with self.clock.stage("sync"):
            sent = await roles.learner.publish(self.state.iteration)
            if not config.sync.check:
                return
            probed = itertools.islice(itertools.chain(self.data.held_out, self.data.prompts), config.sync.probe_prompts)
            requests = [
                replace(self._request(prompt, 1, "probe", 0), temperature=1.0, top_p=1.0, max_tokens=config.sync.probe_tokens)
                for prompt in probed
            ]
            found = await verify(
                sent,
                learner=roles.learner,
                rollout=roles.rollout,
                reference=roles.reference,
                requests=requests,
                tolerance=Tolerance.of(config.policy.dtype, config.sync.tolerance),
            )
        self.metrics.write(self.state.step, found)
        self.outcome.sync = {name: max(value, self.outcome.sync.get(name, 0.0)) for name, value in found.items()}

    @property
    def _evaluates(self) -> bool:
        roles = self.roles
        return bool(self.config.evaluation.every and self.data.held_out and roles.rollout is not None and roles.oracle is not None)

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
        self.metrics.write(self.state.step, values | {"eval/response_tokens": result["response_tokens"]})
        for callback in self.callbacks:
            callback.on_evaluation(result)

    async def _save(self) -> None:
        with self.clock.stage("checkpoint"):
            directory = self.checkpoints.begin(self.state)
            await self.roles.learner.save(directory / "learner")
            self.checkpoints.commit(self.state, evaluations=self.outcome.evaluations)

    async def _resume(self, directory: Path) -> None:
        """Continue from a checkpoint. The base policy's answers were sampled again before; pi_t's are sampled again here."""
        self.state, self.outcome.evaluations = self.checkpoints.read(directory)
        await self.roles.learner.load(directory / "learner")
        await self._sync()
        if self.evaluator is not None:
            await self.evaluator.answer(self.state.iteration)
        logger.info("resumed from %s: iteration %d, step %d", directory, self.state.iteration, self.state.step)
