"""Conversations: the policy answers a user's turns one after another, each with its own earlier answers in the prompt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raypref.config import RunConfig
from raypref.data.chats import Chat
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import make_prompt
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import ConfigError
from raypref.loop.generation import resolve
from raypref.loop.requests import RequestBuilder
from raypref.roles import RolloutRole

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turns:
    """What a user says, turn by turn."""

    name: str
    """Its id; the seed depends on it."""
    texts: tuple[str, ...]
    temperature: float
    """Of the answers; 0 is greedy."""


class Conversations:
    """Holds conversations with engines that have version 0 of the policy."""

    def __init__(self, config: RunConfig, facts: PolicyFacts) -> None:
        """
        Args:
            config: data (how chats are rendered), rollout (top_p and max_tokens of every answer) and seed are what matters.
            facts: of the policy.

        Raises:
            ConfigError: ``data.chat_template`` is off: the policy would not know whose turn it is.
        """
        if not config.data.chat_template:
            raise ConfigError("data.chat_template: conversations need one; set it to true, with a tokenizer that has a chat template")
        self._tokenizer = PolicyTokenizer(config.data, facts)
        self._requests = RequestBuilder(config.seed, config.rollout)
        self._room = facts.context_tokens - config.rollout.max_tokens
        self._in_flight = asyncio.Semaphore(config.groups_in_flight(1))
        self.cut_off = 0
        """Answers that reached ``rollout.max_tokens``."""
        self.unanswered = 0
        """Turns left without an answer, since what was said before them leaves no room for one."""

    async def hold(
        self, rollout: RolloutRole, conversations: Sequence[Turns], choices: int, told: Callable[[], None] = lambda: None
    ) -> list[list[list[str]]]:
        """The policy's answers.

        Args:
            rollout: the engines.
            conversations: what is said to the policy.
            choices: answers to each first turn; each goes on by itself.
            told: called after each finished conversation.

        Returns:
            For each conversation and choice, the answer to each turn; an empty text where there was no room for one.
        """

        async def one(turns: Turns, index: int) -> list[list[str]]:
            async with self._in_flight:
                found = [await self._converse(rollout, turns, index, choice) for choice in range(choices)]
            told()
            return found

        answers = list(await asyncio.gather(*(one(turns, index) for index, turns in enumerate(conversations))))
        if self.unanswered:
            logger.warning("%d turns have no answer: the conversation before them has more than %d tokens", self.unanswered, self._room)
        if self.cut_off:
            logger.warning("%d answers were cut off at rollout.max_tokens", self.cut_off)
        return answers

    async def _converse(self, rollout: RolloutRole, turns: Turns, index: int, choice: int) -> list[str]:
        said: list[tuple[str, str]] = []
        answers: list[str] = []
        for number, text in enumerate(turns.texts, start=1):
            said.append(("user", self._tokenizer.as_text(text)))
            chat = Chat.of(said)
            ids = self._tokenizer.prompt_ids(chat, f"conversation {turns.name!r}, turn {number}")
            if len(ids) > self._room:
                self.unanswered += len(turns.texts) - len(answers)
                return answers + [""] * (len(turns.texts) - len(answers))
            request = self._requests.build(
                make_prompt(index, turns.name, chat, ids),
                1,
                purpose=f"turn {number}, choice {choice}",
                iteration=0,
                policy_version=0,
                temperature=turns.temperature,
            )
            (response,) = (await resolve(await rollout.sample(request))).responses
            self.cut_off += response.finish_reason == "length"
            answers.append(response.text)
            said.append(("assistant", self._tokenizer.as_text(self._tokenizer.turn_content(response.text))))
        return answers
