"""The contract between a preference oracle and the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from raypref.registry import Registry, TypedSection

Chat = tuple[tuple[str, str], ...]
"""(role, content) of each turn."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request to compare responses to one prompt."""

    prompt_id: str
    prompt: str
    """The bare question, without a chat template."""
    responses: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    """The comparisons to make: (i, j) with i < j."""
    chat: Chat = ()
    """The question's turns where the data gives a chat; empty for a plain text."""
    policy_version: int | None = None
    """Which policy of the run answered, the one that a self-judging oracle asks; None: the answers were given."""

    @property
    def turns(self) -> Chat:
        """The chat, or the plain text as one user turn."""
        return self.chat or (("user", self.prompt),)


@dataclass(frozen=True, slots=True)
class Answer:
    """An oracle's answer to one question."""

    values: NDArray[np.float64]
    """(K, K): P[i, j] = P(response i > response j), P + P^T = 1, 1/2 on the diagonal. Only the entries of ``Question.pairs`` and their
    mirror images are read. An entry on which the oracle abstains is ``ABSTAIN``."""
    observed: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Full name (``oracle/ties``) -> what was seen, one figure per comparison, input or request. Metrics average the figures; figures of
    type ``raypref.types.Total`` are summed since the run was started or resumed."""
    provisional: frozenset[tuple[int, int]] = frozenset()
    """Pairs (i, j) of ``Question.pairs`` on which the oracle may answer differently the next time; the cache does not keep them."""


ABSTAIN = -1.0
"""The value of an entry on which the oracle abstains; it is masked and counted. NaN is an error, never an abstention."""


class NextToken(Protocol):
    """A language model that gives log-probs of the token after a prompt."""

    def logprobs(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> NDArray[np.float64]:
        """(N, C) log-probs in nats of the C candidate ``tokens`` after each of the N ``prompts``."""
        ...


class Services(Protocol):
    """What an oracle may use of the process that it runs in. The methods block, which is allowed: ``compare`` runs in its own thread."""

    def engine(self, path: str, *, dtype: str, max_tokens: int, gpu_memory_utilization: float) -> NextToken:
        """Start a vLLM engine for a model that only the oracle uses.

        Args:
            path: Hugging Face model directory or hub name.
            dtype: ``float32`` or ``bfloat16``.
            max_tokens: longest prompt.
            gpu_memory_utilization: share of the GPU that the engine takes.

        Raises:
            ConfigError: this process cannot start engines, or the model cannot be served.
        """
        ...

    def ask_policy(
        self, chats: Sequence[Chat], *, names: Sequence[str], policy_version: int | None, temperature: float, max_tokens: int
    ) -> list[str | None]:
        """One answer of the policy to each chat, sampled by the run's engines; None where a prompt leaves no room for an answer.

        Args:
            chats: what the policy is asked.
            names: the chats' names; the sampling seed depends on them.
            policy_version: the policy that the engines hold; None is refused.
            temperature: above 0.
            max_tokens: longest answer.

        Raises:
            ConfigError: the run has no engines that hold the policy.
        """
        ...


class Oracle(TypedSection):
    """A source of preferences. The section holds its settings; ``load`` loads models, once, in the oracle's actor."""

    parallel: ClassVar[int] = 1
    """Number of ``compare`` calls that may run at once, each in its own thread. With 1, a call gets all questions that wait, up to
    ``judging.groups``; above 1, one question."""

    directories: ClassVar[tuple[str, ...]] = ()
    """Names of the settings that hold a directory or a hub name."""

    @property
    def asks_policy(self) -> bool:
        """Whether it asks the policy that is trained (``Services.ask_policy``), and so works only where the run's engines are."""
        return False

    @property
    def waits_for_others(self) -> bool:
        """Whether an answer waits for an endpoint or for the policy's engines: how long one takes says little about the next one."""
        return self.asks_policy or self.parallel > 1

    @property
    def engine_share(self) -> float | None:
        """Share of a GPU's memory that its vLLM engine takes (``Services.engine``), of several engines the sum; None without an engine."""
        return None

    def located(self) -> Self:
        """The oracle with absolute paths of local directories: an actor's working directory is not the driver's."""
        given = {name: getattr(self, name) for name in self.directories}
        local = {name: str(Path(path).absolute()) for name, path in given.items() if path is not None and Path(path).is_dir()}
        return self.model_copy(update=local)

    def load(self, services: Services) -> None:
        """Load models and open connections, before the first question. The settings are frozen; keep state in private attributes."""

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        """An answer to each question, in their order. An answer depends on its question alone, not on the other questions."""
        raise NotImplementedError

    def identity(self) -> str | None:
        """What a verdict depends on beside the prompt and the pair of responses, as a text. It is part of the cache key.

        None, the default, means that a verdict depends on more, such as on the whole group; such verdicts are not cached.
        """
        return None


oracles: Registry[Oracle] = Registry("oracle", Oracle, "raypref.oracles")
