"""N-revision generation: the policy answers a prompt, then revises its answer N times.

    y_0 ~ pi(. | x),   y_n ~ pi(. | x, y_{n-1})

Source: SRPO section 6, "N-revision". One policy plays both parts; ``data.template`` puts the earlier answer in the prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from raypref.config import RunConfig
from raypref.data.policy_facts import PolicyFacts
from raypref.data.prompts import load_apart
from raypref.data.revision import Reviser
from raypref.loop.requests import RequestBuilder
from raypref.roles import RolloutRole
from raypref.types import Chain, Prompt, Rollout, RolloutRef

Sample = Callable[[Prompt, int, str], Awaitable[RolloutRef]]
"""(prompt, count, purpose) -> rollout; prompt and purpose determine the seed."""
Revise = Callable[[Prompt, str], Prompt | None]
"""(prompt, answer) -> the prompt that asks for a revision; None where it leaves no room for one (``Reviser.within``)."""


async def chain(prompt: Prompt, sample: Sample, *, responses: int, revisions: int, revise: Revise | None = None) -> Chain:
    """Answer one prompt and revise each answer.

    Args:
        prompt: x.
        sample: samples from the policy.
        responses: n, the number of first answers.
        revisions: N; 0 needs no ``revise``.
        revise: makes the prompts for revisions.
    """
    rounds = [(await resolve(await sample(prompt, responses, "generate"))).responses]
    stopped = 0
    for number in range(1, revisions + 1):
        assert revise is not None
        prompts = [revise(prompt, response.text) for response in rounds[-1]]
        stopped += prompts.count(None)
        requested = [sample(item, 1, f"revision {number} of {k}") for k, item in enumerate(prompts) if item is not None]
        revised = iter([(await resolve(ref)).responses[0] for ref in await asyncio.gather(*requested)])
        rounds.append(tuple(earlier if item is None else next(revised) for item, earlier in zip(prompts, rounds[-1], strict=True)))
    return Chain(prompt, tuple(rounds), stopped)


def load_questions(
    config: RunConfig, facts: PolicyFacts, prompts: str | Sequence[Any], revisions: int
) -> tuple[list[Prompt], Revise | None]:
    """The prompts to answer, and what makes the prompts of the revisions.

    Args:
        config: how prompts are read and rendered.
        facts: of the policy.
        prompts: a file, directory or data set like ``data.path``, or prompts as ``raypref.run`` takes them.
        revisions: 0 needs no template.

    Raises:
        DataError: a prompt is broken, or none is left.
    """
    room = facts.context_tokens - config.rollout.max_tokens
    named = {"held_out": prompts} if isinstance(prompts, str) else {}
    section = config.data.model_copy(update=named | {"held_out_prompts": 0})
    questions = load_apart(section, facts, room, None if named else prompts, key="prompts").held_out
    return questions, Reviser(section, facts).within(room) if revisions else None


async def resolve(ref: RolloutRef) -> Rollout:
    """The rollout itself, fetched if it lives elsewhere."""
    return ref if isinstance(ref, Rollout) else await ref


async def chains(prompts: Sequence[Prompt], window: int, make: Callable[[Prompt], Awaitable[Chain]]) -> list[Chain]:
    """The prompts' chains, in order; at most ``window`` of them are in progress at a time."""
    room = asyncio.Semaphore(window)

    async def one(prompt: Prompt) -> Chain:
        async with room:
            return await make(prompt)

    return list(await asyncio.gather(*(one(prompt) for prompt in prompts)))


async def generate_chains(
    rollout: RolloutRole,
    config: RunConfig,
    prompts: Sequence[Prompt],
    responses: int,
    revisions: int,
    revise: Revise | None,
    on_answered: Callable[[Chain], None] = lambda made: None,
) -> list[Chain]:
    """The answers and revisions of every prompt, from engines that hold version 0 of the policy; sampled as ``rollout.*`` says.

    ``on_answered`` is told each prompt's chain as soon as it is complete, in any order.
    """
    requests = RequestBuilder(config.seed, config.rollout)

    async def sample(prompt: Prompt, count: int, purpose: str) -> RolloutRef:
        return await rollout.sample(requests.build(prompt, count, purpose=purpose, iteration=0, policy_version=0))

    settings: dict[str, Any] = {"responses": responses, "revisions": revisions, "revise": revise}

    async def make(prompt: Prompt) -> Chain:
        made = await chain(prompt, sample, **settings)
        on_answered(made)
        return made

    return await chains(prompts, config.groups_in_flight(responses), make)
