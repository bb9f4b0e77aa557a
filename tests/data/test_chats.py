"""Nothing of a message is dropped silently: it reaches the chat template and the oracle, or the record is refused with its place."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from raypref.data.chats import Chat, chat_of_messages
from raypref.data.config import DataConfig
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import bare_text, make_prompt, prompt_of, source_of
from raypref.data.records import Record
from raypref.data.revision import Reviser
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import DataError

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Lima"}}}
WEATHER = {"type": "function", "function": {"name": "weather"}}
TOOL_CHAT = [
    {"role": "user", "content": "weather in Lima?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": "19 C"},
]
TOOL_TEMPLATE = (
    "{% for t in tools or [] %}<tool {{ t.function.name }}>{% endfor %}{% for m in messages %}[{{ m.role }}{{ ' ' + m.name if m.name }}] "
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %} {% endfor %}[ANSWER]"
)


def read(values: dict[str, Any], **config: Any) -> str | Chat:
    return prompt_of(Record(values, "p.jsonl:1"), DataConfig(**config))


def templated(tokenizer: Any, template: str) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def render(tokenizer: Any, prompt: str | Chat) -> str:
    return PolicyTokenizer(DataConfig(), PolicyFacts(tokenizer, 64, ())).prompt_text(prompt, "p.jsonl:1")


def test_calls_and_tools_reach_the_template(tokenizer: Any) -> None:
    prompt = read({"prompt": TOOL_CHAT, "tools": [WEATHER]})
    assert render(templated(tokenizer, TOOL_TEMPLATE), prompt) == (
        '<tool weather>[user] weather in Lima? [assistant] {"name": "weather", "arguments": {"city": "Lima"}} [tool weather] 19 C [ANSWER]'
    )


def test_calls_and_tools_reach_the_oracle_and_the_revision(tokenizer: Any) -> None:
    """An oracle reads them as text; a revision is asked for in the same chat."""
    chat = read({"prompt": TOOL_CHAT, "tools": [WEATHER]})
    shown = bare_text(chat)
    assert '"name": "weather", "arguments": {"city": "Lima"}' in shown
    assert shown.startswith("system: tools: [")
    assert shown.endswith("tool: 19 C\nname: weather")
    prompt = make_prompt(0, "0", chat, np.zeros(1, dtype=np.int32))
    assert source_of(prompt) == chat
    text = templated(tokenizer, TOOL_TEMPLATE)
    revised = Reviser(DataConfig(template="chat"), PolicyFacts(text, 64, ())).revise(prompt, "19 degrees")
    assert source_of(revised) == chat
    assert len(revised.token_ids) > 0


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"prompt": [*TOOL_CHAT[:2], {"role": "tool", "content": "19 C"}]}, "'tool_calls' of message 1"),
        ({"prompt": [{"role": "user", "content": "why", "language": "en"}]}, "'language' of message 0"),
        ({"prompt": [{"role": "user", "content": "why", "name": "Ann"}]}, "'name' of message 0"),
        ({"prompt": "why", "tools": [WEATHER]}, "the record's 'tools'"),
    ],
)
def test_what_the_template_leaves_out_is_refused(tokenizer: Any, values: dict[str, Any], part: str) -> None:
    with pytest.raises(DataError, match=rf"p\.jsonl:1: the tokenizer's chat template does not write {part}"):
        render(tokenizer, read(values))


def test_a_role_that_the_template_leaves_out_is_refused(tokenizer: Any) -> None:
    users = templated(tokenizer, "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}")
    with pytest.raises(DataError, match=r"p\.jsonl:1: .* does not write message 0 \(role 'system'\)"):
        render(users, read({"prompt": [{"role": "system", "content": "in French"}, {"role": "user", "content": "why"}]}))


def test_keys_that_the_config_drops_and_keys_without_a_value(tokenizer: Any) -> None:
    turn = {"role": "user", "content": "why", "tool_calls": None, "images": [], "language": "en", "tool_call_id": "7"}
    chat = read({"prompt": [turn]}, dropped_message_keys=("language",))
    assert render(tokenizer, chat) == render(tokenizer, "why")


def test_content_parts(tokenizer: Any) -> None:
    parts = [{"type": "text", "text": "why "}, {"type": "text", "text": "not", "image_url": None}]
    assert bare_text(read({"prompt": [{"role": "user", "content": parts}]})) == "why not"
    for part in ({"type": "image_url", "image_url": "x"}, "why", {"type": "text", "text": "x", "cache": 1}, {"type": "text"}, None):
        with pytest.raises(DataError, match=r"p\.jsonl:1: message 0 has a content part that is no text"):
            read({"prompt": [{"role": "user", "content": [part]}]})


@pytest.mark.parametrize("tools", [5, "weather", {"name": "x"}, ["weather"], "[1]"])
def test_tools_that_are_none(tools: Any) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl:1: 'tools' must be a list of mappings"):
        read({"prompt": "why", "tools": tools})
    assert read({"prompt": "why", "tools": tools}, tools_field="functions") == "why"


def test_tools_as_json_and_with_nulls_of_other_records() -> None:
    assert (
        chat_of_messages([], "p", '[{"name": "x"}]').tools
        == chat_of_messages([], "p", [{"name": "x", "y": None}]).tools
        == ({"name": "x"},)
    )
