"""The check after every weight sync: do the engines and references hold the learner's weights?

First it compares checksums of the tensors, as sent and as received; then log-probs of the same tokens. Every engine samples these tokens
anew, so the check covers the code that samples, and its prefix cache: a cache that still held keys and values of the old weights would
change the log-probs. All engines sample at the same time, and the learner computes once over what all of them sampled: the check takes no
longer for being of many engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypref.errors import SyncError
from raypref.roles import Checksums, LearnerRole, ReferenceRole, RolloutRole, check_received
from raypref.types import Rollout, SampleRequest, TokenSequence


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far the log-prob of one token may differ, in nats."""

    statistic: str
    """``max`` over the tokens in float32; ``mean`` in bfloat16, where rounding alone changes single tokens by up to 0.7 nats."""
    nats: float

    @classmethod
    def of(cls, dtype: str, nats: float | None) -> Tolerance:
        """The tolerance for a compute type.

        Args:
            dtype: ``float32`` or ``bfloat16``.
            nats: ``sync.tolerance``; None: 1e-4 in float32, 0.05 in bfloat16.
        """
        if dtype == "float32":
            return cls("max", 1e-4 if nats is None else nats)
        return cls("mean", 0.05 if nats is None else nats)


async def verify(
    sent: Checksums,
    *,
    learner: LearnerRole,
    rollout: RolloutRole | None,
    reference: ReferenceRole | None,
    requests: Sequence[SampleRequest],
    tolerance: Tolerance,
) -> dict[str, float]:
    """Compare every replica with the learner; metrics under ``sync/``.

    Args:
        sent: checksums of what the learner sent.
        learner: computes the expected log-probs.
        rollout: engines to check, if there are any.
        reference: replicas to check, if they hold pi_t.
        requests: what every engine is asked to sample, at temperature 1.
        tolerance: largest difference between log-probs.

    Raises:
        SyncError: a replica differs; names the tensor, or the token and the difference.
    """
    receivers = [role for role in (rollout, reference) if role is not None]
    for received in await asyncio.gather(*(role.weight_checksums() for role in receivers)):
        for replica, checksums in received.items():
            check_received(replica, sent, checksums)
    if rollout is None:
        return {}
    answers = {engine: _flatten(rollouts) for engine, rollouts in (await rollout.probe(requests)).items()}
    tokens = [item for engine_tokens, _ in answers.values() for item in engine_tokens]
    expected, references = await asyncio.gather(learner.probe(tokens), _probe(reference, tokens))
    differences, start = [], 0
    for engine, (engine_tokens, logps) in answers.items():
        stop = start + len(engine_tokens)
        differences.append(_difference(engine, engine_tokens, logps, expected[start:stop], tolerance))
        for replica, replica_logps in references.items():
            name = f"{replica} (tokens of {engine})" if len(answers) > 1 else replica
            differences.append(_difference(name, engine_tokens, replica_logps[start:stop], expected[start:stop], tolerance))
        start = stop
    pooled = np.concatenate(differences)
    return {"sync/logprob_difference_max": float(pooled.max()), "sync/logprob_difference_mean": float(pooled.mean())}


async def _probe(reference: ReferenceRole | None, tokens: Sequence[TokenSequence]) -> Mapping[str, Sequence[np.ndarray[Any, Any]]]:
    """Replica -> its per-token log-probs of each sequence."""
    return {} if reference is None else await reference.probe(tokens)


def _flatten(rollouts: Sequence[Rollout]) -> tuple[list[TokenSequence], list[np.ndarray[Any, Any]]]:
    pairs = [(rollout.prompt, response) for rollout in rollouts for response in rollout.responses]
    return [TokenSequence(prompt.token_ids, response.token_ids) for prompt, response in pairs], [response.logprobs for _, response in pairs]


def _difference(
    replica: str,
    tokens: Sequence[TokenSequence],
    logps: Sequence[np.ndarray[Any, Any]],
    expected: Sequence[np.ndarray[Any, Any]],
    tolerance: Tolerance,
) -> np.ndarray[Any, Any]:
    """(total tokens,) absolute differences in nats.

    Raises:
        SyncError: they are too large.
    """
    differences = np.concatenate([np.abs(a.astype(np.float64) - b) for a, b in zip(logps, expected, strict=True)])
    difference = float(differences.max() if tolerance.statistic == "max" else differences.mean())
    if not difference <= tolerance.nats:  # also true for NaN
        worst = int(np.nanargmax(differences)) if not np.isnan(differences).all() else 0
        token_ids = np.concatenate([item.response_ids for item in tokens])
        raise SyncError(
            f"sync: {replica} does not compute the learner's log-probs: {tolerance.statistic} difference {difference:.3g} nats over "
            f"{differences.size} tokens, more than sync.tolerance {tolerance.nats:g}; token {int(token_ids[worst])} at position {worst} "
            f"differs most, by {differences[worst]:.3g}"
        )
    return differences
