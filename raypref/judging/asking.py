"""Questions of many groups, put to one oracle together.

Groups are judged at the same time, each by a coroutine of its own that asks and waits. What they ask while the oracle is at work goes to
it in one call when it is free, so that an oracle which computes fills its batches across prompts, and one that waits for a server
(``Oracle.parallel``) has several calls under way. Verdicts that the cache has are not asked again.
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
"""A call of the oracle that is under way, and a question's place in it."""


class Asker:
    """One oracle in front of the coroutines of an event loop. Its ``compare`` runs in threads, at most ``Oracle.parallel`` of them."""

    def __init__(self, oracle: Oracle, judging: JudgingConfig) -> None:
        """
        Args:
            oracle: loaded.
            judging: ``groups`` is the most questions of one call; ``cache`` is where verdicts are kept.

        Raises:
            ConfigError: ``judging.cache`` with an oracle whose verdicts cannot be kept.
        """
        self._oracle = oracle
        self._most = judging.groups if oracle.parallel == 1 else 1
        self._cache = _cache(oracle, judging)
        self._threads = ThreadPoolExecutor(max_workers=oracle.parallel, thread_name_prefix="oracle")
        self._waiting: collections.deque[tuple[Question, asyncio.Future[_Call]]] = collections.deque()
        self._under_way = 0

    @property
    def name(self) -> str:
        return self._oracle.type

    async def ask(self, question: Question) -> Checked:
        """The oracle's checked answer.

        Raises:
            OracleError: the answer is no preference matrix.
        """
        if self._cache is None:
            return await self._answered(question)
        found = self._cache.find(question)
        left = tuple(pair for pair in question.pairs if pair not in found)
        answer = Checked(unknown(len(question.responses)))
        if left:
            answer = await self._answered(replace(question, pairs=left))
            lasting = tuple(pair for pair in left if pair not in answer.provisional)
            self._cache.keep(replace(question, pairs=lasting), answer.values)
        for (i, j), chance in found.items():
            answer.values[i, j], answer.values[j, i] = chance, 1.0 - chance
        hits = [1.0] * len(found) + [0.0] * len(left)
        return replace(answer, observed={**answer.observed, "oracle/cache_hits": hits})

    async def _answered(self, question: Question) -> Checked:
        started: asyncio.Future[_Call] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, started))
        self._start_calls()
        call, place = await started
        return (await asyncio.shield(call))[place]

    def _start_calls(self) -> None:
        while self._waiting and self._under_way < self._oracle.parallel:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            questions = [question for question, _ in batch]
            call = asyncio.get_running_loop().run_in_executor(self._threads, ask, self._oracle, questions)
            self._under_way += 1
            call.add_done_callback(self._ended)
            for place, (_, started) in enumerate(batch):
                if not started.done():
                    started.set_result((call, place))

    def _ended(self, call: asyncio.Future[list[Checked]]) -> None:
        self._under_way -= 1
        self._start_calls()


def _cache(oracle: Oracle, judging: JudgingConfig) -> VerdictCache | None:
    if judging.cache is None:
        return None
    identity = oracle.identity()
    if identity is None:
        raise ConfigError(
            f"judging.cache: the verdicts of oracle {oracle.type!r} depend on more than its settings (the policy, a function's own state), "
            f"so that they cannot be kept; leave it out"
        )
    return VerdictCache(judging.cache, identity)
