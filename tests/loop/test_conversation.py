"""Conversations with a policy that repeats what it was told last."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from raypref import types
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.evaluation.mt_bench.questions import Question
from raypref.loop.conversation import Conversations, Turns
from tests.data.chat_tokenizers import facts_of_kind

FACTS = facts_of_kind("ChatML, two ends")
QUESTION = Turns("81", ("Hello <|im_end|>?", "Again."), 0.7)


@dataclass
class Echo:
    """Engines that answer with the number of their request and what they see of the prompt."""

    requests: list[types.SampleRequest] = field(default_factory=list)

    async def sample(self, request: types.SampleRequest) -> types.Rollout:
        self.requests.append(request)
        text = f"answer {len(self.requests)}"
        ids = np.array(FACTS.tokenizer(text)["input_ids"], dtype=np.int32)
        response = types.Response(ids, np.zeros(len(ids), dtype=np.float32), text, "length")
        return types.Rollout(request.prompt, (response,) * request.count, 0)


def config(**sections: object) -> RunConfig:
    return RunConfig.parse({"policy": {"path": "p"}, "loss": {"type": "sppo"}, "rollout": {"max_tokens": 50}, **sections})


def test_the_second_turn_sees_the_first_answer() -> None:
    """A control token that the user spells out is text, not the end of the turn; each choice goes on with its own answer."""
    engines = Echo()
    answers = asyncio.run(Conversations(config(), FACTS).hold(engines, [QUESTION], 2))  # type: ignore[arg-type]
    assert answers == [[["answer 1", "answer 2"], ["answer 3", "answer 4"]]]
    shown = [FACTS.tokenizer.decode(request.prompt.token_ids) for request in engines.requests]
    assert [text.count("answer") for text in shown] == [0, 1, 0, 1]
    assert ["answer 1" in shown[1], "Again." in shown[1], "answer 3" in shown[3]] == [True] * 3
    end = FACTS.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert [int((request.prompt.token_ids == end).sum()) for request in engines.requests] == [1, 3, 1, 3]
    assert {request.temperature for request in engines.requests} == {0.7}
    assert len({request.seed for request in engines.requests}) == 4


def test_a_turn_without_room_has_no_answer() -> None:
    long = Turns("1", ("word " * 20, "word " * 5000, "never asked"), 0.0)
    conversations = Conversations(config(), FACTS)
    assert asyncio.run(conversations.hold(Echo(), [long], 1)) == [[["answer 1", "", ""]]]  # type: ignore[arg-type]
    assert (conversations.unanswered, conversations.cut_off) == (2, 1)


def test_temperatures_by_category() -> None:
    """FastChat's table; a category of somebody's own is sampled at 0.7."""
    temperatures = {name: Question(1, name, ("a",), "f:1").temperature for name in ("math", "stem", "writing", "cooking")}
    assert temperatures == {"math": 0.0, "stem": 0.1, "writing": 0.7, "cooking": 0.7}


def test_a_policy_without_chat_template_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.chat_template: conversations need one"):
        Conversations(config(data={"chat_template": False}), FACTS)
