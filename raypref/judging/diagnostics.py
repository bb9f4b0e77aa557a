"""What the metrics tell of a judged group: of its responses, and of the oracle's taste. NaN where a figure does not apply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raypref import preferences
from raypref.types import PreferenceMatrix, Response


def of_responses(responses: Sequence[Response]) -> dict[str, float]:
    """``tokens`` of the group, ``response_tokens`` on average, and the share that was ``truncated`` at ``rollout.max_tokens``."""
    return {
        "rollout/tokens": float(sum(len(response.token_ids) for response in responses)),
        "rollout/response_tokens": mean_tokens(responses),
        "rollout/truncated": float(np.mean([response.finish_reason == "length" for response in responses])),
    }


def entropy(responses: Sequence[Response]) -> dict[str, float]:
    """``entropy`` of the policy per token, estimated from all tokens that it sampled; nothing for given responses.

    -sum log pi_t(token) / number of tokens, in nats: the expectation of -log pi_t(y | x) over y ~ pi_t is the entropy of a response.
    """
    logprobs = np.concatenate([response.logprobs for response in responses])
    return {"entropy": -float(logprobs.mean(dtype=np.float64))} if len(logprobs) else {}


def of_verdicts(matrix: PreferenceMatrix, responses: Sequence[Response], kept: Sequence[int]) -> dict[str, float]:
    """The oracle's answers, before the ``judging`` section makes a preference matrix of them.

    ``comparisons``: how many have an answer. ``ties``: the share of them that say exactly one half. ``saturated``: the share of them so
    close to 0 or 1 that log-odds are cut (``preferences.LEAST``). ``win_rate_spread``: the highest win rate less the lowest. ``cycle``: 1
    where the majority relation has a cycle, so that the mean over groups is their share. ``entropy``: of the verdicts, in nats; log 2 =
    0.69 is an oracle that cannot tell. ``length_bias``: Spearman's correlation of win rate and length in tokens over the responses; above
    0 where the longer ones win.

    Args:
        matrix: (K, K) of the kept responses, the oracle's own verdicts.
        responses: all of the group.
        kept: (K,) which of them were judged.
    """
    complete = len(kept) >= 2 and len(matrix.complete_rows()) == len(kept)
    rates = matrix.win_rates() if complete else np.full(len(kept), np.nan)
    lengths = np.array([len(responses[k].token_ids) for k in kept], dtype=np.float64)
    answered = matrix.values[np.triu(matrix.known, 1)]
    return {
        "oracle/comparisons": float(len(answered)),
        "oracle/ties": float(np.mean(np.abs(answered - 0.5) <= preferences.TIE)) if len(answered) else float("nan"),
        "oracle/saturated": float(np.mean(_saturated(answered))) if len(answered) else float("nan"),
        "oracle/win_rate_spread": float(np.ptp(rates)) if complete else float("nan"),
        "oracle/cycle": float(preferences.has_cycle(matrix.values)) if bool(matrix.known.all()) and complete else float("nan"),
        "oracle/entropy": preferences.entropy(matrix.values),
        "oracle/length_bias": preferences.rank_correlation(rates, lengths) if complete else float("nan"),
    }


def _saturated(chances: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (chances <= preferences.LEAST) | (chances >= 1 - preferences.LEAST)


def mean_tokens(responses: Sequence[Response]) -> float:
    """Mean response length."""
    return float(np.mean([len(response.token_ids) for response in responses]))
