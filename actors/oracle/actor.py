"""Oracle actors: a judge and its journal behind Ray calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from actors.oracle.host import Errand, OracleHost, PolicyAccess
from raypref.data.sequences import SequenceMaker
from raypref.judging.asking import Asker
from raypref.judging.config import JudgingConfig
from raypref.judging.judge import Judge
from raypref.losses.base import Loss
from raypref.oracles.base import Oracle
from raypref.output.journal import Journal
from raypref.sections import RolloutConfig
from raypref.selection.base import Selection
from raypref.types import Comparison, Example, PreferenceMatrix, Rollout, Verdict

SPARE_CALLS = 64
"""Coroutines of one actor beside the groups that it judges: the stream of errands, deliveries, ``seal``."""


class OracleActor:
    """One judge. Its groups are coroutines, so that their comparisons reach the oracle together; the oracle works in a thread."""

    def __init__(
        self,
        *,
        oracle: Oracle,
        selection: Selection | None,
        loss: Loss,
        rollout: RolloutConfig,
        journal_dir: Path | str,
        name: str,
        sequences: SequenceMaker | None = None,
        judging: JudgingConfig | None = None,
        device: str = "cpu",
        policy: PolicyAccess | None = None,
        timeout_s: float = 1800.0,
    ) -> None:
        """
        Args:
            oracle: loaded here.
            selection: what is asked, and which responses are kept.
            loss: makes the examples' targets.
            rollout: what becomes of responses that were cut off.
            journal_dir: the run's rollouts on disk.
            name: the actor's own; also that of its part of the journal.
            sequences: makes the examples.
            judging: what is asked, and what the answers mean.
            device: of an engine of the oracle's own.
            policy: how the policy is asked, by an oracle that does.
            timeout_s: longest wait for the policy.
        """
        self._host = OracleHost(device, policy, timeout_s)
        oracle.load(self._host)
        judging = judging or JudgingConfig()
        self._judge = Judge(Asker(oracle, judging), selection, loss, rollout, sequences, judging)
        self._journal = Journal(Path(journal_dir), name)

    async def judge(self, rollout: Rollout, partner: Rollout | None = None) -> tuple[Verdict, tuple[Example, ...]]:
        """Judge a group and put it on disk. Called with ``num_returns=2``: the examples stay in the object store."""
        judged = await self._judge.judge(rollout, partner)
        self._journal.append(rollout, judged)
        return judged.verdict, judged.examples

    async def compare(self, challenger: Rollout, defender: Rollout) -> Comparison:
        """Two policies on one held-out prompt; nothing of it goes into the journal."""
        return await self._judge.compare(challenger, defender)

    async def matrix(self, rollout: Rollout) -> PreferenceMatrix:
        """Every response of a rollout against every other; nothing of it goes into the journal."""
        return await self._judge.matrix(rollout)

    async def seal(self, iteration: int) -> str | None:
        """Close the iteration's part of the journal; its path, if there is anything in it."""
        path = self._journal.seal(iteration)
        return None if path is None else str(path)

    async def errands(self) -> AsyncIterator[Errand]:
        """What the oracle wants to ask the policy; without end."""
        async for errand in self._host.errands():
            yield errand

    async def deliver(self, key: int, failure: str | None, *rollouts: Rollout) -> None:
        """The policy's answers to an errand, or why there are none."""
        self._host.deliver(key, rollouts, failure)
