"""The comparisons of one group: the ``judging`` section between a selection that asks and an oracle that answers.

pairs that the selection wants -> pairs that are asked (those, all, random opponents) -> the oracle's P
    -> ties, abstentions -> pairwise or sppo -> penalty for cut-off responses
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from raypref import preferences
from raypref.errors import ConfigError, OracleError
from raypref.judging.config import JudgingConfig
from raypref.oracles.base import Question
from raypref.oracles.support.checked import Checked
from raypref.preferences import Mask, Matrix
from raypref.seeds import seed_for
from raypref.selection.base import Pairs, all_pairs
from raypref.types import PreferenceMatrix, Prompt, Response, Total


class AsyncOracle(Protocol):
    """An oracle that coroutines can ask (``raypref.judging.oracle_queue.OracleQueue``)."""

    @property
    def name(self) -> str:
        """The oracle's name, for messages and the journal."""
        ...

    async def ask(self, question: Question) -> Checked:
        """The oracle's checked answer."""
        ...


class Comparisons:
    """What is known so far of how the responses of one group compare."""

    def __init__(
        self,
        prompt: Prompt,
        responses: Sequence[Response],
        policy_version: int | None,
        *,
        oracle: AsyncOracle,
        judging: JudgingConfig,
    ) -> None:
        """
        Args:
            prompt: the group's prompt.
            responses: (K,) the responses that are compared.
            policy_version: the policy that sampled them; None: they are given.
            oracle: gives the verdicts.
            judging: which comparisons are asked, and what the answers count as.
        """
        size = len(responses)
        self._question = Question(prompt.id, prompt.text, tuple(response.text for response in responses), (), prompt.chat, policy_version)
        self._cut_off = np.array([response.finish_reason == "length" for response in responses], dtype=bool)
        self._oracle = oracle
        self._judging = judging
        self._answers = preferences.unknown(size)
        """(K, K) the oracle's answers, P + P^T = 1, NaN where there is none."""
        self._verdicts = preferences.unknown(size)
        """(K, K) what the answers count as: close ones as ties, abstentions as ``judging.abstentions`` says."""
        self.asked = np.zeros((size, size), dtype=bool)
        """(K, K) True where the oracle was asked; symmetric."""
        self.abstained = 0
        """Comparisons on which the oracle abstained."""
        self.observed: dict[str, list[float]] = {}
        """``Answer.observed`` of all questions, joined."""

    async def ask(self, wanted: Pairs) -> None:
        """Ask for the comparisons that a selection wants, or for those that ``judging.pairs`` puts in their place; each is asked once.

        Raises:
            ConfigError: the selection wants certain pairs, and random opponents cannot replace these.
            OracleError: the oracle abstains, and ``judging.abstentions`` is ``stop``.
        """
        pairs = tuple((i, j) for i, j in dict.fromkeys(self._to_ask(wanted)) if not self.asked[i, j])
        if not pairs:
            return
        answer = await self._oracle.ask(replace(self._question, pairs=pairs))
        for i, j in pairs:
            self.asked[i, j] = self.asked[j, i] = True
        self._record(answer, pairs)
        for name, figures in answer.observed.items():
            self.observed.setdefault(name, []).extend(figures)

    def _to_ask(self, wanted: Pairs) -> Pairs:
        whole = all_pairs(len(self.asked))
        if self._judging.pairs == "all" or self._judging.preference == "sppo":
            return whole
        if self._judging.pairs == "selection":
            return wanted
        if set(wanted) != set(whole):
            raise ConfigError(
                "judging.pairs: random opponents stand for a whole matrix, but the selection asks for certain pairs of it; "
                "set judging.pairs=selection, or selection.type=best_worst, all_responses, ranking or best_of_n"
            )
        seed = seed_for(0, "opponents", self._question.policy_version, self._question.prompt_id)
        drawn = preferences.random_opponents(len(self.asked), self._judging.opponents, seed)
        return [(i, j) for i, j in whole if drawn[i, j]]

    def _record(self, answer: Checked, pairs: Sequence[tuple[int, int]]) -> None:
        self._answers = np.where(np.isnan(answer.values), self._answers, answer.values)
        values = np.where(np.abs(answer.values - 0.5) <= self._judging.tie_margin, 0.5, answer.values)
        open_pairs = [(i, j) for i, j in pairs if np.isnan(values[i, j])]
        self.abstained += len(open_pairs)
        if open_pairs and self._judging.abstentions == "stop":
            raise OracleError(
                f"oracle {self._oracle.name!r}, prompt {self._question.prompt_id!r}: no verdict on responses {open_pairs}, and "
                f"judging.abstentions is stop"
            )
        if self._judging.abstentions == "tie":
            for i, j in open_pairs:
                values[i, j] = values[j, i] = 0.5
        self._verdicts = np.where(np.isnan(values), self._verdicts, values)

    @property
    def refused(self) -> bool:
        """Whether the group must be dropped because the oracle abstained (``judging.abstentions: drop_group``)."""
        return self.abstained > 0 and self._judging.abstentions == "drop_group"

    @property
    def matrix(self) -> PreferenceMatrix:
        """The preference matrix as far as it is known, with everything that the ``judging`` section makes of the answers."""
        values = preferences.sppo_preferences(self._verdicts) if self._judging.preference == "sppo" else self._verdicts.copy()
        if self._judging.truncated == "penalise" and self._judging.truncation_penalty:
            values = preferences.penalise(values, self._cut_off, self._judging.truncation_penalty)
        return PreferenceMatrix(values, self._oracle.name, self.asked.copy(), self._judging.pairs == "random")

    @property
    def answers(self) -> PreferenceMatrix:
        """The oracle's answers as it gave them."""
        return PreferenceMatrix(self._answers.copy(), self._oracle.name, self.asked.copy(), self._judging.pairs == "random")

    def figures(self) -> dict[str, float]:
        """What the oracle observed (sums of ``Total``, means of the rest), and the share of comparisons on which it abstained."""
        count = np.count_nonzero(np.triu(self.asked))
        observed = {name: mean_or_total(figures) for name, figures in self.observed.items() if len(figures)}
        return observed | {"oracle/abstained": self.abstained / count if count else float("nan")}


def mean_or_total(figures: Sequence[float]) -> float:
    """The sum of ``Total`` figures, as a ``Total``; the mean of others."""
    if isinstance(figures[0], Total):
        return Total(sum(figures))
    return float(np.mean(figures))


def among_all(matrix: PreferenceMatrix, kept: Sequence[int], size: int) -> PreferenceMatrix:
    """The matrix of the kept responses, (len(kept), len(kept)), as one over all ``size`` responses; the others were not asked about."""
    values: Matrix = preferences.unknown(size)
    asked: Mask = np.zeros((size, size), dtype=bool)
    place = np.ix_(kept, kept)
    values[place] = matrix.values
    asked[place] = matrix.known if matrix.asked is None else matrix.asked
    return PreferenceMatrix(values, matrix.oracle, asked, matrix.sampled)
