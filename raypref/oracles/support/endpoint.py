"""An OpenAI-compatible chat endpoint as the ``judge`` oracle uses it: many requests at a time, each with an end.

The ``openai`` package's asynchronous client on an event loop in a thread of its own: one limit on the requests in flight holds for all
threads that ask, and a request that the server keeps alive by single bytes can be given up (a blocking client's time-out starts anew
with every byte). The client retries by itself: time-outs, broken connections, 408, 409, 429 and 5xx, after what ``Retry-After`` says up
to two minutes, else after 0.5 s, 1 s, ... 8 s.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

import pydantic
from pydantic import BaseModel, Field, NonNegativeInt

from raypref.errors import ConfigError, OracleError
from raypref.oracles.base import Chat

logger = logging.getLogger(__name__)

PROBE: Chat = (("user", "Reply with the word yes."),)
CUT_SHORT = ("length", "content_filter")
"""Finish reasons of replies that are not the model's whole word."""
RETRIED = (408, 409, 429)


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one request."""

    text: str | None = None
    """Empty where the endpoint cut the reply short or filtered it; None where the request failed."""
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """In dollars."""

    prompt: float
    """A million prompt tokens."""
    completion: float
    """A million completion tokens."""

    def cost(self, reply: Reply) -> float:
        """Dollars."""
        return (self.prompt * reply.prompt_tokens + self.completion * reply.completion_tokens) / 1e6


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """The parts of a chat completion that are read; the client itself checks nothing of it."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class Endpoint:
    """Sends chats and collects the replies, for any number of threads. Closed when it is no longer referenced, or by ``close()``."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        key: str | None,
        body: Mapping[str, Any],
        timeout_s: float,
        retries: int,
        concurrency: int,
        failures_in_a_row: int,
        prices: Prices | None = None,
        budget_dollars: float | None = None,
    ) -> None:
        """
        Args:
            base_url: up to ``/chat/completions``.
            model: its name there.
            key: None where the server wants none.
            body: further members of the request.
            timeout_s: longest time for one attempt, to the reply's last byte.
            retries: further attempts.
            concurrency: most requests in flight; one that waits for its retry is in flight.
            failures_in_a_row: requests without any reply between them that make it give up.
            prices: for the cost; the replies must then say what they used.
            budget_dollars: what may be spent.
        """
        import openai

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for every request otherwise
        self._url, self._model, self._key, self._body = base_url, model, key, dict(body)
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key or "none", max_retries=retries, timeout=timeout_s, http_client=_http_client(timeout_s)
        )
        self._slots = asyncio.Semaphore(concurrency)
        self._failures_in_a_row = failures_in_a_row
        self._prices = prices
        self._budget = budget_dollars
        # Written by the loop's thread alone.
        self._failures = 0
        self._spent = 0.0
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        thread = threading.Thread(target=asyncio.run, args=(_live(self._client, started),), name="judge", daemon=True)
        thread.start()
        self._loop, stop = started.result()
        self.close = weakref.finalize(self, _stop, self._loop, stop, thread)

    def probe(self) -> None:
        """Ask for one short reply, to see that the settings work before anything depends on them.

        An overloaded server passes: that is what the retries of a run are for.

        Raises:
            ConfigError: the endpoint cannot be reached, refuses the request, or is no chat endpoint.
        """
        asyncio.run_coroutine_threadsafe(self._ask(PROBE, probing=True), self._loop).result()

    def ask(self, chats: Sequence[Chat]) -> list[Reply]:
        """A reply to each chat, in their order.

        Raises:
            ConfigError: the endpoint refuses the key (401, 403), or does not know the model or the path (404).
            OracleError: the budget is spent, or the endpoint has stopped answering.
        """
        return asyncio.run_coroutine_threadsafe(self._ask_all(chats), self._loop).result()

    async def _ask_all(self, chats: Sequence[Chat]) -> list[Reply]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(chat)) for chat in chats]
        except ExceptionGroup as errors:  # the first one; it cancelled the others
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, chat: Chat, probing: bool = False) -> Reply:
        """One request. Causes are left out of the errors: a server may repeat the key in what it says."""
        import openai

        messages = [{"role": role, "content": text} for role, text in chat]
        async with self._slots:
            self._check()
            try:
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=self._model, messages=cast(Any, messages), extra_body=self._body
                )
            except openai.APIStatusError as error:
                status = error.status_code
                if status in (401, 403, 404) or (probing and status < 500 and status not in RETRIED):
                    raise ConfigError(self._refusal(status, error.message)) from None
                return self._failed(_retries(error), f"status {status}: {error.message}")
            except openai.APIConnectionError as error:
                if probing and not isinstance(error, openai.APITimeoutError):
                    raise ConfigError(f"oracle.base_url: {self._url} cannot be reached: {self._redacted(repr(error.__cause__))}") from None
                return self._failed(_retries(error), error.message)
            return self._read(raw.content, raw.retries_taken, probing)

    def _check(self) -> None:
        if self._budget is not None and self._spent >= self._budget:
            raise OracleError(
                f"oracle.budget_dollars: {self._budget:g} are spent ({self._spent:.6g}, counted since this oracle was loaded); "
                f"raise it and resume the run"
            )
        if self._failures >= self._failures_in_a_row:
            raise OracleError(
                f"oracle.base_url: {self._url} has failed {self._failures} requests in a row, retries included; resume the run when it "
                f"answers again, or raise oracle.failures_in_a_row"
            )

    def _refusal(self, status: int, message: str) -> str:
        place = {401: "oracle.key_env", 403: "oracle.key_env", 404: "oracle.base_url or oracle.model"}.get(status, "oracle")
        return f"{place}: {self._url} refuses the request for model {self._model!r} with status {status}: {self._redacted(message)}"

    def _redacted(self, text: str) -> str:
        """What a server says, which may be anything, without the key and not at length."""
        return (text.replace(self._key, "[key]") if self._key else text)[:500]

    def _failed(self, retries: int, why: str) -> Reply:
        self._failures += 1
        logger.warning("%s: request failed after %d retries: %s", self._url, retries, self._redacted(why))
        return Reply(retries=retries)

    def _read(self, content: bytes, retries: int, probing: bool) -> Reply:
        try:
            completion = _Completion.model_validate_json(content)
        except pydantic.ValidationError as error:
            said = self._redacted(content.decode(errors="replace"))[:200]
            why = f"no chat completion: {error.errors()[0]['msg']}: {said!r}"
            if probing:
                raise ConfigError(f"oracle.base_url: {self._url} gives {self._redacted(why)}") from None
            return self._failed(retries, why)
        self._failures = 0
        choice, usage = completion.choices[0], completion.usage
        if usage is None:
            if self._prices is not None:
                raise ConfigError(f"oracle.prompt_dollars: {self._url} does not say how many tokens it used; leave the prices out")
            usage = _Usage(prompt_tokens=0, completion_tokens=0)
        text = "" if choice.finish_reason in CUT_SHORT else choice.message.content or ""
        reply = Reply(text, retries, usage.prompt_tokens, usage.completion_tokens)
        self._spent += self._prices.cost(reply) if self._prices else 0.0
        return reply


async def _live(client: Any, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    """Keep the loop going until the stop, then close the connections. Holds no reference to the endpoint, which could not end otherwise."""
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    async with client:
        await stop.wait()


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(stop.set)
    if threading.current_thread() is not thread:  # garbage may be collected in any thread
        thread.join()


def _http_client(timeout_s: float) -> Any:
    """The openai package's own HTTP client with an end to each attempt as a whole."""
    import httpx2
    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            try:
                async with asyncio.timeout(timeout_s):
                    return await super().send(request, **options)
            except TimeoutError as error:
                raise httpx2.ReadTimeout(f"no full reply within {timeout_s:g} s", request=request) from error

    return Bounded(timeout=timeout_s)


def _retries(error: Any) -> int:
    """How many attempts came before the one that failed; the client writes it into each request."""
    return int(error.request.headers.get("x-stainless-retry-count", 0))
