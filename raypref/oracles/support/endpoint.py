"""An OpenAI-compatible chat endpoint for the ``judge`` oracle: many requests at a time, each with a time limit.

The ``openai`` package's asynchronous client runs on an event loop in one thread. So one limit on the requests in flight holds for all
threads that ask, and a request can be given up even if the server keeps it alive with single bytes (a blocking client's time-out starts
again with every byte). The client retries time-outs, broken connections, 408, 409, 429 and 5xx by itself: after the time in
``Retry-After``, up to two minutes, or else after 0.5 s, 1 s, ... 8 s.
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
"""Finish reasons of incomplete replies."""
RETRIED = (408, 409, 429)


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of one request."""

    text: str | None = None
    """Empty where the endpoint cut the reply short or filtered it; None where the request failed."""
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token: tuple[tuple[str, float], ...] = ()
    """(text, log-prob in nats) of the likeliest first tokens, where the request asked for them."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in dollars."""

    prompt: float
    """Per million prompt tokens."""
    completion: float
    """Per million completion tokens."""

    def cost(self, reply: Reply) -> float:
        """The cost of a reply, in dollars."""
        return (self.prompt * reply.prompt_tokens + self.completion * reply.completion_tokens) / 1e6


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """An endpoint, its limits and its prices; see the fields of ``ChatJudge``."""

    base_url: str
    model: str
    body: Mapping[str, Any]
    """Further members of the request."""
    timeout_s: float
    """Longest time for one attempt, up to the reply's last byte."""
    retries: int
    concurrency: int
    """Largest number of requests in flight; a request that waits for its retry is in flight."""
    failures_in_a_row: int
    """This many failed requests without a reply between them make the endpoint give up."""
    prices: Prices | None = None
    """To compute the cost; replies must then say how many tokens they used."""
    budget_dollars: float | None = None


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt


class _Message(BaseModel):
    content: str | None = None


class _Candidate(BaseModel):
    token: str
    logprob: float


class _Position(BaseModel):
    top_logprobs: list[_Candidate]


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    """The parts of a chat completion that are read; the client does not check them."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class Endpoint:
    """Sends chats and collects the replies, for any number of threads. Closed by ``close()``, or when it is no longer referenced."""

    def __init__(self, settings: EndpointSettings, key: str | None) -> None:
        """
        Args:
            settings: the endpoint and its limits.
            key: None where the server needs none.
        """
        import openai

        base_url, timeout_s = settings.base_url, settings.timeout_s

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # otherwise it logs every request
        self._url, self._model, self._key, self._body = base_url, settings.model, key, dict(settings.body)
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key or "none", max_retries=settings.retries, timeout=timeout_s, http_client=_http_client(timeout_s)
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._failures_in_a_row = settings.failures_in_a_row
        self._prices = settings.prices
        self._budget = settings.budget_dollars
        # Only the event loop's thread writes these two.
        self._failures = 0
        self._spent = 0.0
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        thread = threading.Thread(target=asyncio.run, args=(_live(self._client, started),), name="judge", daemon=True)
        thread.start()
        self._loop, stop = started.result()
        self.close = weakref.finalize(self, _stop, self._loop, stop, thread)

    def probe(self) -> None:
        """Ask for one short reply, to find wrong settings before anything depends on them.

        An overloaded server passes the test, since the run retries.

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
        """Send one request. Errors do not carry their causes: a server may repeat the key in its message."""
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
        """A server's message, which may hold anything, without the key and shortened."""
        return (text.replace(self._key, "[key]") if self._key else text)[:500]

    def _failed(self, retries: int, why: str) -> Reply:
        self._failures += 1
        logger.warning("%s: request failed after %d retries: %s", self._url, retries, self._redacted(why))
        return Reply(retries=retries)

    def _read(self, content: bytes, retries: int, probing: bool) -> Reply:
        try:
            completion = _Completion.model_validate_json(content)
        except pydantic.ValidationError as error:
            excerpt = self._redacted(content.decode(errors="replace"))[:200]
            why = f"no chat completion: {error.errors()[0]['msg']}: {excerpt!r}"
            if probing:
                raise ConfigError(f"oracle.base_url: {self._url} gives {self._redacted(why)}") from None
            return self._failed(retries, why)
        self._failures = 0
        choice, usage = completion.choices[0], completion.usage
        if usage is None:
            if self._prices is not None:
                raise ConfigError(f"oracle.prompt_dollars: {self._url} does not say how many tokens it used; remove the prices")
            usage = _Usage(prompt_tokens=0, completion_tokens=0)
        text = "" if choice.finish_reason in CUT_SHORT else choice.message.content or ""
        positions = (choice.logprobs and choice.logprobs.content) or []
        first = tuple((candidate.token, candidate.logprob) for position in positions[:1] for candidate in position.top_logprobs)
        if probing and self._body.get("logprobs") and not first:
            raise ConfigError(f"oracle.mode: token needs log-probs, which {self._url} does not give; take pairwise")
        reply = Reply(text, retries, usage.prompt_tokens, usage.completion_tokens, first)
        self._spent += self._prices.cost(reply) if self._prices else 0.0
        return reply


async def _live(client: Any, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    """Run until the stop, then close the connections. Holds no reference to the endpoint, which otherwise could never be collected."""
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    async with client:
        await stop.wait()


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(stop.set)
    if threading.current_thread() is not thread:  # garbage collection may run in any thread
        thread.join()


def _http_client(timeout_s: float) -> Any:
    """The openai package's HTTP client with a time limit on each whole attempt."""
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
    """The number of attempts before the one that failed; the client writes it into each request."""
    return int(error.request.headers.get("x-stainless-retry-count", 0))
