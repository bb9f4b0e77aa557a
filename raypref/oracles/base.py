"""The seam between a preference oracle and the system."""

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
    """Compare responses to one prompt."""

    prompt_id: str
    prompt: str
    """The bare question, without a chat template."""
    responses: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    """The comparisons that are wanted: (i, j) with i < j."""
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
    """What an oracle says to one question."""

    values: NDArray[np.float64]
    """(K, K): P[i, j] = P(response i > response j), P + P^T = 1, 1/2 on the diagonal. Only the entries of ``Question.pairs`` and their
    mirror images are read. An entry on which the oracle abstains is ``ABSTAIN``."""
    observed: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Name under ``oracle/`` -> what was observed, one figure per comparison, input or request. Metrics average the figures; figures of
    type ``raypref.types.Total`` are summed since the run was started or resumed."""
    provisional: frozenset[tuple[int, int]] = frozenset()
    """Pairs (i, j) of ``Question.pairs`` on which the answer may be another one the next time: they are not kept in a cache."""


ABSTAIN = -1.0
"""What an oracle puts where it cannot tell; it is masked and counted. NaN is an error, never an abstention."""


class NextToken(Protocol):
    """A language model that is asked for the token after a prompt."""

    def logprobs(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> NDArray[np.float64]:
        """(N, C) log-probs in nats of the C candidate ``tokens`` after each of the N ``prompts``."""
        ...


class Services(Protocol):
    """What an oracle may use of the place that it runs in. Its methods block; ``compare`` runs in a thread of its own."""

    def engine(self, path: str, *, dtype: str, max_tokens: int, gpu_memory_utilization: float) -> NextToken:
        """A vLLM engine for a model of the oracle's own.

        Args:
            path: Hugging Face model directory or hub name.
            dtype: ``float32`` or ``bfloat16``.
            max_tokens: longest prompt.
            gpu_memory_utilization: share of the GPU that it takes.

        Raises:
            ConfigError: there is none here, or the model cannot be served.
        """
        ...

    def ask_policy(
        self, chats: Sequence[Chat], *, names: Sequence[str], policy_version: int | None, temperature: float, max_tokens: int
    ) -> list[str | None]:
        """One answer of the policy to each chat, from the run's own engines; None where a prompt leaves no room for an answer.

        Args:
            chats: what it is asked.
            names: of the chats; the sampling seed depends on them.
            policy_version: the policy that the engines hold; None is refused.
            temperature: above 0.
            max_tokens: longest answer.

        Raises:
            ConfigError: there is no policy here.
        """
        ...


class Oracle(TypedSection):
    """A source of preferences. The section is its settings; ``load`` builds what is heavy, once, in the oracle actor."""

    parallel: ClassVar[int] = 1
    """How many ``compare`` calls may run at once, each in a thread of its own, with one question each. With 1, a call gets all questions
    that wait (up to ``judging.groups``)."""

    directories: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that hold a directory or a hub name."""

    @property
    def asks_policy(self) -> bool:
        """Whether it asks the policy that is trained (``Services.ask_policy``), and so works only where the run's engines are."""
        return False

    def located(self) -> Self:
        """The oracle with its local directories absolute: an actor works in another one than the driver."""
        given = {name: getattr(self, name) for name in self.directories}
        local = {name: str(Path(path).absolute()) for name, path in given.items() if path is not None and Path(path).is_dir()}
        return self.model_copy(update=local)

    def load(self, services: Services) -> None:
        """Load models and open connections, before the first question. Settings stay frozen; hold state in private attributes."""

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        """An answer to each question, in their order. An answer depends on its question, never on the others."""
        raise NotImplementedError

    def identity(self) -> str | None:
        """What a verdict depends on beside the prompt and the pair of responses, as a text: part of the cache's key.

        None, the default, where that cannot be said, such as of an oracle that looks at the whole group: its verdicts are not kept.
        """
        return None


oracles: Registry[Oracle] = Registry("oracle", Oracle, "raypref.oracles")
