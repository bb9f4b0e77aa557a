"""Random pairs of responses to prompts, with lengths like those of short stories and answers."""

from __future__ import annotations

import numpy as np

from raypref.types import Example

PROMPT_TOKENS = 40
"""Median; the logarithm of the length is normal with standard deviation 0.4."""
RESPONSE_TOKENS = 75
"""Median, end token included."""
LONGEST = 200


def make_pairs(count: int, vocabulary: int, end: int, eta: float, seed: int = 0) -> tuple[Example, ...]:
    """Pairs, chosen first, with the targets of SPPO's hard labels (eta / 2, -eta / 2) and the log-probs of a uniform pi_t."""
    draw = np.random.default_rng(seed)

    def tokens(median: int) -> np.ndarray:
        length = int(np.clip(round(median * np.exp(0.4 * draw.normal())), 4, LONGEST))
        return draw.integers(end + 1, vocabulary, length).astype(np.int32)

    def response() -> np.ndarray:
        return np.append(tokens(RESPONSE_TOKENS)[:-1], np.int32(end))

    pairs = []
    for index in range(count):
        prompt, responses = tokens(PROMPT_TOKENS), (response(), response())
        pairs.append(
            Example(
                prompt_index=index,
                prompt_id=str(index),
                prompt_ids=(prompt, prompt),
                response_ids=responses,
                targets=np.array([eta / 2, -eta / 2]),
                policy_version=0,
                previous_logps=np.array([-np.log(vocabulary) * len(one) for one in responses]),
            )
        )
    return tuple(pairs)
