"""What a run did with its groups, done once more by the same code: judging from the recorded answers, batches, micro-batches.

Judging is deterministic but for the oracle, whose answers the journal has; batches follow from the groups in the order of their prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from raypref.config import RunConfig
from raypref.data.examples import ExampleBuilder
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import ConfigError
from raypref.judging.judge import Judge
from raypref.judging.transcript import Replayed, Transcript
from raypref.loop.batch_stream import Batch, BatchStream
from raypref.loop.iterations import Iterations
from raypref.loop.mismatched_partners import MismatchedPartners
from raypref.report.groups import Group, iteration_groups
from raypref.report.run_directory import RunDirectory
from raypref.training import collation, micro_batches
from raypref.training.packing import Packing, packing_on
from raypref.types import Example, Judged, Prompt, Rollout, RunData, Slice


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step of the run."""

    number: int
    iteration: int
    place: int
    """Of the step in its iteration, from 1."""
    epoch: int
    """From 1."""
    examples: tuple[Example, ...]
    """(B,) of the global batch, in its order."""


class Replay:
    """Judges recorded groups as the run has judged them, and cuts them into its batches."""

    def __init__(self, config: RunConfig, facts: PolicyFacts | None) -> None:
        """
        Args:
            config: of the run.
            facts: about its policy; None: not known, so that no example is left out for its length.

        Raises:
            ConfigError: the loss trains on revisions, whose prompts cannot be made without the policy's tokenizer.
        """
        if facts is None and config.loss.revisions:
            raise ConfigError(
                f"policy.path: loss {config.loss.type!r} trains on revisions, which need the tokenizer of {config.policy.path}"
            )
        self.config = config
        builder = ExampleBuilder(config.loss) if facts is None else ExampleBuilder.of_run(config.loss, config.data, facts)
        self._judge = Judge(Replayed(Transcript(()), "none"), config.selection, config.loss, builder, config.judging)

    def judged(self, groups: Sequence[Group]) -> list[Judged]:
        """The groups as they were judged: picks, examples with targets, metrics.

        Args:
            groups: all of an iteration, in the order of their prompts, where the loss trains on mismatched responses; otherwise any.
        """
        return asyncio.run(self._judge_all(groups))

    async def _judge_all(self, groups: Sequence[Group]) -> list[Judged]:
        rollouts = [group.rollout for group in groups]
        partners = await _partners(rollouts) if self.config.loss.mismatched else [None] * len(rollouts)
        return [
            await self._judge.judge(rollout, partner, Replayed(group.transcript, group.row["oracle"]))
            for group, rollout, partner in zip(groups, rollouts, partners, strict=True)
        ]

    def sampled_step(self, run: RunDirectory, number: int) -> Step:
        """A step of a run that trains on its policy's responses.

        Raises:
            ConfigError: the journal does not have the groups of that step.
        """
        iteration = next(k for k in range(1, run.begun_iterations + 1) if number <= run.steps_of(k)[1])
        groups = iteration_groups(run, iteration)
        items = [judged.examples for judged in self.judged(groups)]
        place = number - run.steps_of(iteration)[0] + 1
        seeds = Iterations(self.config, RunData()).epoch_seeds(iteration - 1)
        for count, batch in enumerate(_batches(self.config, items, seeds), start=1):
            if count == place:
                return _step(number, iteration, place, batch)
        raise ConfigError(f"{run.path}: the journal has {len(groups)} groups of iteration {iteration}, too few for its step {place}")

    def given_step(self, data: RunData, number: int) -> Step:
        """A step of a run on given examples.

        Args:
            data: of the run, as it was loaded.
            number: of the step.

        Raises:
            ConfigError: the run has fewer steps.
        """
        iterations, cursor, step = Iterations(self.config, data), 0, 0
        for iteration in range(self.config.iterations):
            items = [(item,) for item in iterations.items(cursor) if isinstance(item, Example)]
            taken = 0
            for place, batch in enumerate(_batches(self.config, items, iterations.epoch_seeds(iteration)), start=1):
                step, taken = step + 1, batch.groups_taken
                if step == number:
                    return _step(number, iteration + 1, place, batch)
            cursor += iterations.items_used(taken)
        raise ConfigError(f"step {number}: the run has {step} steps")

    def micro_batches(self, step: Step) -> tuple[micro_batches.Plan, Packing]:
        """What each rank of the learner computes in a step, pass by pass, and how the inputs of a pass are laid out.

        Raises:
            ConfigError: the model's config cannot be read.
        """
        packing = _packing(self.config)
        items = [collation.sequences([example]) for example in step.examples]
        learner = self.config.learner
        return micro_batches.plan_micro_batches(items, self.config.placement.learner.ranks, learner.micro_batch_tokens, packing), packing


async def _partners(rollouts: Sequence[Rollout]) -> list[Rollout | None]:
    """The partner of each rollout of an iteration."""
    prompts = [replace(rollout.prompt, index=place) for place, rollout in enumerate(rollouts)]

    async def sample(prompt: Prompt) -> Rollout:
        return rollouts[prompt.index]

    partners = MismatchedPartners(sample, prompts, 0)
    found: list[Rollout | None] = []
    for prompt in prompts:
        _, partner = await partners.rollout_and_partner(prompt)
        assert isinstance(partner, Rollout)
        found.append(partner)
    return found


def _batches(config: RunConfig, items: Sequence[tuple[Example, ...]], seeds: Sequence[int]) -> Iterator[Batch]:
    """The batches of one iteration, whose items give these examples."""

    async def process(examples: tuple[Example, ...]) -> Slice:
        return Slice(examples, 0, len(examples))

    async def collected() -> list[Batch]:
        most = config.loop.sync_interval
        stream = BatchStream(process, iter(items), batch_size=config.learner.global_batch, window=len(items) or 1, max_batches=most)
        batches: AsyncIterator[Batch] = stream.epochs(seeds)
        return [batch async for batch in batches]

    yield from asyncio.run(collected())


def _step(number: int, iteration: int, place: int, batch: Batch) -> Step:
    examples = tuple(example for part in batch.slices for example in _examples(part)[part.start : part.stop])
    return Step(number, iteration, place, batch.epoch + 1, examples)


def _examples(part: Slice) -> tuple[Example, ...]:
    assert isinstance(part.ref, tuple)
    return part.ref


def _packing(config: RunConfig) -> Packing:
    """How the learner lays out its inputs: it follows from the model's class and config, not from its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    policy = config.policy
    try:
        found = AutoConfig.from_pretrained(policy.path, trust_remote_code=policy.trust_remote_code)
        with torch.device("meta"):
            how = {"attn_implementation": policy.attention, "trust_remote_code": policy.trust_remote_code}
            model = AutoModelForCausalLM.from_config(found, **how)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"policy.path: {policy.path} cannot be read: {str(error).splitlines()[0]}") from error
    return packing_on(model, device_of(config))


def device_of(config: RunConfig) -> str:
    """Where the learner computes: on a GPU, unless the config says otherwise."""
    return "cpu" if config.placement.device == "cpu" else "cuda"
