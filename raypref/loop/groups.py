"""The stages of one group before training: sample, judge, score."""

from __future__ import annotations

from dataclasses import dataclass

from raypref.errors import InputSetAside
from raypref.loop.mismatched_partners import MismatchedPartners
from raypref.loop.requests import RequestBuilder
from raypref.metrics.failures import Failures
from raypref.metrics.progress import Callback
from raypref.metrics.writer import RunMeter
from raypref.roles import Roles
from raypref.types import Example, ExamplesRef, Prompt, RolloutRef, SampleRequest, Slice, Verdict

_NOTHING = Slice((), 0, 0)
"""Of a group that was set aside."""


@dataclass(frozen=True, slots=True)
class GroupStages:
    """What turns a prompt, or a given example, into scored examples."""

    roles: Roles
    requests: RequestBuilder
    responses: int
    """K, responses per prompt."""
    meter: RunMeter
    callbacks: Callback
    recorded: frozenset[str]
    """Origins of the groups that an interrupted run has sampled and judged: they are neither sampled nor judged again."""
    failures: Failures
    """Told of the groups that are dropped because they kill actors, and knows those that were."""

    async def from_prompt(self, prompt: Prompt, iteration: int, partners: MismatchedPartners | None, *, scored: bool) -> Slice:
        """One prompt: sample, judge, score.

        Args:
            prompt: the group's.
            iteration: t, whose policy answers.
            partners: another prompt's rollout for each, where the loss wants mismatched responses.
            scored: False: the frozen log-probs are not needed.
        """
        name = self._request(prompt, iteration).origin
        if name in self.failures.aside:
            return _NOTHING
        if partners is None:
            rollout, partner = await self.sample(prompt, iteration), None
        else:
            rollout, partner = await partners.rollout_and_partner(prompt)
        try:
            verdict, examples = await self._judge(rollout, partner)
            if verdict.examples and scored:
                examples = await self.score(examples)
        except InputSetAside as error:
            self.failures.set_aside(name, prompt.id, error)
            return _NOTHING
        return Slice(examples, 0, verdict.examples)

    async def from_example(self, example: Example, *, scored: bool) -> Slice:
        """One given example: score, if the frozen log-probs are needed. One that was set aside is so in every iteration."""
        name = f"example {example.prompt_index}"
        if name in self.failures.aside:
            return _NOTHING
        try:
            return Slice(await self.score((example,)) if scored else (example,), 0, 1)
        except InputSetAside as error:
            self.failures.set_aside(name, example.prompt_id, error)
            return _NOTHING

    async def sample(self, prompt: Prompt, iteration: int) -> RolloutRef:
        """The prompt's rollout under pi_t."""
        assert self.roles.rollout is not None
        request = self._request(prompt, iteration)
        if request.origin in self.recorded and self.roles.oracle is not None:
            return await self.roles.oracle.recall(request)
        self.callbacks.on_sample(prompt)
        with self.meter.stage("rollout"):
            return await self.roles.rollout.sample(request)

    def _request(self, prompt: Prompt, iteration: int) -> SampleRequest:
        return self.requests.build(prompt, self.responses, purpose="train", iteration=iteration, policy_version=iteration)

    async def _judge(self, rollout: RolloutRef, partner: RolloutRef | None) -> tuple[Verdict, ExamplesRef]:
        assert self.roles.oracle is not None
        with self.meter.stage("judge"):
            verdict, examples = await self.roles.oracle.judge(rollout, partner)
        self.meter.group(verdict.metrics)
        self.callbacks.on_group(verdict)
        return verdict, examples

    async def score(self, examples: ExamplesRef) -> ExamplesRef:
        """The examples with the frozen log-probs that the loss needs."""
        if self.roles.reference is None:
            return examples
        with self.meter.stage("reference"):
            return await self.roles.reference.score(examples)
