"""Revision curves: the win rate of each revision against fixed answers, as a function of how often the policy revised its own.

Source: SRPO Figure 3. There the opponents are human-written summaries and the band is the standard deviation of 20 resamples; here they are
whatever rollouts are given, and each point has a bootstrap interval over the prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from raypref.evaluation.win_rate import WinRate, summarise
from raypref.generation import Chain
from raypref.roles import Ref
from raypref.types import Comparison

Compare = Callable[[Ref, Ref], Awaitable[Comparison]]


async def revision_curve(
    made: Sequence[Chain], defenders: Sequence[Ref], compare: Compare, *, policy_version: int, resamples: int, confidence: float, seed: int
) -> list[WinRate]:
    """The win rates after 0, 1, ... N revisions.

    Args:
        made: (prompts,) the policy's answers and revisions, all with the same N.
        defenders: (prompts,) references to the rollouts that each revision is compared with, in the same order.
        compare: an oracle's verdict on two rollouts (``OracleRole.compare``).
        policy_version: the policy that made the answers.
        resamples: of the bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap; the same for each point, so that they are compared on the same resampled prompts.

    Returns:
        (N + 1,)

    Raises:
        OracleError: the oracle abstained on every prompt.
    """
    curve = []
    for revision in range(len(made[0].rounds)):
        pairs = zip(made, defenders, strict=True)
        matches = await asyncio.gather(*(compare(item.rollout(revision, policy_version), defender) for item, defender in pairs))
        curve.append(summarise([match.win_rate for match in matches], resamples=resamples, confidence=confidence, seed=seed))
    return curve
