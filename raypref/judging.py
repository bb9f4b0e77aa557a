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


@dataclass(slots=True)
class _Verdicts:
    """What a group's comparisons have given so far."""

    values: NDArray[np.float64]
    asked: set[tuple[int, int]]
    abstained: int = 0


class Judge:
    """Asks the oracle about one group after the other."""

    def __init__(self, oracle: Oracle, selection: Selection, loss: Loss, rollout: RolloutConfig) -> None:
        self.oracle = oracle
        self.selection = selection
        self.loss = loss
        self.rollout = rollout

    def load(self) -> None:
        """Load the oracle's models, before the first group."""
        self.oracle.load()

    def judge(self, rollout: Rollout) -> Judged:
        """Judge a group. One that gives no example is dropped and counted: too few responses are left, the selection does not want it,
        or the oracle abstained on what it would need.

        Raises:
            OracleError: the oracle's answer is no preference matrix.
            ConfigError: the selection does not ask for the comparisons that the loss needs, or picks what is not there.
        """
        kept = self._kept(rollout.responses)
        verdicts = _Verdicts(preferences.unknown(len(kept)), set())
        picks: Picks = []
        targets: list[NDArray[np.float64]] = []
        if len(kept) >= 2:
            try:
                picks = self._select(rollout, kept, verdicts)
                matrix = PreferenceMatrix(verdicts.values, self.oracle.type)
                targets = [self.loss.targets(matrix, pick) for pick in picks]
            except Unanswered as error:
                if not verdicts.abstained:
                    raise ConfigError(
                        f"selection.type: {self.selection.type!r} does not ask for all the comparisons that loss {self.loss.type!r} needs: "
                        f"{error}; prompt {rollout.prompt.id!r}"
                    ) from error
                picks, targets = [], []
        picked = tuple(tuple(kept[k] for k in pick) for pick in picks)
        examples = tuple(_example(rollout, pick, target) for pick, target in zip(picked, targets, strict=True))
        verdict = Verdict(rollout.prompt.index, len(examples), _metrics(rollout, verdicts) | {"oracle/dropped": float(not examples)})
        return Judged(verdict, examples, PreferenceMatrix(_spread(verdicts.values, kept, len(rollout.responses)), self.oracle.type), picked)

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

    def _kept(self, responses: Sequence[Response]) -> list[int]:
        drop = self.rollout.truncated == "drop"
        return [k for k, response in enumerate(responses) if not (drop and response.finish_reason == "length")]

    def _select(self, rollout: Rollout, kept: Sequence[int], verdicts: _Verdicts) -> Picks:
        """Run the selection to its end, asking the oracle for what it wants and does not know yet."""
        choosing = self.selection.choose(len(kept))
        try:
            wanted = next(choosing)
            while True:
                self._ask(rollout, kept, _valid_pairs(wanted, len(kept), self.selection), verdicts)
                wanted = choosing.send(PreferenceMatrix(verdicts.values.copy(), self.oracle.type))
        except StopIteration as stop:
            return _valid_picks(stop.value, len(kept), self.selection)

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


def _valid_pairs(pairs: Pairs, size: int, selection: Selection) -> Pairs:
    for i, j in pairs:
        if not 0 <= i < j < size:
            raise ConfigError(
                f"selection.type: {selection.type!r} asks for ({i}, {j}) of {size} responses; pairs are (i, j) with i < j < {size}"
            )
    return pairs


def _valid_picks(picks: Picks, size: int, selection: Selection) -> Picks:
    for pick in picks:
        if not pick or len(set(pick)) < len(pick) or not all(0 <= k < size for k in pick):
            raise ConfigError(
                f"selection.type: {selection.type!r} picked {pick} of {size} responses; pick different ones, from 0 to {size - 1}"
            )
    return picks


def _example(rollout: Rollout, pick: tuple[int, ...], targets: NDArray[np.float64]) -> Example:
    return Example(
        prompt_index=rollout.prompt.index,
        prompt_id=rollout.prompt.id,
        prompt_ids=(rollout.prompt.token_ids,) * len(pick),
        response_ids=tuple(rollout.responses[k].token_ids for k in pick),
        targets=targets,
        policy_version=rollout.policy_version,
    )


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
