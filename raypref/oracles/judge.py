"""A language model behind an OpenAI-compatible chat endpoint as the judge."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

from raypref.errors import ConfigError
from raypref.oracles.base import Answer, Oracle, Question, Services, oracles
from raypref.oracles.support.endpoint import Endpoint, EndpointSettings, Prices, Reply
from raypref.oracles.support.orders import Orders, Pair, shown
from raypref.oracles.support.rankings import ask_ranking, pairs_of, ranking_template, rankings_shown, read_ranking
from raypref.oracles.support.replies import read_first_token, read_verdict
from raypref.oracles.support.verdicts import answer_from, ask_which, template_text
from raypref.types import Total

_SECRET = re.compile(r"(^|_|-)(api_?key|access_?key|secret|password|passwd|authorization|credentials?|bearer|token)$|^key$|secret", re.I)
"""Names of members that hold secrets."""

RESERVED = ("messages", "model", "n", "stream", "max_tokens", "temperature")
FIRST_TOKEN = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
"""What ``mode: token`` sets in a request."""
"""Members of the request that ``extra`` cannot set."""


@oracles.register("judge")
class ChatJudge(Oracle):
    """Asks a chat model which of two responses is better, and reads [[A]], [[B]] or [[C]] (a tie) at the end of its reply.

    P[i, j] is 1, 0 or 1/2 for each order in which the pair is shown, and the mean of the two with ``orders: both``. Source: MT-bench
    (arXiv 2306.05685, section 3). Where the orders name different winners, MT-bench calls it a tie, and so does the mean; a win in one
    order with a tie in the other is 3/4 here and a tie in MT-bench.

    The oracle abstains on a pair unless each order has a verdict. ``oracle/failed_requests`` is the share of requests that failed
    (time-out, 429 or 5xx after the retries, an input that the endpoint refuses, a reply that is no chat completion). ``oracle/unparsed``
    is the share of replies without a readable verdict (none or two at the end, cut off at ``max_tokens``, filtered, refused). A refused
    key and an unknown model or path end the run at once. When the oracle is loaded, one short request is sent, and any other error that
    it meets ends the run too (the request counts for the budget, not for the totals).
    """

    parallel: ClassVar[int] = 32
    model_config = ConfigDict(hide_input_in_errors=True)  # somebody may have put a key into the wrong field

    type: str = "judge"
    model: str
    """The model's name at the endpoint."""
    base_url: str = "https://api.openai.com/v1"
    """The endpoint's URL, up to ``/chat/completions``, without credentials."""
    key_env: str | None = "OPENAI_API_KEY"
    """The NAME of the environment variable that holds the key, in capitals; it must be set on the nodes. Null: the server needs no key."""
    orders: Orders = "both"
    """both: every pair is asked in both orders; one: in one order, drawn from a hash of the texts."""
    mode: Literal["pairwise", "token", "ranking"] = "pairwise"
    """pairwise: each input shows two responses, and the judge reasons before its verdict. token: it replies with one letter, and P[i, j]
    comes from the letter's log-probs, as AlpacaEval 2's annotator does; the endpoint must give them, and ``max_tokens`` is 1. ranking:
    each input shows all K of a prompt, as they are and reversed (``orders: both``), and the oracle abstains on the pairs on which the two
    replies do not agree (SPO Appendix E): 2 requests per prompt in place of K (K - 1)."""
    template: str = ""
    """Default: the built-in template of the mode. Otherwise a file, which is read when the config is parsed, or the text itself: one user
    message. pairwise: with {question} (or {prompt}; it may be left out), {a} and {b}; it asks for [[A]] or [[B]] at the end of the reply.
    token: likewise; it asks for a reply of one letter, A or B.
    ranking: with {responses}, or {1}, {2}, ... for each response; it asks for ``Ranking: 2 > 1 > 3``, or for ``1st Place: Story 2`` and so
    on. The texts are inserted between fences."""
    max_tokens: PositiveInt | None = 1024
    """Longest reply, in tokens; null leaves it out of the request (for models that want ``max_completion_tokens``, see ``extra``)."""
    temperature: NonNegativeFloat | None = 0.0
    """Null leaves it out of the request."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Further members of the request, such as ``{reasoning_effort: low, max_completion_tokens: 4096}``. Put no secret here: it is written
    to the resolved config."""
    timeout_s: PositiveFloat = 60.0
    """Longest time for one attempt, up to the reply's last byte, in seconds."""
    retries: NonNegativeInt = 5
    """Further attempts after time-outs, broken connections, 408, 409, 429 and 5xx, after the server's ``Retry-After`` (up to 120 s) or
    0.5 s, 1 s, ... 8 s."""
    concurrency: PositiveInt = 16
    """Largest number of requests in flight, per oracle replica."""
    failures_in_a_row: PositiveInt = 100
    """This many failed requests without a reply between them end the run: the endpoint is gone, and every group would be dropped."""
    prompt_dollars: NonNegativeFloat | None = None
    """Price of a million prompt tokens, in dollars."""
    completion_dollars: NonNegativeFloat | None = None
    """Price of a million completion tokens, in dollars."""
    budget_dollars: PositiveFloat | None = None
    """What one oracle replica may spend after it is loaded. When it is spent, the run ends with an error, since a run without verdicts
    would only waste its GPUs. Requests in flight (up to ``concurrency``) still cost; what failed attempts cost is not known."""

    _endpoint: Endpoint | None = PrivateAttr(default=None)

    @field_validator("key_env")
    @classmethod
    def _name_only(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ConfigError(
                "oracle.key_env: expected the name of an environment variable in capitals, digits and _, not the key itself; "
                "null where the server needs no key"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
        except ValueError as error:
            raise ConfigError(f"oracle.base_url: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("oracle.base_url: expected http(s)://host/path, such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment or "sk-" in parts.path:
            raise ConfigError(
                "oracle.base_url: remove credentials, the query and what follows #; the key comes from the variable in oracle.key_env"
            )
        return value

    @model_validator(mode="after")
    def _readable(self) -> Self:
        value = self.template or self.mode
        self.__dict__["template"] = value if value == self.mode else self._template(value)  # a file is read once, when the config is parsed
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if secret := _secret_in(self.extra):
            raise ConfigError(
                f"oracle.extra: {secret} looks like a secret, and would be written to config.yaml; the key comes from the variable in "
                "oracle.key_env"
            )
        taken = sorted(set(RESERVED) & set(self.extra))
        if taken:
            raise ConfigError(f"oracle.extra: {', '.join(taken)} cannot be set here; each has its own field or is not supported")
        if (self.prompt_dollars is None) != (self.completion_dollars is None):
            raise ConfigError("oracle.prompt_dollars, oracle.completion_dollars: give both prices or neither (0 means free)")
        if self.budget_dollars is not None and self.prompt_dollars is None:
            raise ConfigError("oracle.budget_dollars: needs oracle.prompt_dollars and oracle.completion_dollars")
        return self

    def load(self, services: Services) -> None:
        """Open the endpoint and try it with one short request.

        Raises:
            ConfigError: the key is not set, or the endpoint refuses the request.
        """
        self._endpoint = self.opened()

    def opened(self) -> Endpoint:
        """The endpoint itself, tried with one short request, for other questions than comparisons; ``close()`` it.

        Raises:
            ConfigError: as ``load``.
        """
        limits = {name: value for name in ("max_tokens", "temperature") if (value := getattr(self, name)) is not None}
        settings = EndpointSettings(
            base_url=self.base_url,
            model=self.model,
            body={**limits, **self.extra, **(FIRST_TOKEN if self.mode == "token" else {})},
            timeout_s=self.timeout_s,
            retries=self.retries,
            concurrency=self.concurrency,
            failures_in_a_row=self.failures_in_a_row,
            prices=self._prices(),
            budget_dollars=self.budget_dollars,
        )
        endpoint = Endpoint(settings, self._key())
        try:
            endpoint.probe()
        except ConfigError:
            endpoint.close()
            raise
        return endpoint

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        assert self._endpoint is not None, "load() comes before the first question"
        if self.mode == "ranking":
            return self._rank(questions)
        text = self._template(self.template)
        asked = [shown(question, self.orders) for question in questions]
        chats = [ask_which(text, question, order) for question, orders in zip(questions, asked, strict=True) for order in orders]
        replies = iter(self._endpoint.ask(chats))
        answered = [list(islice(replies, len(orders))) for orders in asked]
        return [self._answer(*parts) for parts in zip(questions, asked, answered, strict=True)]

    def _template(self, value: str) -> str:
        return ranking_template(value) if self.mode == "ranking" else template_text(value, self.mode)

    def _rank(self, questions: Sequence[Question]) -> list[Answer]:
        assert self._endpoint is not None
        text = self._template(self.template)
        asked = [rankings_shown(question, self.orders) for question in questions]
        chats = [ask_ranking(text, question, order) for question, orders in zip(questions, asked, strict=True) for order in orders]
        replies = iter(self._endpoint.ask(chats))
        answers = []
        for question, orders in zip(questions, asked, strict=True):
            own = list(islice(replies, len(orders)))
            rankings = [None if reply.text is None else read_ranking(reply.text, len(question.responses)) for reply in own]
            answer = answer_from(question, self.orders, pairs_of(question, orders, rankings))
            answers.append(self._observed(answer, [ranking is None for ranking in rankings], own))
        return answers

    def identity(self) -> str:
        """The settings that a reply depends on. With a temperature above 0, the cache keeps the first reply that was drawn."""
        shaping = ("type", "model", "base_url", "orders", "max_tokens", "temperature", "extra")
        mode = {} if self.mode == "pairwise" else {"mode": self.mode}  # verdicts from before there was a mode stay valid
        own = {name: getattr(self, name) for name in shaping}
        return json.dumps({**own, **mode, "template": self._template(self.template)}, sort_keys=True)

    def _key(self) -> str | None:
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise ConfigError(
                f"oracle.key_env: the environment variable {self.key_env} is not set where the oracle runs; set it there, or give null "
                f"for a server without keys"
            )
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"oracle.key_env: {self.key_env} holds characters that cannot be in a key")
        return key

    def _prices(self) -> Prices | None:
        if self.prompt_dollars is None or self.completion_dollars is None:
            return None
        return Prices(self.prompt_dollars, self.completion_dollars)

    def _answer(self, question: Question, orders: Sequence[Pair], replies: Sequence[Reply]) -> Answer:
        verdicts = [None if reply.text is None else self._verdict(reply.text, reply) for reply in replies]
        answer = answer_from(question, self.orders, dict(zip(orders, verdicts, strict=True)))
        return self._observed(answer, [verdict is None for verdict in verdicts], replies)

    def _verdict(self, text: str, reply: Reply) -> float | None:
        return read_first_token(reply.first_token) if self.mode == "token" else read_verdict(text)

    def _observed(self, answer: Answer, unreadable: Sequence[bool], replies: Sequence[Reply]) -> Answer:
        observed: dict[str, Sequence[float]] = {
            "oracle/unparsed": [float(unread) for unread, reply in zip(unreadable, replies, strict=True) if reply.text is not None],
            "oracle/failed_requests": [float(reply.text is None) for reply in replies],
            "oracle/requests_total": [Total(len(replies))],
            "oracle/retries_total": [Total(reply.retries) for reply in replies],
            "oracle/prompt_tokens_total": [Total(reply.prompt_tokens) for reply in replies],
            "oracle/completion_tokens_total": [Total(reply.completion_tokens) for reply in replies],
        }
        prices = self._prices()
        if prices is not None:
            observed["oracle/cost_total"] = [Total(prices.cost(reply)) for reply in replies]
        return replace(answer, observed={**answer.observed, **observed})


def _secret_in(value: JsonValue, name: str = "") -> str | None:
    """The path of a member of a request whose name or value looks like a secret; None where there is none."""
    if isinstance(value, str) and value.startswith(("sk-", "Bearer ")):
        return name
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        path = f"{name}.{key}" if name else str(key)
        if isinstance(key, str) and _SECRET.search(key):
            return path
        if found := _secret_in(inner, path):
            return found
    return None
