"""The records that flow from a prompt to a training batch.

``Prompt -> Rollout -> PreferenceMatrix -> Example``; a batch is a slice of the examples in prompt order.

Shapes: K responses of a prompt, S sequences of an example (a pair: 2, all K: K), T tokens.

A worked example, K = 3. The prompt "Tell a joke" has ``token_ids`` of shape (4,); its rollout holds three responses, the second
of which was cut off (``finish_reason == "length"``). The oracle answers with a (3, 3) matrix whose row means are the win rates
(0.8, 0.3, 0.4). Best-and-worst selection picks responses (0, 1), so the example has S = 2 sequences, and SPPO with eta = 10 gives it
the targets (10 * (0.8 - 0.5), 10 * (0.3 - 0.5)) = (3, -2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raypref import preferences

FinishReason = Literal["stop", "length"]
"""``stop``: the policy ended its answer; ``length``: the answer was cut off at the token limit."""


class Total(float):
    """A metric's value that is summed since the run was started or resumed (requests, cost). A plain float is averaged instead."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, tokenised once by the driver."""

    index: int
    """Position in the run's prompt stream, from 0; batches fill in this order."""
    id: str
    """The name that the data gives it; part of every error message and of the sampling seed."""
    text: str
    """What an oracle is shown: the bare question, without the chat template."""
    token_ids: NDArray[np.int32]
    """(T,) what the policy is given: chat template and special tokens included."""
    chat: tuple[tuple[str, str], ...] = ()
    """(role, content) of each turn where the data gives a chat; empty for a plain text."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Ask an engine for ``count`` responses to one prompt."""

    prompt: Prompt
    count: int
    seed: int
    """Derived from (run seed, purpose, iteration, prompt id): the same request gives the same responses in float32."""
    temperature: float
    top_p: float
    max_tokens: int
    policy_version: int
    """The engine refuses a request for weights that it does not hold."""


@dataclass(frozen=True, slots=True)
class Response:
    token_ids: NDArray[np.int32]
    """(T,) the end token included when it was sampled."""
    logprobs: NDArray[np.float32]
    """(T,) in nats, at temperature 1, as the engine computed them while it sampled."""
    text: str
    """Decoded without special tokens."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Rollout:
    """A prompt with its K responses."""

    prompt: Prompt
    responses: tuple[Response, ...]
    policy_version: int | None
    """Which policy of the run sampled the responses; None: none did, they were given."""


RolloutRef: TypeAlias = Rollout | Awaitable[Rollout]
"""A rollout, or a reference to one that lives elsewhere (Ray's ``ObjectRef``)."""


@dataclass(frozen=True, slots=True)
class PreferenceMatrix:
    """P[i, j] = P(y_i > y_j | x), and which entries an oracle has answered.

    ``values`` (K, K) in [0, 1] with P + P^T = 1 and 1/2 on the diagonal; an entry that was not asked, or on which the oracle
    abstained, is NaN. See ``raypref.preferences`` for the maths.
    """

    values: NDArray[np.float64]
    oracle: str
    """Which oracle answered, for the journal."""
    asked: NDArray[np.bool_] | None = None
    """(K, K) True where the oracle was asked, whether it answered or abstained; None: everywhere."""
    sampled: bool = False
    """Whether ``asked`` is a random sample of opponents, which stands for all of them in win rates (``judging.pairs: random``)."""

    @property
    def size(self) -> int:
        return int(self.values.shape[0])

    @property
    def known(self) -> NDArray[np.bool_]:
        """(K, K) True where the entry is known; the diagonal always is."""
        return ~np.isnan(self.values)

    def complete_rows(self) -> NDArray[np.intp]:
        """The responses whose win rate is known (``preferences.complete_rows``), ascending."""
        return preferences.complete_rows(self.values, self._sample)

    def win_rates(self, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Win rates of ``rows``, default all (``preferences.win_rates``)."""
        return preferences.win_rates(self.values, rows, self._sample)

    def mean_scores(self, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Mean log-odds of ``rows``, default all, in nats (``preferences.mean_scores``)."""
        return preferences.mean_scores(self.values, rows, self._sample)

    @property
    def opponents(self) -> NDArray[np.bool_]:
        """(K, K) True where response j counts as an opponent of i: everyone else, or the sample."""
        return ~np.eye(self.size, dtype=bool) if self._sample is None else self._sample

    @property
    def _sample(self) -> NDArray[np.bool_] | None:
        return self.asked if self.sampled else None


@dataclass(frozen=True, slots=True)
class Example:
    """What the learner needs of one training example: S sequences, each a prompt with a response, and their targets."""

    prompt_index: int
    prompt_id: str
    prompt_ids: tuple[NDArray[np.int32], ...]
    """S arrays (T_s,), the same object where sequences share a prompt; others hold an earlier answer too (``Loss.revisions``)."""
    response_ids: tuple[NDArray[np.int32], ...]
    """S arrays (T_s,)."""
    targets: NDArray[np.float64]
    """(S,) what the loss makes of the preference matrix (``Loss.targets``)."""
    policy_version: int | None
    """Which policy of the run sampled the responses; None: none did, they were given."""
    reference_logps: NDArray[np.float64] | None = None
    """(S,) log pi_ref(y | x), summed over response tokens, in nats."""
    previous_logps: NDArray[np.float64] | None = None
    """(S,) log pi_t(y | x), summed over response tokens, in nats."""
    sampled_logps: NDArray[np.float64] | None = None
    """(S,) log pi_t(y | x) as the engine computed it while sampling, at temperature 1, summed over response tokens, in nats. NaN for a
    sequence that pi_t did not sample after this prompt (a revision, a mismatched response); None for given data. Only metrics read it."""


ExamplesRef: TypeAlias = tuple[Example, ...] | Awaitable[tuple[Example, ...]]
"""Examples, or a reference to them, likewise."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the driver learns of a judged group; the examples themselves stay where they are."""

    prompt_index: int
    examples: int
    """How many training examples the group gives; 0 when it was dropped."""
    metrics: dict[str, float]
    """Per-group figures (``entropy``, ``rollout/...``, ``oracle/...``). The driver averages them over groups; it sums a ``Total``."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies on one held-out prompt."""

    prompt_id: str
    prompt: str
    win_rate: float
    """Mean over both sides' responses of P(challenger's > defender's)."""
    challenger: str
    """Text of the challenger's first response."""
    defender: str
    challenger_tokens: float
    """Mean response length."""
    defender_tokens: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the oracle observed: names under ``oracle/``. Averaged over comparisons; a ``Total`` is summed."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a group's examples: ``ref`` stands for a tuple of examples, of which ``start`` to ``stop`` (excluded) are meant."""

    ref: ExamplesRef
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One prompt and one response, for scoring."""

    prompt_ids: NDArray[np.int32]
    response_ids: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RunData:
    """What the policy is trained and evaluated on: prompts to sample from, or given examples."""

    prompts: Sequence[Prompt] = ()
    """With given examples: theirs, for the regulariser's samples."""
    examples: Sequence[Example] = ()
    held_out: Sequence[Prompt] = ()
    revise: Callable[[Prompt, str], Prompt | None] | None = None
    """The prompt that asks for a revision of an answer; None where it leaves no room for one (``evaluation.revisions``)."""

    @property
    def sampled(self) -> bool:
        """Whether the policy's own responses are trained on."""
        return not self.examples

    @property
    def items(self) -> Sequence[Prompt] | Sequence[Example]:
        """What an iteration takes a part of: given examples, or prompts."""
        return self.examples or self.prompts
