"""The records that flow from a prompt to a training batch.

``Prompt -> Rollout -> PreferenceMatrix -> Example``; a batch consists of slices of the groups' examples, in prompt order.

Shapes: K responses per prompt, S sequences per example (2 for a pair, K for all responses), T tokens.

A worked example, K = 3. The prompt "Tell a joke" has ``token_ids`` of shape (4,); its rollout holds three responses, the second
of which was cut off (``finish_reason == "length"``). The oracle answers with a (3, 3) matrix whose row means are the win rates
(0.8, 0.3, 0.4). Best-and-worst selection picks responses (0, 1), so the example has S = 2 sequences, and SPPO with eta = 10 gives it
the targets (10 * (0.8 - 0.5), 10 * (0.3 - 0.5)) = (3, -2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raypref import preferences

FinishReason = Literal["stop", "length"]
"""``stop``: the policy ended its response; ``length``: the response was cut off at the token limit."""


class Total(float):
    """A metric's value that is summed since the run was started or resumed (requests, cost). A plain float is averaged instead."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, tokenised once by the driver."""

    index: int
    """Position in the run's prompt stream, from 0; batches fill in this order."""
    id: str
    """Its name in the data; part of error messages and of the sampling seed."""
    text: str
    """The bare question, without the chat template; oracles see this."""
    token_ids: NDArray[np.int32]
    """(T,) what the policy reads: chat template and special tokens included."""
    chat: tuple[tuple[str, str], ...] = ()
    """(role, content) of each turn if the data gives a chat, as oracles see it; empty for plain text."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """The turns of a chat with all their keys where these are more than role and content (tool calls); otherwise empty."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The tools that the record offers to the policy."""
    named: bool = True
    """Whether the data gave the id. Otherwise it is the number of a record, which means nothing outside the run."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Asks an engine for ``count`` responses to one prompt; built by ``raypref.loop.requests``."""

    prompt: Prompt
    count: int
    seed: int
    """Derived from (run seed, purpose, iteration, prompt id): the same request gives the same responses in float32."""
    temperature: float
    top_p: float
    max_tokens: int
    policy_version: int
    """The version of the weights to sample from; an engine that holds another one refuses the request."""
    origin: str = ""
    """A hash of all that shapes the group: settings, weights, prompt, seed. Empty for what is not written to the journal."""


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled or given answer to a prompt."""

    token_ids: NDArray[np.int32]
    """(T,) the end token included if it was sampled."""
    logprobs: NDArray[np.float32]
    """(T,) log-probs in nats, at temperature 1, as the engine computed them while sampling."""
    text: str
    """Decoded without special tokens."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Rollout:
    """A prompt with its K responses."""

    prompt: Prompt
    responses: tuple[Response, ...]
    policy_version: int | None
    """The version of the run's policy that sampled the responses; None if they were given by the data."""
    origin: str = ""
    """``SampleRequest.origin``."""


RolloutRef: TypeAlias = Rollout | Awaitable[Rollout]
"""A rollout, or a reference to one that lives elsewhere (Ray's ``ObjectRef``)."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One prompt's answers, revision after revision."""

    prompt: Prompt
    rounds: tuple[tuple[Response, ...], ...]
    """(N + 1, n) the first answers, then the revisions of each."""
    stopped: int
    """Revisions that were not sampled, because the prompt with the earlier answer leaves no room; the earlier answer takes their place."""

    def rollout(self, revision: int, policy_version: int) -> Rollout:
        """The answers after ``revision`` revisions, as a rollout of the original prompt."""
        return Rollout(self.prompt, self.rounds[revision], policy_version)


@dataclass(frozen=True, slots=True)
class PreferenceMatrix:
    """P[i, j] = P(y_i > y_j | x), as far as an oracle was asked and has answered. See ``raypref.preferences`` for the maths."""

    values: NDArray[np.float64]
    """(K, K) in [0, 1], P + P^T = 1, 1/2 on the diagonal; NaN where the oracle was not asked or abstained."""
    oracle: str
    """Name of the oracle, for the journal."""
    asked: NDArray[np.bool_] | None = None
    """(K, K) True where the oracle was asked, whether it answered or abstained; None: everywhere."""
    sampled: bool = False
    """Whether ``asked`` is a random sample of opponents; win rates are then means over the sample (``judging.pairs: random``)."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the oracle observed, as in ``Comparison.metrics``; filled by ``OracleRole.matrix`` alone."""

    @property
    def size(self) -> int:
        """K."""
        return int(self.values.shape[0])

    @property
    def known(self) -> NDArray[np.bool_]:
        """(K, K) True where the entry is known; the diagonal always is."""
        return ~np.isnan(self.values)

    def complete_rows(self) -> NDArray[np.intp]:
        """Ascending indices of the responses whose win rate is known (``preferences.complete_rows``)."""
        return preferences.complete_rows(self.values, self._sample)

    def win_rates(self, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Win rates of ``rows``, default all (``preferences.win_rates``)."""
        return preferences.win_rates(self.values, rows, self._sample)

    def mean_scores(self, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Mean log-odds of ``rows``, default all, in nats (``preferences.mean_scores``)."""
        return preferences.mean_scores(self.values, rows, self._sample)

    @property
    def opponents(self) -> NDArray[np.bool_]:
        """(K, K) True where response j counts as an opponent of i: all others, or those of the sample."""
        return ~np.eye(self.size, dtype=bool) if self._sample is None else self._sample

    @property
    def _sample(self) -> NDArray[np.bool_] | None:
        return self.asked if self.sampled else None


@dataclass(frozen=True, slots=True)
class Example:
    """One term of the loss: S sequences, each a prompt with a response, and their targets."""

    prompt_index: int
    prompt_id: str
    prompt_ids: tuple[NDArray[np.int32], ...]
    """S arrays (T_s,); the same object where sequences share a prompt. A prompt may hold an earlier answer (``Loss.revisions``)."""
    response_ids: tuple[NDArray[np.int32], ...]
    """S arrays (T_s,)."""
    targets: NDArray[np.float64]
    """(S,) computed by the loss from the preference matrix (``Loss.targets``)."""
    policy_version: int | None
    """The version of the run's policy that sampled the responses; None if they were given by the data."""
    reference_logps: NDArray[np.float64] | None = None
    """(S,) log pi_ref(y | x), summed over response tokens, in nats."""
    previous_logps: NDArray[np.float64] | None = None
    """(S,) log pi_t(y | x), summed over response tokens, in nats."""
    sampled_logps: NDArray[np.float64] | None = None
    """(S,) log pi_t(y | x) as the engine computed it while sampling, at temperature 1, summed over response tokens, in nats. NaN for a
    sequence that pi_t did not sample after this prompt (a revision, a mismatched response); None for given data. Only metrics read it."""
    content_id: str | None = None
    """What the prompt asks, as a hash (``raypref.data.identity``); None where the run's policy sampled the responses."""


ExamplesRef: TypeAlias = tuple[Example, ...] | Awaitable[tuple[Example, ...]]
"""Examples, or a reference to examples that live elsewhere."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the driver is told about a judged group; the examples themselves travel as ``ExamplesRef``."""

    prompt_index: int
    examples: int
    """How many training examples the group gives; 0 when it was dropped."""
    metrics: dict[str, float]
    """Per-group figures (``entropy``, ``rollout/...``, ``oracle/...``). The driver averages them over groups; it sums a ``Total``."""
    recorded: bool = False
    """Whether the oracle was not asked, since the journal holds its answers."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged group."""

    verdict: Verdict
    """What the driver learns."""
    examples: tuple[Example, ...]
    """What the learner trains on."""
    matrix: PreferenceMatrix
    """(K, K) over all responses of the rollout, NaN where a pair was not asked, not answered, or left out; for the journal."""
    picked: tuple[tuple[int, ...], ...]
    """For each example, the indices of its responses in the rollout; for the journal."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies on one held-out prompt."""

    prompt_id: str
    prompt: str
    win_rate: float
    """Mean of P(challenger's response > defender's response) over all pairs of their responses."""
    challenger: str
    """Text of the challenger's first response."""
    defender: str
    challenger_tokens: float
    """Mean length of the challenger's responses."""
    defender_tokens: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the oracle observed: names under ``oracle/``. Averaged over comparisons; a ``Total`` is summed."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some consecutive examples of a group: those from ``start`` up to, not including, ``stop``."""

    ref: ExamplesRef
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One prompt and one response whose log-prob is wanted."""

    prompt_ids: NDArray[np.int32]
    response_ids: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RunData:
    """The data of a run: prompts to sample from, or given examples; and held-out prompts."""

    prompts: Sequence[Prompt] = ()
    """To sample from. With given examples only the regulariser samples from them."""
    examples: Sequence[Example] = ()
    """Given examples; empty in a run that trains on its policy's responses."""
    held_out: Sequence[Prompt] = ()
    """Prompts for evaluation: the policy answers them, and the oracle compares the answers."""
    held_out_examples: Sequence[Example] = ()
    """Given examples for evaluation: the learner's loss is measured on them. Never trained on."""
    texts: Sequence[Example] = ()
    """Given answers, of one sequence each, whose likelihood is measured (``evaluation.texts``). Never trained on."""
    opponents: Mapping[str, Sequence[Rollout]] = field(default_factory=dict)
    """Name -> given responses to each of ``held_out``, in its order (``evaluation.against``)."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many records of the data are not used, by reason: overlong (longer than the context), skipped (``data.on_bad_record``),
    unpicked (the selection picks no response), identical (an answer compared with itself, ``data.identical``)."""
    revise: Callable[[Prompt, str], Prompt | None] | None = None
    """Makes the prompt that asks for a revision of an answer, or None if that leaves no room for one (``evaluation.revisions``)."""

    @property
    def sampled(self) -> bool:
        """Whether the run trains on responses that its policy samples."""
        return not self.examples

    @property
    def items(self) -> Sequence[Prompt] | Sequence[Example]:
        """What the iterations divide among themselves: given examples, or prompts."""
        return self.examples or self.prompts
