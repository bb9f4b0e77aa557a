"""From a rollout to training examples: the oracle is asked, the selection picks, the loss computes its targets.

    rollout -> [selection asks -> oracle answers]* -> picks -> examples    (what is asked: ``raypref.judging.comparisons``)

K is the number of responses of the prompt. Cut-off responses that are left out (``judging.truncated: drop``) are removed first. The
indices that leave this module count over all K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raypref.data.examples import ExampleBuilder
from raypref.errors import ConfigError
from raypref.judging import diagnostics
from raypref.judging.comparisons import AsyncOracle, Comparisons, among_all
from raypref.judging.config import JudgingConfig
from raypref.losses.base import Loss
from raypref.preferences import Unanswered
from raypref.seeds import seed_for
from raypref.selection.base import Pairs, Picks, Selection, play
from raypref.types import Comparison, Judged, PreferenceMatrix, Response, Rollout, Verdict


class Judge:
    """Judges groups, several at a time: their questions reach the oracle together."""

    def __init__(
        self,
        oracle: AsyncOracle,
        selection: Selection | None,
        loss: Loss,
        examples: ExampleBuilder | None = None,
        judging: JudgingConfig | None = None,
    ) -> None:
        """
        Args:
            oracle: gives the preferences.
            selection: which responses become examples; None for a judge that only compares policies.
            loss: computes the targets.
            examples: builds the examples; default, made when the first group is judged: of the picked responses alone, however long
                they are.
            judging: which comparisons are asked, and what the answers count as.
        """
        self.selection = selection
        self.loss = loss
        self._given_examples = examples
        self.judging = judging or JudgingConfig()
        self._oracle = oracle

    @cached_property
    def _examples(self) -> ExampleBuilder:
        """Builds the examples. A judge that only compares needs none, and cannot have them where the loss wants revisions."""
        return self._given_examples or ExampleBuilder(self.loss)

    async def judge(self, rollout: Rollout, partner: Rollout | None = None, oracle: AsyncOracle | None = None) -> Judged:
        """Judge a group.

        A group without an example is dropped and counted. That happens when too few responses are left, the selection picks nothing,
        the oracle abstained on a comparison that is needed, or a sequence is too long.

        Args:
            rollout: the group.
            partner: another prompt's rollout, for a loss with mismatched sequences.
            oracle: asked about this group in place of the judge's own (``raypref.judging.transcript``).

        Raises:
            OracleError: the oracle's answer is no preference matrix.
            ConfigError: the selection does not ask for the comparisons that the loss needs, or picks a response that is not there.
        """
        kept = self._kept(rollout.responses)
        comparisons = self._comparisons(rollout, [rollout.responses[k] for k in kept], self.judging, oracle)
        selection = self._selection(rollout)
        picks, targets = await self._pick(selection, len(kept), comparisons, rollout.prompt.id) if len(kept) >= 2 else ([], [])
        in_rollout = [tuple(kept[k] for k in pick) for pick in picks]
        built = [self._examples.build(rollout, pick, target, partner) for pick, target in zip(in_rollout, targets, strict=True)]
        examples = tuple(example for example in built if example is not None)
        picked = tuple(pick for pick, example in zip(in_rollout, built, strict=True) if example is not None)
        metrics = {"oracle/dropped": float(not examples), "oracle/overlong": float(len(built) - len(examples))}
        metrics |= diagnostics.of_responses(rollout.responses) | diagnostics.entropy(rollout.responses)
        metrics |= diagnostics.of_verdicts(comparisons.answers, rollout.responses, kept) | comparisons.figures()
        if comparisons.asked.any():
            metrics |= selection.metrics(comparisons.matrix)
        verdict = Verdict(rollout.prompt.index, len(examples), metrics)
        return Judged(verdict, examples, among_all(comparisons.matrix, kept, len(rollout.responses)), picked)

    async def compare(self, challenger: Rollout, defender: Rollout) -> Comparison:
        """Two policies' responses to one prompt, each response of one against each of the other.

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
        """Every response of a rollout against every other, with preferences as ``judging.preference`` defines them (evaluation).

        As in ``compare``, the oracle alone decides, also on responses that were cut off.

        Raises:
            OracleError: the oracle's answer is no preference matrix.
        """
        judging = self.judging.model_copy(update={"pairs": "all", "abstentions": "leave_out", "truncated": "keep"})
        comparisons = self._comparisons(rollout, rollout.responses, judging)
        await comparisons.ask([])
        return replace(comparisons.matrix, metrics=comparisons.figures())

    def _comparisons(
        self, rollout: Rollout, responses: Sequence[Response], judging: JudgingConfig, oracle: AsyncOracle | None = None
    ) -> Comparisons:
        return Comparisons(rollout.prompt, responses, rollout.policy_version, oracle=oracle or self._oracle, judging=judging)

    async def _pick(
        self, selection: Selection, size: int, comparisons: Comparisons, prompt_id: str
    ) -> tuple[Picks, list[NDArray[np.float64]]]:
        """What the selection picks, and the targets of each pick; both empty where the oracle abstained on what they need."""
        try:
            picks = await _select(selection, size, comparisons)
            return picks, [self.loss.targets(comparisons.matrix, pick) for pick in picks]
        except Unanswered as error:
            if comparisons.abstained and self.judging.abstentions != "tie":
                return [], []
            raise ConfigError(
                f"selection.type: {selection.type!r} (judging.pairs: {self.judging.pairs}) does not ask for all the comparisons "
                f"that loss {self.loss.type!r} needs: {error}; prompt {prompt_id!r}"
            ) from error

    def _selection(self, rollout: Rollout) -> Selection:
        """The selection with this group's seed: what it draws depends on the prompt and the policy that answered, on nothing else."""
        assert self.selection is not None
        return self.selection.seeded(seed_for(0, "group", rollout.policy_version, rollout.prompt.id))

    def _kept(self, responses: Sequence[Response]) -> list[int]:
        drop = self.judging.truncated == "drop"
        return [k for k, response in enumerate(responses) if not (drop and response.finish_reason == "length")]


async def _select(selection: Selection, size: int, comparisons: Comparisons) -> Picks:
    """Run the selection to its end and ask the oracle for what it wants. A group that must be dropped has no picks."""

    async def answers(wanted: Pairs) -> PreferenceMatrix | None:
        await comparisons.ask(wanted)
        return None if comparisons.refused else comparisons.matrix

    return await play(selection, size, answers)
