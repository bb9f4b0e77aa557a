"""How a run's data is divided: prompts, examples and steps by iteration, from the data as the run itself loads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from raypref.config import RunConfig
from raypref.judging.trial import group_cost
from raypref.loop.iterations import Iterations
from raypref.types import Example, RunData


@dataclass(frozen=True, slots=True)
class Share:
    """What each iteration takes."""

    items: int
    """Prompts, or given examples; with ``loop.sync_interval`` the fewest that its steps need."""
    examples: int
    """At most, in one epoch: a group can be dropped."""
    steps: int
    """Optimiser steps, all epochs, if no group is dropped."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean and longest, in tokens."""

    mean: float
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        return cls(float(np.mean(lengths)) if len(lengths) else 0.0, max(lengths, default=0))


@dataclass(frozen=True, slots=True)
class Supply:
    """The data of a run."""

    sampled: bool
    """Whether the run trains on responses that it samples."""
    items: int
    """Prompts, or given examples, that may be trained on."""
    iterations: int
    share: Share
    held_out: int
    """Prompts that are held out and answered."""
    held_out_examples: int
    """Given examples that are held out."""
    sequences: int
    """Of the largest example."""
    left_out: dict[str, int]
    """Records that are not used, by reason (``RunData.left_out``)."""
    prompts: Lengths
    examples: Lengths
    """Given examples: tokens of all their sequences, each with its prompt."""

    @property
    def used(self) -> int:
        """Items that some iteration takes."""
        return self.iterations * self.share.items

    @property
    def unused(self) -> int:
        """Items that no iteration takes."""
        return max(0, self.items - self.used)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.iterations * self.share.steps

    @classmethod
    def of(cls, config: RunConfig, data: RunData) -> Self:
        """The data as it was loaded."""
        iterations = Iterations(config, data)
        most = iterations.max_examples()
        if config.loop.sync_interval is not None:
            items = -(-config.loop.sync_interval * config.learner.global_batch // most)
        else:
            items = iterations.items_per_iteration()
        prompts = [len(item.prompt_ids[0]) if isinstance(item, Example) else len(item.token_ids) for item in data.items]
        return cls(
            sampled=data.sampled,
            items=len(data.items),
            iterations=config.iterations,
            share=Share(items, items * most, iterations.steps()),
            held_out=len(data.held_out),
            held_out_examples=len(data.held_out_examples),
            sequences=_sequences(config, data),
            left_out=dict(data.left_out),
            prompts=Lengths.of(prompts),
            examples=Lengths.of([_tokens(example) for example in data.examples]),
        )

    def longest_example(self, max_tokens: int) -> int:
        """Tokens of the longest example, with a prompt for each of its sequences.

        Args:
            max_tokens: ``rollout.max_tokens``.
        """
        return self.sequences * (self.prompts.longest + max_tokens) if self.sampled else self.examples.longest

    def longest_row(self, responses: int, max_tokens: int) -> int:
        """Tokens of the longest row with prefix sharing: a prompt and all responses to it that can meet in a micro-batch.

        Args:
            responses: ``rollout.responses``.
            max_tokens: ``rollout.max_tokens``.
        """
        return self.prompts.longest + responses * max_tokens if self.sampled else self.examples.longest


def _sequences(config: RunConfig, data: RunData) -> int:
    """A revision or a mismatched response stands beside each response."""
    if not data.sampled or config.selection is None:
        return max((len(example.response_ids) for example in data.examples), default=0)
    picked = group_cost(config.selection, config.judging, config.rollout.responses).responses
    return picked * (2 if config.loss.revisions or config.loss.mismatched else 1)


def _tokens(example: Any) -> int:
    return sum(len(prompt) + len(response) for prompt, response in zip(example.prompt_ids, example.response_ids, strict=True))
