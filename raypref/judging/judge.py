"""A rollout becomes training examples: the oracle is asked, the selection picks, the loss makes its targets.

    rollout -> [selection asks -> oracle answers]* -> picks -> examples    (what is asked: ``raypref.judging.comparisons``)

K responses of the prompt. Cut-off responses that are left out (``rollout.truncated: drop``) are taken away first; indices into the rest
are mapped back, so that everything that leaves this module counts over all K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypref.data.sequences import SequenceMaker
from raypref.errors import ConfigError
from raypref.judging import diagnostics
from raypref.judging.comparisons import Asks, Comparisons, spread
from raypref.judging.config import JudgingConfig
from raypref.losses.base import Loss
from raypref.preferences import Unanswered
from raypref.sections import RolloutConfig
from raypref.seeds import seed_for
from raypref.selection.base import Pairs, Picks, Selection
from raypref.types import Comparison, Example, PreferenceMatrix, Response, Rollout, Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged group: what the driver learns, what the learner gets, what the journal keeps."""

    verdict: Verdict
    examples: tuple[Example, ...]
    matrix: PreferenceMatrix
    """(K, K) over all responses of the rollout, NaN where not asked, not answered, or left out."""
    picked: tuple[tuple[int, ...], ...]
    """For each example, the indices of its responses in the rollout."""


class Judge:
    """Judges groups, several at a time: their questions reach the oracle together."""

    def __init__(
        self,
        oracle: Asks,
        selection: Selection | None,
        loss: Loss,
        rollout: RolloutConfig,
        sequences: SequenceMaker | None = None,
        judging: JudgingConfig | None = None,
    ) -> None:
        """
        Args:
            oracle: gives the preferences.
            selection: which responses are kept; None for a judge that only compares policies.
            loss: makes the targets.
            rollout: what becomes of responses that were cut off.
            sequences: makes the examples; default: of the picked responses alone, however long.
            judging: what is asked, and what the answers mean.
        """
        self.selection = selection
        self.loss = loss
        self.rollout = rollout
        self.sequences = sequences or SequenceMaker(loss)
        self.judging = judging or JudgingConfig()
        self._oracle = oracle

    async def judge(self, rollout: Rollout, partner: Rollout | None = None) -> Judged:
        """Judge a group. One that gives no example is dropped and counted: too few responses are left, the selection does not want it,
        the oracle abstained on what it would need, or a sequence is too long.

        Args:
            rollout: the group.
            partner: another prompt's, for a loss with mismatched sequences.

        Raises:
            OracleError: the oracle's answer is no preference matrix.
            ConfigError: the selection does not ask for the comparisons that the loss needs, or picks what is not there.
        """
        selection = self._selection(rollout)
        kept = self._kept(rollout.responses)
        comparisons = self._comparisons(rollout, kept)
        picks: Picks = []
        targets: list[NDArray[np.float64]] = []
        if len(kept) >= 2:
            try:
                picks = await _select(selection, len(kept), comparisons)
                targets = [self.loss.targets(comparisons.matrix, pick) for pick in picks]
            except Unanswered as error:
                if not comparisons.abstained or self.judging.abstentions == "tie":
                    raise ConfigError(
                        f"selection.type: {selection.type!r} (judging.pairs: {self.judging.pairs}) does not ask for all the comparisons "
                        f"that loss {self.loss.type!r} needs: {error}; prompt {rollout.prompt.id!r}"
                    ) from error
                picks, targets = [], []
        every = tuple(tuple(kept[k] for k in pick) for pick in picks)
        made = [self.sequences.make(rollout, pick, target, partner) for pick, target in zip(every, targets, strict=True)]
        examples = tuple(example for example in made if example is not None)
        picked = tuple(pick for pick, example in zip(every, made, strict=True) if example is not None)
        matrix = comparisons.matrix
        metrics = {"oracle/dropped": float(not examples), "oracle/overlong": float(len(made) - len(examples))}
        metrics |= diagnostics.of_responses(rollout.responses)
        metrics |= diagnostics.of_verdicts(comparisons.verdicts, rollout.responses, kept) | comparisons.figures()
        if comparisons.asked.any():
            metrics |= selection.metrics(matrix)
        verdict = Verdict(rollout.prompt.index, len(examples), metrics)
        return Judged(verdict, examples, spread(matrix, kept, len(rollout.responses)), picked)

    async def compare(self, challenger: Rollout, defender: Rollout) -> Comparison:
        """Two policies' responses to one prompt, each of one side against each of the other.

        The oracle alone decides: cut-off responses are judged like any other, and of ``judging`` only the cache and the margin of ties
        apply. Comparisons on which it abstains are left out; the win rate is NaN when it abstains on all.

        Raises:
            OracleError: the oracle's answer is no preference matrix.
            ValueError: the rollouts answer different prompts.
        """
        prompt = challenger.prompt
        if prompt.id != defender.prompt.id:
            raise ValueError(f"compare: the challenger answers prompt {prompt.id!r}, the defender {defender.prompt.id!r}")
        first, second = challenger.responses, defender.responses
        pairs = [(i, len(first) + j) for i in range(len(first)) for j in range(len(second))]
        comparisons = Comparisons(
            prompt,
            (*first, *second),
            max((side.policy_version for side in (challenger, defender) if side.policy_version is not None), default=None),
            oracle=self._oracle,
            judging=JudgingConfig(tie_margin=self.judging.tie_margin),
            rollout=RolloutConfig(),
        )
        await comparisons.ask(pairs)
        chances = comparisons.matrix.values[: len(first), len(first) :]
        known = chances[~np.isnan(chances)]
        return Comparison(
            prompt_id=prompt.id,
            prompt=prompt.text,
            win_rate=float(known.mean()) if len(known) else float("nan"),
            challenger=first[0].text,
            defender=second[0].text,
            challenger_tokens=diagnostics.mean_tokens(first),
            defender_tokens=diagnostics.mean_tokens(second),
            metrics=comparisons.figures(),
        )

    async def matrix(self, rollout: Rollout) -> PreferenceMatrix:
        """Every response of a rollout against every other, as ``judging.preference`` has it (evaluation).

        As in ``compare`` the oracle alone decides, also on responses that were cut off.

        Raises:
            OracleError: the oracle's answer is no preference matrix.
        """
        settings = self.judging.model_copy(update={"pairs": "all", "abstentions": "leave_out"})
        comparisons = Comparisons(
            rollout.prompt, rollout.responses, rollout.policy_version, oracle=self._oracle, judging=settings, rollout=RolloutConfig()
        )
        await comparisons.ask([])
        return comparisons.matrix

    def _comparisons(self, rollout: Rollout, kept: Sequence[int]) -> Comparisons:
        responses = [rollout.responses[k] for k in kept]
        return Comparisons(
            rollout.prompt,
            responses,
            rollout.policy_version,
            oracle=self._oracle,
            judging=self.judging,
            rollout=self.rollout,
        )

    def _selection(self, rollout: Rollout) -> Selection:
        """The rule as it works on this group: what it draws depends on the prompt and on the policy that answered, on nothing else."""
        assert self.selection is not None
        return self.selection.seeded(seed_for(0, "group", rollout.policy_version, rollout.prompt.id))

    def _kept(self, responses: Sequence[Response]) -> list[int]:
        drop = self.rollout.truncated == "drop"
        return [k for k, response in enumerate(responses) if not (drop and response.finish_reason == "length")]


async def _select(selection: Selection, size: int, comparisons: Comparisons) -> Picks:
    """Run the selection to its end, asking the oracle for what it wants and does not know yet; no picks of a group that is refused."""
    choosing = selection.choose(size)
    try:
        wanted = next(choosing)
        while True:
            await comparisons.ask(valid_pairs(wanted, size, selection))
            if comparisons.refused:
                return []
            wanted = choosing.send(comparisons.matrix)
    except StopIteration as stop:
        return valid_picks(stop.value, size, selection)


def valid_pairs(pairs: Pairs, size: int, selection: Selection) -> Pairs:
    """The comparisons that a selection asks for.

    Raises:
        ConfigError: one is no (i, j) with i < j.
    """
    for i, j in pairs:
        if not 0 <= i < j < size:
            raise ConfigError(
                f"selection.type: {selection.type!r} asks for ({i}, {j}) of {size} responses; pairs are (i, j) with i < j < {size}"
            )
    return pairs


def valid_picks(picks: Picks, size: int, selection: Selection) -> Picks:
    """What a selection picked.

    Raises:
        ConfigError: a pick is empty, or names a response twice or one that is not there.
    """
    for pick in picks:
        if not pick or len(set(pick)) < len(pick) or not all(0 <= k < size for k in pick):
            raise ConfigError(
                f"selection.type: {selection.type!r} picked {pick} of {size} responses; pick different ones, from 0 to {size - 1}"
            )
    return picks
