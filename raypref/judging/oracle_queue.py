"""Puts the questions of many groups to one oracle in common calls.

Groups are judged concurrently, each by its coroutine, which asks and waits. Questions that arrive while the oracle is busy wait in a queue
and go to it in one call when it is free. So an oracle that computes fills its batches across prompts, and one that waits for a server
(``Oracle.parallel`` above 1) has several calls in flight. Verdicts that are in the cache are not asked again.
"""

from __future__ import annotations

import asyncio
import collections
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from raypref.errors import ConfigError
from raypref.judging.config import JudgingConfig
from raypref.oracles.base import Oracle, Question
from raypref.oracles.support.cache import VerdictCache
from raypref.oracles.support.checked import Checked, ask
from raypref.preferences import unknown

_Call = tuple["asyncio.Future[list[Checked]]", int]
"""A call of the oracle that has started, and a question's position in it."""


class OracleQueue:
    """One oracle for the coroutines of an event loop. Its ``compare`` runs in threads, at most ``Oracle.parallel`` of them."""

    def __init__(self, oracle: Oracle, judging: JudgingConfig) -> None:
        """
        Args:
            oracle: loaded.
            judging: ``groups`` is the largest number of questions of one call; ``cache`` is where verdicts are kept.

        Raises:
            ConfigError: ``judging.cache`` is set for an oracle whose verdicts cannot be kept.
        """
        self._oracle = oracle
        self._most = judging.groups if oracle.parallel == 1 else 1
        self._cache = _open_cache(oracle, judging)
        self._threads = ThreadPoolExecutor(max_workers=oracle.parallel, thread_name_prefix="oracle")
        self._waiting: collections.deque[tuple[Question, asyncio.Future[_Call]]] = collections.deque()
        self._in_flight = 0

    @property
    def name(self) -> str:
        """The oracle's type."""
        return self._oracle.type

    async def ask(self, question: Question) -> Checked:
        """The oracle's checked answer; what the cache holds of it is not asked.

        Raises:
            OracleError: the answer is no preference matrix.
        """
        if self._cache is None:
            return await self._answered(question)
        cached = self._cache.find(question)
        missing = tuple(pair for pair in question.pairs if pair not in cached)
        answer = Checked(unknown(len(question.responses)))
        if missing:
            answer = await self._answered(replace(question, pairs=missing))
            lasting = tuple(pair for pair in missing if pair not in answer.provisional)
            self._cache.keep(replace(question, pairs=lasting), answer.values)
        for (i, j), chance in cached.items():
            answer.values[i, j], answer.values[j, i] = chance, 1.0 - chance
        hits = [1.0] * len(cached) + [0.0] * len(missing)
        return replace(answer, observed={**answer.observed, "oracle/cache_hits": hits})

    async def _answered(self, question: Question) -> Checked:
        started: asyncio.Future[_Call] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, started))
        self._start_calls()
        call, position = await started
        return (await asyncio.shield(call))[position]

    def _start_calls(self) -> None:
        while self._waiting and self._in_flight < self._oracle.parallel:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            questions = [question for question, _ in batch]
            call = asyncio.get_running_loop().run_in_executor(self._threads, ask, self._oracle, questions)
            self._in_flight += 1
            call.add_done_callback(self._ended)
            for position, (_, started) in enumerate(batch):
                if not started.done():
                    started.set_result((call, position))

    def _ended(self, call: asyncio.Future[list[Checked]]) -> None:
        self._in_flight -= 1
        self._start_calls()


def _open_cache(oracle: Oracle, judging: JudgingConfig) -> VerdictCache | None:
    if judging.cache is None:
        return None
    identity = oracle.identity()
    if identity is None:
        raise ConfigError(
            f"judging.cache: the verdicts of oracle {oracle.type!r} depend on more than its settings (the policy, a function's state), "
            f"so they cannot be kept; remove judging.cache"
        )
    return VerdictCache(judging.cache, identity)
