"""A rollout becomes training examples: the oracle is asked, the selection picks, the loss makes its targets.

    rollout -> [selection asks -> oracle answers]* -> picks -> examples

K responses of the prompt. Cut-off responses that are left out (``rollout.truncated: drop``) are taken away first; indices into the rest
are mapped back, so that everything that leaves this module counts over all K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypref import preferences
from raypref.config import RolloutConfig
from raypref.errors import ConfigError
from raypref.losses.base import Loss
from raypref.oracles.base import Oracle, Question
from raypref.oracles.checked import ask
from raypref.preferences import Unanswered
from raypref.seeds import seed_for
from raypref.selection.base import Pairs, Picks, Selection
from raypref.sequences import SequenceMaker
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


@dataclass(slots=True)
class _Verdicts:
    """What a group's comparisons have given so far."""

    values: NDArray[np.float64]
    asked: set[tuple[int, int]]
    abstained: int = 0


class Judge:
    """Asks the oracle about one group after the other."""

    def __init__(
        self, oracle: Oracle, selection: Selection | None, loss: Loss, rollout: RolloutConfig, sequences: SequenceMaker | None = None
    ) -> None:
        """
        Args:
            oracle: gives the preferences.
            selection: which responses are kept; None for a judge that only compares policies.
            loss: makes the targets.
            rollout: what becomes of responses that were cut off.
            sequences: makes the examples; default: of the picked responses alone, however long.
        """
        self.oracle = oracle
        self.selection = selection
        self.loss = loss
        self.rollout = rollout
        self.sequences = sequences or SequenceMaker(loss)

    def load(self) -> None:
        """Load the oracle's models, before the first group."""
        self.oracle.load()

    def judge(self, rollout: Rollout, partner: Rollout | None = None) -> Judged:
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
        verdicts = _Verdicts(preferences.unknown(len(kept)), set())
        picks: Picks = []
        targets: list[NDArray[np.float64]] = []
        if len(kept) >= 2:
            try:
                picks = self._select(selection, rollout, kept, verdicts)
                matrix = PreferenceMatrix(verdicts.values, self.oracle.type)
                targets = [self.loss.targets(matrix, pick) for pick in picks]
            except Unanswered as error:
                if not verdicts.abstained:
                    raise ConfigError(
                        f"selection.type: {selection.type!r} does not ask for all the comparisons that loss {self.loss.type!r} needs: "
                        f"{error}; prompt {rollout.prompt.id!r}"
                    ) from error
                picks, targets = [], []
        every = tuple(tuple(kept[k] for k in pick) for pick in picks)
        made = [self.sequences.make(rollout, pick, target, partner) for pick, target in zip(every, targets, strict=True)]
        examples = tuple(example for example in made if example is not None)
        picked = tuple(pick for pick, example in zip(every, made, strict=True) if example is not None)
        metrics = _metrics(rollout, verdicts) | {"oracle/dropped": float(not examples), "oracle/overlong": float(len(made) - len(examples))}
        if verdicts.asked:
            metrics |= selection.metrics(PreferenceMatrix(verdicts.values, self.oracle.type))
        matrix = PreferenceMatrix(_spread(verdicts.values, kept, len(rollout.responses)), self.oracle.type)
        return Judged(Verdict(rollout.prompt.index, len(examples), metrics), examples, matrix, picked)

    def compare(self, challenger: Rollout, defender: Rollout) -> Comparison:
        """Two policies' responses to one prompt, each of one side against each of the other.

        The oracle alone decides: cut-off responses are judged like any other. Comparisons on which it abstains are left out; the win
        rate is NaN when it abstains on all.

        Raises:
            OracleError: the oracle's answer is no preference matrix.
            ValueError: the rollouts answer different prompts.
        """
        prompt = challenger.prompt
        if prompt.id != defender.prompt.id:
            raise ValueError(f"compare: the challenger answers prompt {prompt.id!r}, the defender {defender.prompt.id!r}")
        first, second = challenger.responses, defender.responses
        pairs = tuple((i, len(first) + j) for i in range(len(first)) for j in range(len(second)))
        texts = tuple(response.text for response in (*first, *second))
        (answer,) = ask(self.oracle, [Question(prompt.id, prompt.text, texts, pairs)])
        chances = answer.values[: len(first), len(first) :]
        known = chances[~np.isnan(chances)]
        return Comparison(
            prompt_id=prompt.id,
            prompt=prompt.text,
            win_rate=float(known.mean()) if len(known) else float("nan"),
            challenger=first[0].text,
            defender=second[0].text,
            challenger_tokens=_mean_tokens(first),
            defender_tokens=_mean_tokens(second),
        )

    def _selection(self, rollout: Rollout) -> Selection:
        """The rule as it works on this group: what it draws depends on the prompt and on the policy that answered, on nothing else."""
        assert self.selection is not None
        return self.selection.seeded(seed_for(0, "group", rollout.policy_version, rollout.prompt.id))

    def _kept(self, responses: Sequence[Response]) -> list[int]:
        drop = self.rollout.truncated == "drop"
        return [k for k, response in enumerate(responses) if not (drop and response.finish_reason == "length")]

    def _select(self, selection: Selection, rollout: Rollout, kept: Sequence[int], verdicts: _Verdicts) -> Picks:
        """Run the selection to its end, asking the oracle for what it wants and does not know yet."""
        choosing = selection.choose(len(kept))
        try:
            wanted = next(choosing)
            while True:
                self._ask(rollout, kept, valid_pairs(wanted, len(kept), selection), verdicts)
                wanted = choosing.send(PreferenceMatrix(verdicts.values.copy(), self.oracle.type))
        except StopIteration as stop:
            return valid_picks(stop.value, len(kept), selection)

    def _ask(self, rollout: Rollout, kept: Sequence[int], wanted: Pairs, verdicts: _Verdicts) -> None:
        pairs = tuple(pair for pair in dict.fromkeys(wanted) if pair not in verdicts.asked)
        if not pairs:
            return
        responses = [rollout.responses[k] for k in kept]
        question = Question(rollout.prompt.id, rollout.prompt.text, tuple(response.text for response in responses), pairs)
        (answer,) = ask(self.oracle, [question])
        values = answer.values
        if self.rollout.truncated == "penalise":
            truncated = np.array([response.finish_reason == "length" for response in responses])
            values = preferences.penalise(values, truncated, self.rollout.truncation_penalty)
        verdicts.values = np.where(np.isnan(values), verdicts.values, values)
        verdicts.asked.update(pairs)
        verdicts.abstained += answer.abstained


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


def _metrics(rollout: Rollout, verdicts: _Verdicts) -> dict[str, float]:
    """Figures of a group; NaN where one does not apply, such as the win rates' spread of a matrix with holes."""
    responses, values = rollout.responses, verdicts.values
    complete = len(values) >= 2 and not np.isnan(values).any()
    rates = preferences.win_rates(values) if complete else np.array([np.nan])
    return {
        "rollout/tokens": float(sum(len(response.token_ids) for response in responses)),
        "rollout/response_tokens": _mean_tokens(responses),
        "rollout/truncated": float(np.mean([response.finish_reason == "length" for response in responses])),
        "oracle/win_rate_spread": float(rates.max() - rates.min()),
        "oracle/cycle": float(preferences.has_cycle(values)) if complete else float("nan"),
        "oracle/abstained": verdicts.abstained / len(verdicts.asked) if verdicts.asked else float("nan"),
    }


def _mean_tokens(responses: Sequence[Response]) -> float:
    return float(np.mean([len(response.token_ids) for response in responses]))


def _spread(values: NDArray[np.float64], kept: Sequence[int], size: int) -> NDArray[np.float64]:
    """The kept responses' matrix in its place among all ``size``."""
    full = preferences.unknown(size)
    full[np.ix_(kept, kept)] = values
    return full
