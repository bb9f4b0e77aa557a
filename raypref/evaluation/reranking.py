"""Best of n: of a prompt's first n responses, the one with the highest mean score.

Source: SPPO section 4.2 (best of 16, ranked by PairRM; its mean score is in Appendix F). K responses to each of N prompts; a matrix is
(K, K) with P[i, j] = P(y_i > y_j). If the oracle that picks is also the judge, the win rates are its opinion of its own choice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raypref import preferences
from raypref.evaluation import outcomes
from raypref.evaluation.matching import Unit
from raypref.evaluation.win_rate import WinRate, summarise
from raypref.preferences import TIE, Matrix
from raypref.roles import OracleRole
from raypref.types import Chain

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BestOf:
    """The best of the first ``n`` responses against the first one."""

    n: int
    against_first: WinRate
    """One half for n = 1. A prompt whose pick is the first response counts one half; a prompt without a pick is unanswered."""
    length: float | None
    """Mean length of the picks, in ``unit``; None where no lengths were given."""
    unit: Unit | None
    abstained: int
    """Comparisons among the first ``n`` on which the oracle abstained, over all prompts."""
    oracle: Mapping[str, float] = field(default_factory=dict)
    """The oracle's metrics over all comparisons of all responses, the same for each n: means, and the sum of each ``Total``."""


def pick(values: Matrix, n: int | None = None) -> int | None:
    """The response with the highest mean score among the first ``n``, compared with these alone; of equal ones the first.

    A response is not considered if the oracle abstained on one of its comparisons; None where this holds for every response.

    Args:
        values: (K, K).
        n: from 1 to K; default: K.
    """
    among = values[:n, :n]
    rows = preferences.complete_rows(among)
    if not len(rows):
        return None
    scores = preferences.mean_scores(among, rows)
    return int(rows[np.flatnonzero(scores >= scores.max() - TIE)[0]])


def best_of_n(
    matrices: Sequence[Matrix],
    *,
    resamples: int,
    confidence: float,
    seed: int,
    lengths: NDArray[np.float64] | None = None,
    unit: Unit | None = None,
    oracle: Mapping[str, float] | None = None,
) -> list[BestOf]:
    """Win rates of the best of n against the first response, for n = 1, 2, 4, ... and K.

    Args:
        matrices: (N,) each (K, K).
        resamples: of the bootstrap over prompts, the same for each n.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap.
        lengths: (N, K) of the responses.
        unit: of the lengths.
        oracle: what the oracle observed (``outcomes.summary`` of ``PreferenceMatrix.metrics``).

    Raises:
        ValueError: there is no matrix, or they differ in size.
        OracleError: no prompt has a pick.
    """
    sizes = {len(values) for values in matrices}
    if len(sizes) != 1:
        raise ValueError(f"best_of_n: matrices of one size are needed, got {sorted(sizes)}")
    (size,) = sizes
    curve = []
    for n in sorted({*(2**power for power in range(size.bit_length())), size}):
        picks = [pick(values, n) for values in matrices]
        chances = [float("nan") if best is None else float(values[best, 0]) for best, values in zip(picks, matrices, strict=True)]
        summary = summarise(chances, resamples=resamples, confidence=confidence, seed=seed)
        length = None
        if lengths is not None:
            length = float(np.mean([row[best] for best, row in zip(picks, lengths, strict=True) if best is not None]))
        abstained = sum(int(np.isnan(np.triu(values[:n, :n])).sum()) for values in matrices)
        curve.append(BestOf(n, summary, length, unit, abstained, oracle or {}))
    return curve


async def best_of(chains: Sequence[Chain], oracle: OracleRole) -> list[Chain]:
    """For each prompt, the last answer with the highest mean score, with the answers that it was revised from.

    A prompt keeps its first answer, and a warning is logged, where the oracle abstained too often to pick one.

    Source: SPPO section 5 (n = 16, PairRM's mean score).
    """
    matrices = await asyncio.gather(*(oracle.matrix(item.rollout(len(item.rounds) - 1, 0)) for item in chains))
    observed = outcomes.summary(matrix.metrics for matrix in matrices)
    if observed:
        logger.info("oracle: %s", ", ".join(f"{name.removeprefix('oracle/')} {value:.6g}" for name, value in observed.items()))
    picks = [pick(matrix.values) for matrix in matrices]
    undecided = [item.prompt.id for item, best in zip(chains, picks, strict=True) if best is None]
    if undecided:
        logger.warning(
            "no choice on %d prompts (%s, ...), where the oracle abstained: first answers are kept", len(undecided), undecided[0]
        )
    return [
        Chain(item.prompt, tuple((answers[best or 0],) for answers in item.rounds), item.stopped)
        for item, best in zip(chains, picks, strict=True)
    ]
