"""The oracle's Ray actor: judges groups and writes them to the journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from actors.oracle.services import ActorServices, PolicyAccess, PolicyQuery
from raypref.config import RunConfig
from raypref.data.examples import ExampleBuilder
from raypref.judging.config import JudgingConfig
from raypref.judging.judge import Judge
from raypref.judging.oracle_queue import OracleQueue
from raypref.judging.transcript import Recording, Replayed, Transcript
from raypref.losses.base import Loss
from raypref.oracles.base import Oracle
from raypref.output.journal import Journal
from raypref.output.recorded import RecordedGroups, written_by
from raypref.selection.base import Selection
from raypref.types import Comparison, Example, PreferenceMatrix, Rollout, SampleRequest, Verdict

SPARE_CALLS = 64
"""Concurrent calls that one actor allows beside the groups that it judges: the stream of queries, their answers, ``seal``."""


def constructor(
    config: RunConfig, name: str, *, device: str, examples: ExampleBuilder | None, policy: PolicyAccess | None
) -> partial[OracleActor]:
    """What makes the run's oracle actor of this name.

    Args:
        config: of the run; with an oracle.
        name: of the actor.
        device: ``cuda`` or ``cpu``.
        examples: builds the examples; None where nothing is trained.
        policy: how to ask the policy; None where the run has no engines.
    """
    if config.oracle is None:
        raise ValueError("oracle: a plan with oracle actors for a config without an oracle")
    return partial(
        OracleActor,
        oracle=config.oracle,
        selection=config.selection,
        loss=config.loss,
        examples=examples,
        journal_dir=config.output_dir / "rollouts",
        name=name,
        judging=config.judging,
        device=device,
        policy=policy,
        timeout_s=config.learner.timeout_s,
    )


class OracleActor:
    """Judges groups. Each group is a coroutine, so that the questions of many reach the oracle together; the oracle works in a thread."""

    def __init__(
        self,
        *,
        oracle: Oracle,
        selection: Selection | None,
        loss: Loss,
        journal_dir: Path | str,
        name: str,
        examples: ExampleBuilder | None = None,
        judging: JudgingConfig | None = None,
        device: str = "cpu",
        policy: PolicyAccess | None = None,
        timeout_s: float = 1800.0,
    ) -> None:
        """
        Args:
            oracle: loaded here.
            selection: which comparisons are asked for, and which responses become examples. None: the actor only compares policies.
            loss: makes the examples' targets.
            journal_dir: directory of the run's journal.
            name: the actor's name, also the name of its part of the journal.
            examples: builds the examples.
            judging: the config section.
            device: ``cuda`` or ``cpu``, for the oracle's engine.
            policy: how to ask the policy; None where the run has no engines.
            timeout_s: longest wait for the policy, in seconds.
        """
        self._services = ActorServices(device, policy, timeout_s)
        oracle.load(self._services)
        judging = judging or JudgingConfig()
        self._oracle = OracleQueue(oracle, judging)
        self._judge = Judge(self._oracle, selection, loss, examples, judging)
        self._journal = Journal(Path(journal_dir), name)
        self._recorded = RecordedGroups(Path(journal_dir))

    async def judge(
        self, rollout: Rollout, partner: Rollout | None = None, asked_before: str | None = None
    ) -> tuple[Verdict, tuple[Example, ...]]:
        """Judge a group and write it to the journal. Called with ``num_returns=2``: the examples stay in the object store.

        The oracle is not asked about a group that the journal of an interrupted run holds.

        Args:
            rollout: what is judged.
            partner: another prompt's rollout, where the loss wants mismatched responses.
            asked_before: the actor that was lost before it answered. What it has written to the journal is not judged or written again.
        """
        if asked_before is not None:
            written = await asyncio.to_thread(written_by, self._journal.directory, asked_before, rollout.origin)
            if written is not None:
                judged = await self._judge.judge(rollout, partner, Replayed(*written))
                return replace(judged.verdict, recorded=True), judged.examples
        recorded = rollout.origin in self._recorded
        if recorded:
            transcript, name = self._recorded.transcript(rollout.origin)
            judged = await self._judge.judge(rollout, partner, Replayed(transcript, name))
        else:
            recording = Recording(self._oracle)
            judged = await self._judge.judge(rollout, partner, recording)
            transcript = Transcript(recording.rounds)
        self._journal.append(rollout, judged, transcript)
        return replace(judged.verdict, recorded=recorded), judged.examples

    async def recall(self, request: SampleRequest) -> tuple[None, Rollout]:
        """The answer to a request that the journal of an interrupted run holds. Called with ``num_returns=2``, as ``judge`` is."""
        return None, self._recorded.rollout(request)

    async def compare(self, challenger: Rollout, defender: Rollout) -> Comparison:
        """Two policies on one held-out prompt; not written to the journal."""
        return await self._judge.compare(challenger, defender)

    async def matrix(self, rollout: Rollout) -> PreferenceMatrix:
        """Every response of a rollout against every other; not written to the journal."""
        return await self._judge.matrix(rollout)

    async def seal(self, iteration: int) -> str | None:
        """Close the iteration's part of the journal. Returns its path, or None where nothing was judged."""
        path = await asyncio.to_thread(self._journal.seal, iteration)
        self._recorded.forget(iteration)
        return None if path is None else str(path)

    async def policy_queries(self) -> AsyncIterator[PolicyQuery]:
        """What the oracle asks the policy; the stream does not end."""
        async for query in self._services.policy_queries():
            yield query

    async def answer_policy_query(self, key: int, failure: str | None, *rollouts: Rollout) -> None:
        """The policy's answers to a query, or why there are none."""
        self._services.answer_policy_query(key, rollouts, failure)
