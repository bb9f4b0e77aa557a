"""The two services that an oracle's actor offers its oracle: a vLLM engine for the oracle's model, and answers of the run's policy.

oracle (a thread of ``compare``) --ask_policy--> PolicyQuery --stream--> driver --sample--> engines
                                 <---texts------ rollouts <--answer_policy_query-- references -----/
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from raypref.data.chats import Chat as Turns
from raypref.data.config import DataConfig
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import ConfigError, OracleError
from raypref.loop.requests import RequestBuilder
from raypref.oracles.base import Chat, NextToken
from raypref.sections import PolicyConfig, RolloutConfig
from raypref.types import Prompt, Rollout, SampleRequest


@dataclass(frozen=True, slots=True)
class PolicyQuery:
    """Sample requests of one ``ask_policy`` call. ``OracleActor.answer_policy_query`` gets the rollouts under the same key."""

    key: int
    requests: tuple[SampleRequest, ...]


@dataclass(frozen=True, slots=True)
class PolicyAccess:
    """The config sections that turn a chat into a sample request."""

    policy: PolicyConfig
    data: DataConfig
    """How prompts are rendered."""
    rollout: RolloutConfig
    seed: int
    """The run's seed."""


class ActorServices:
    """``raypref.oracles.base.Services`` in an oracle's actor."""

    def __init__(self, device: str, policy: PolicyAccess | None, timeout_s: float) -> None:
        """
        Args:
            device: ``cuda`` or ``cpu``, for the oracle's engine.
            policy: None where the run has no engines that sample from the policy.
            timeout_s: longest wait for the policy's answers, in seconds.
        """
        self._device = device
        self._policy = policy
        self._timeout_s = timeout_s
        self._queries: queue.SimpleQueue[PolicyQuery] = queue.SimpleQueue()
        self._unanswered: dict[int, Future[Sequence[Rollout]]] = {}
        """Query's key -> the future that ``ask_policy`` waits for."""
        self._keys = itertools.count()
        self._facts: Any = None
        self._tokenizer: Any = None
        """The policy's; read with ``_facts`` when the policy is first asked."""
        self._loading = threading.Lock()

    def engine(self, path: str, *, dtype: str, max_tokens: int, gpu_memory_utilization: float) -> NextToken:
        from actors.oracle.next_token import VllmNextToken

        return VllmNextToken(path, dtype=dtype, max_tokens=max_tokens, gpu_memory_utilization=gpu_memory_utilization, device=self._device)

    def ask_policy(
        self, chats: Sequence[Chat], *, names: Sequence[str], policy_version: int | None, temperature: float, max_tokens: int
    ) -> list[str | None]:
        if self._policy is None or policy_version is None:
            raise ConfigError("oracle: it asks the policy, but no engines of a run are here; evaluate with another oracle")
        prompts = [self._prompt(chat, name) for chat, name in zip(chats, names, strict=True)]
        room = self._facts.context_tokens - max_tokens
        if room < 1:
            raise ConfigError(
                f"oracle.max_tokens: {max_tokens} leaves no room for a question in the policy's {self._facts.context_tokens} tokens"
            )
        fitting = [prompt for prompt in prompts if len(prompt.token_ids) <= room]
        answers = iter(self._sampled([self._request(prompt, policy_version, temperature, max_tokens) for prompt in fitting]))
        return [next(answers) if len(prompt.token_ids) <= room else None for prompt in prompts]

    def _prompt(self, chat: Chat, name: str) -> Prompt:
        from actors.policy_model import facts_of

        assert self._policy is not None
        with self._loading:
            if self._facts is None:
                self._facts = facts_of(self._policy.policy)
                self._tokenizer = PolicyTokenizer(self._policy.data.model_copy(update={"frame": None}), self._facts)
        plain = "\n\n".join(content for _, content in chat)
        turns = [(role, self._tokenizer.as_text(content)) for role, content in chat]
        question = Turns.of(turns) if self._policy.data.chat_template else "\n\n".join(content for _, content in turns)
        return Prompt(-1, name, plain, self._tokenizer.prompt_ids(question, f"oracle, {name}"), chat)

    def _request(self, prompt: Prompt, policy_version: int, temperature: float, max_tokens: int) -> SampleRequest:
        assert self._policy is not None
        return RequestBuilder(self._policy.seed, self._policy.rollout).build(
            prompt,
            1,
            purpose="oracle",
            iteration=policy_version,
            policy_version=policy_version,
            temperature=temperature,
            top_p=1.0,
            max_tokens=max_tokens,
        )

    def _sampled(self, requests: Sequence[SampleRequest]) -> list[str]:
        """The text that answers each request. Blocks until the driver has sent the rollouts."""
        if not requests:
            return []
        key = next(self._keys)
        answer = self._unanswered[key] = Future()
        self._queries.put(PolicyQuery(key, tuple(requests)))
        try:
            return [rollout.responses[0].text for rollout in answer.result(self._timeout_s)]
        except TimeoutError as error:
            raise OracleError(f"the policy did not answer {len(requests)} questions within {self._timeout_s:g} s") from error
        finally:
            del self._unanswered[key]

    async def policy_queries(self) -> AsyncIterator[PolicyQuery]:
        """The oracle's queries in the order in which it makes them; the stream does not end."""
        loop = asyncio.get_running_loop()
        while True:
            yield await loop.run_in_executor(None, self._queries.get)

    def answer_policy_query(self, key: int, rollouts: Sequence[Rollout], failure: str | None) -> None:
        """The policy's answers to a query, or why there are none. Ignored when ``ask_policy`` no longer waits for them."""
        if (waiting := self._unanswered.get(key)) is None:
            return
        if failure is None:
            waiting.set_result(rollouts)
        else:
            waiting.set_exception(OracleError(f"the policy could not be asked: {failure}"))
