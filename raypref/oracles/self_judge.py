"""The policy as the judge of its responses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt, PrivateAttr, ValidationInfo, field_validator

from raypref.oracles.base import ABSTAIN, Answer, Chat, Oracle, Question, Services, oracles
from raypref.oracles.support.orders import Orders, shown
from raypref.oracles.support.replies import read_score, read_verdict
from raypref.oracles.support.verdicts import answer_from, ask_score, ask_which, template_text
from raypref.preferences import sigmoid


@oracles.register("self_judge")
class SelfJudge(Oracle):
    """Asks the run's engines, which hold the policy that sampled the responses (self-rewarding).

    ``mode: score``: each response gets points from 0 to 5, the mean of ``samples`` replies, and P[i, j] = sigmoid((points_i - points_j)
    / scale). Source: Self-Rewarding Language Models, arXiv 2401.10020: the prompt (Figure 2), the average of 3 sampled scores and the
    temperature (section 3.1.2). Departures: the paper samples with top-p 0.9, here it is 1; the paper pairs the highest with the lowest
    score and leaves out ties (``selection: best_worst`` is similar); a probability from the difference of two scores is not in the paper.

    ``mode: pairwise``: asks and reads like ``judge``; P[i, j] is the mean over the samples, then over the orders. Not from a paper.

    ``oracle/unparsed`` is the share of replies that cannot be read, ``oracle/failed_requests`` the share of requests whose prompt leaves
    no room for a reply; a mean is over the remaining replies. The oracle abstains on a pair if a response has no score, or an order no
    verdict. A reply that was cut off before its mark cannot be read.
    """

    parallel: ClassVar[int] = 16

    type: str = "self_judge"
    mode: Literal["score", "pairwise"] = "score"
    """score: points for each response; pairwise: a verdict on each pair."""
    samples: PositiveInt = 3
    """Number of replies to each input."""
    temperature: PositiveFloat = 0.7
    """Sampling temperature of the replies."""
    max_tokens: PositiveInt = 512
    """Longest reply, in tokens."""
    scale: PositiveFloat = 1.0
    """Difference in points that makes P = sigmoid(1) = 0.73; with ``mode: score``."""
    orders: Orders = "both"
    """both: every pair is asked in both orders; one: in one order, drawn from a hash of the texts; with ``mode: pairwise``."""
    template: str | None = None
    """Default: the mode's built-in template. Or a file, which is read when the config is parsed; or the text itself: {question} (or
    {prompt}) with {response}, asking for ``Score: <points>`` (score), or with {a} and {b}, asking for [[A]] or [[B]] (pairwise)."""

    _services: Services | None = PrivateAttr(default=None)

    @field_validator("template")
    @classmethod
    def _readable(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value if value is None or "mode" not in info.data else template_text(value, info.data["mode"])

    @property
    def asks_policy(self) -> bool:
        return True

    def load(self, services: Services) -> None:
        self._services = services

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._by_score(question) if self.mode == "score" else self._by_pair(question) for question in questions]

    def identity(self) -> None:
        """None: the answers change with the policy and are never cached."""

    def _by_score(self, question: Question) -> Answer:
        wanted = sorted({k for pair in question.pairs for k in pair})
        text = template_text(self.template or self.mode, self.mode)
        replies = self._ask(question, [ask_score(text, question, k) for k in wanted])
        read = [[read_score(reply) for reply in group if reply is not None] for group in replies]
        points = dict(zip(wanted, map(_mean, read), strict=True))
        values = np.full((len(question.responses), len(question.responses)), 0.5)
        for i, j in question.pairs:
            left, right = points[i], points[j]
            if left is None or right is None:
                values[i, j] = values[j, i] = ABSTAIN
            else:
                values[i, j], values[j, i] = sigmoid(np.array([left - right, right - left]) / self.scale)
        return Answer(values, {"oracle/points": [p for p in points.values() if p is not None], **_counted(replies, read)})

    def _by_pair(self, question: Question) -> Answer:
        orders = shown(question, self.orders)
        text = template_text(self.template or self.mode, self.mode)
        replies = self._ask(question, [ask_which(text, question, order) for order in orders])
        read = [[read_verdict(reply) for reply in group if reply is not None] for group in replies]
        answer = answer_from(question, self.orders, dict(zip(orders, map(_mean, read), strict=True)))
        return replace(answer, observed={**answer.observed, **_counted(replies, read)})

    def _ask(self, question: Question, chats: Sequence[Chat]) -> list[list[str | None]]:
        """``samples`` replies to each chat. A sample's name, and so its seed, depends on the chat: the same text gets the same reply."""
        assert self._services is not None, "load() comes before the first question"
        names = [f"{question.prompt_id}/{_digest(chat)}/{sample}" for chat in chats for sample in range(self.samples)]
        replies = self._services.ask_policy(
            [chat for chat in chats for _ in range(self.samples)],
            names=names,
            policy_version=question.policy_version,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )
        return [replies[k : k + self.samples] for k in range(0, len(replies), self.samples)]


def _digest(chat: Chat) -> str:
    return hashlib.sha256(repr(chat).encode()).hexdigest()[:16]


def _mean(read: Sequence[float | None]) -> float | None:
    """The mean of what could be read; None where nothing could."""
    values = [value for value in read if value is not None]
    return sum(values) / len(values) if values else None


def _counted(replies: Sequence[Sequence[str | None]], read: Sequence[Sequence[float | None]]) -> dict[str, list[float]]:
    return {
        "oracle/unparsed": [float(value is None) for group in read for value in group],
        "oracle/failed_requests": [float(reply is None) for group in replies for reply in group],
    }
