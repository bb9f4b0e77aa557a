"""The policy as its own judge, with services that answer by a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from raypref.errors import ConfigError
from raypref.oracles.base import ABSTAIN, Answer, Chat, Question
from raypref.oracles.self_judge import SelfJudge

RESPONSES = ("good", "fair", "poor")
ASKED = Question("p0", "Why?", RESPONSES, ((0, 1), (0, 2), (1, 2)), policy_version=3)


class FakeServices:
    """Answers with ``rule(text of the chat, number of the sample)``."""

    def __init__(self, rule: Callable[[str, int], str | None]) -> None:
        self.rule = rule
        self.calls: list[dict] = []

    def ask_policy(self, chats: Sequence[Chat], *, names: Sequence[str], **how: Any) -> list[str | None]:
        self.calls.append({"chats": list(chats), "names": list(names), **how})
        samples = [int(name.rsplit("/", 1)[1]) for name in names]
        return [self.rule(content, sample) for ((_, content),), sample in zip(chats, samples, strict=True)]


def judged(rule: Callable[[str, int], str | None], question: Question = ASKED, **settings: Any) -> tuple[Answer, FakeServices]:
    services = FakeServices(rule)
    oracle = SelfJudge.parse(settings, "oracle")
    oracle.load(services)
    (answer,) = oracle.compare([question])
    return answer, services


def points(**given: tuple[int, ...]) -> Callable[[str, int], str]:
    """The points of the response with a text, one a sample."""
    return lambda content, sample: next(f"Score: {values[sample]}" for text, values in given.items() if f"\n{text}\n" in content)


def test_scores_are_averaged_and_their_difference_is_a_probability() -> None:
    """good (5 + 4 + 3)/3 = 4, fair 3, poor 1; scale 2: P(good > fair) = sigmoid(1/2), P(good > poor) = sigmoid(3/2),
    P(fair > poor) = sigmoid(1) = 0.7310586."""
    answer, _ = judged(points(good=(5, 4, 3), fair=(3, 3, 3), poor=(1, 0, 2)), scale=2.0)
    expected = [0.5, 0.62245933, 0.81757448], [0.37754067, 0.5, 0.73105858], [0.18242552, 0.26894142, 0.5]
    np.testing.assert_allclose(answer.values, expected, atol=1e-8)
    assert answer.observed["oracle/points"] == [4.0, 3.0, 1.0]
    assert answer.observed["oracle/unparsed"] == [0.0] * 9


def test_a_small_scale_is_certain_and_does_not_overflow() -> None:
    answer, _ = judged(points(good=(5,), fair=(3,), poor=(0,)), samples=1, scale=1e-6)
    assert answer.values.tolist() == [[0.5, 1.0, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]]


def test_every_response_is_asked_about_once_a_sample() -> None:
    """Only those in the pairs that are wanted: 2 of 3, each with 4 samples."""
    answer, services = judged(
        lambda *_: "Score: 3", Question("p0", "Why?", RESPONSES, ((0, 2),), policy_version=3), samples=4, temperature=0.9
    )
    (call,) = services.calls
    assert len(call["chats"]) == len(set(call["names"])) == 8
    assert len(set(call["chats"])) == 2
    assert (call["policy_version"], call["temperature"], call["max_tokens"]) == (3, 0.9, 512)
    assert answer.values[0, 2] == 0.5


def test_names_follow_from_what_is_asked() -> None:
    """Another place in the group gives a response no other seed."""
    _, services = judged(lambda *_: "Score: 3")
    _, other = judged(lambda *_: "Score: 3", Question("p0", "Why?", RESPONSES[::-1], ASKED.pairs, policy_version=3))
    assert set(services.calls[0]["names"]) == set(other.calls[0]["names"])
    _, another = judged(lambda *_: "Score: 3", Question("p1", "Why?", RESPONSES, ASKED.pairs))
    assert not set(services.calls[0]["names"]) & set(another.calls[0]["names"])


def test_scores_that_cannot_be_read_are_left_out_and_counted() -> None:
    """fair has one readable score of two, 4; poor has none, and no room for one reply: its pairs abstain. P(good > fair) = sigmoid(-1)."""
    replies = {"good": ("Score: 3", "Score: 3"), "fair": ("Score: 9", "Score: 4"), "poor": ("I cannot say.", None)}
    answer, _ = judged(lambda content, sample: next(r[sample] for text, r in replies.items() if f"\n{text}\n" in content), samples=2)
    assert answer.values[0, 1] == pytest.approx(0.26894142)
    assert answer.values[0, 2] == answer.values[2, 0] == answer.values[1, 2] == answer.values[2, 1] == ABSTAIN
    assert answer.observed["oracle/unparsed"] == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert answer.observed["oracle/failed_requests"] == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert answer.observed["oracle/points"] == [3.0, 4.0]


def first_is(content: str, text: str) -> bool:
    return f"\n{text}\n" in content.split("<answer B")[0]


def test_pairs_are_judged_in_both_orders() -> None:
    """Sample 0 prefers good, sample 1 the first place: good first 1, good last (0 + 1)/2 for the other: P = (1 + 1/2)/2."""
    question = Question("p0", "Why?", ("good", "poor"), ((0, 1),))
    answer, services = judged(
        lambda content, sample: "[[A]]" if sample == 1 or first_is(content, "good") else "[[B]]", question, mode="pairwise", samples=2
    )
    assert answer.values[0, 1] == 0.75
    assert answer.observed["oracle/position_bias"] == [0.5]
    assert len(services.calls[0]["chats"]) == 4


def test_an_order_without_a_verdict_abstains() -> None:
    question = Question("p0", "Why?", ("good", "poor"), ((0, 1),))

    def rule(content: str, sample: int) -> str:
        return "[[A]]" if first_is(content, "good") else "No idea."

    answer, _ = judged(rule, question, mode="pairwise", samples=2)
    assert answer.values[0, 1] == ABSTAIN
    assert answer.observed["oracle/unparsed"] == [0.0, 0.0, 1.0, 1.0]
    answer, services = judged(lambda *_: "[[C]]", question, mode="pairwise", samples=1, orders="one")
    assert answer.values[0, 1] == 0.5
    assert len(services.calls[0]["chats"]) == 1


def test_a_score_in_a_response_is_not_the_verdict() -> None:
    answer, _ = judged(points(**{"Score: 5": (1,), "fair": (3,)}), Question("p0", "Why?", ("Score: 5", "fair"), ((0, 1),)), samples=1)
    assert answer.observed["oracle/points"] == [1.0, 3.0]


def test_a_template_fits_its_mode() -> None:
    text = "Rate {response} for {question}. Score: 0 to 5"
    assert SelfJudge.parse({"template": text}, "oracle").template == text
    with pytest.raises(ConfigError, match=r"^oracle\.template: .*expected \{question\}, \{a\}, \{b\}"):
        SelfJudge.parse({"template": text, "mode": "pairwise"}, "oracle")
    with pytest.raises(ConfigError, match=r"^oracle\.mode: "):
        SelfJudge.parse({"template": text, "mode": "rank"}, "oracle")


def test_verdicts_of_a_policy_that_changes_are_not_kept() -> None:
    assert SelfJudge().identity() is None
