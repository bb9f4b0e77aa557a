"""N-revision generation: the policy answers, then revises its own answer N times.

    y_0 ~ pi(. | x),   y_n ~ pi(. | x, y_{n-1})

Source: SRPO section 6, "N-revision". One policy plays both parts; ``data.template`` puts the earlier answer in the prompt.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypref.config import RunConfig
from raypref.roles import Ref, RolloutRole
from raypref.seeds import seed_for
from raypref.types import Prompt, Response, Rollout, SampleRequest

Sample = Callable[[Prompt, int, str], Awaitable[Ref]]
"""(prompt, count, purpose) -> reference to a rollout; prompt and purpose decide the seed."""
Revise = Callable[[Prompt, str], Prompt | None]
"""The prompt that asks for a revision of an answer; None where it leaves no room for one (``Reviser.within``)."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A prompt's answers, revision after revision."""

    prompt: Prompt
    rounds: tuple[tuple[Response, ...], ...]
    """(N + 1, n) the first answers, then the revisions of each."""
    stopped: int
    """Revisions that were not made because the prompt with the earlier answer leaves no room; the earlier answer stands for them."""

    def rollout(self, revision: int, policy_version: int) -> Rollout:
        """The answers after so many revisions, as a group of the first prompt."""
        return Rollout(self.prompt, self.rounds[revision], policy_version)


async def chain(prompt: Prompt, sample: Sample, *, responses: int, revisions: int, revise: Revise | None = None) -> Chain:
    """Answer one prompt and revise each answer.

    Args:
        prompt: x.
        sample: asks the policy.
        responses: n, first answers.
        revisions: N; 0 needs no ``revise``.
        revise: makes the prompts of the revisions.
    """
    rounds = [(await resolve(await sample(prompt, responses, "generate"))).responses]
    stopped = 0
    for number in range(1, revisions + 1):
        assert revise is not None
        prompts = [revise(prompt, response.text) for response in rounds[-1]]
        stopped += prompts.count(None)
        asked = [sample(own, 1, f"revision {number} of {k}") for k, own in enumerate(prompts) if own is not None]
        better = iter([(await resolve(ref)).responses[0] for ref in await asyncio.gather(*asked)])
        rounds.append(tuple(earlier if own is None else next(better) for own, earlier in zip(prompts, rounds[-1], strict=True)))
    return Chain(prompt, tuple(rounds), stopped)


async def resolve(ref: Ref) -> Rollout:
    """The rollout behind a reference, wherever it is."""
    rollout: Rollout = await ref if inspect.isawaitable(ref) else ref
    return rollout


async def chains(prompts: Sequence[Prompt], window: int, make: Callable[[Prompt], Awaitable[Chain]]) -> list[Chain]:
    """The prompts' chains in their order, at most ``window`` prompts at a time."""
    room = asyncio.Semaphore(window)

    async def one(prompt: Prompt) -> Chain:
        async with room:
            return await make(prompt)

    return list(await asyncio.gather(*(one(prompt) for prompt in prompts)))


async def generate_chains(
    rollout: RolloutRole, config: RunConfig, prompts: Sequence[Prompt], responses: int, revisions: int, revise: Revise | None
) -> list[Chain]:
    """Answers and revisions of every prompt by engines that hold version 0 of the policy; ``rollout.*`` says how they sample."""

    async def sample(prompt: Prompt, count: int, purpose: str) -> Ref:
        request = SampleRequest(
            prompt=prompt,
            count=count,
            seed=seed_for(config.seed, purpose, 0, prompt.id),
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            max_tokens=config.rollout.max_tokens,
            policy_version=0,
        )
        return await rollout.sample(request)

    settings: dict[str, Any] = {"responses": responses, "revisions": revisions, "revise": revise}
    return await chains(prompts, config.groups_in_flight(responses), lambda prompt: chain(prompt, sample, **settings))


def record_of(made: Chain) -> dict[str, Any]:
    """A chain as a record: ``responses`` are the last answers, ``revisions`` lists all answers of each, the first one first."""
    return {
        "id": made.prompt.id,
        "prompt": made.prompt.text,
        "responses": [response.text for response in made.rounds[-1]],
        "revisions": [[answers[k].text for answers in made.rounds] for k in range(len(made.rounds[0]))],
        "tokens": [[len(answers[k].token_ids) for answers in made.rounds] for k in range(len(made.rounds[0]))],
        "finish_reasons": [response.finish_reason for response in made.rounds[-1]],
    }


def write_chains(path: Path, made: Sequence[Chain]) -> None:
    """One JSON object a line; the file appears when it is whole."""
    partial = path.with_name(path.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text("".join(json.dumps(record_of(item), ensure_ascii=False) + "\n" for item in made), encoding="utf-8")
    partial.rename(path)
