"""Nothing of a message is dropped silently: it reaches the chat template and the oracle, or the record is refused with its place."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from raypref.config import RunConfig
from raypref.data.chats import Chat, chat_of_messages
from raypref.data.config import DataConfig
from raypref.data.demonstrations import load_demonstrations
from raypref.data.layouts import read_preferences
from raypref.data.policy_facts import PolicyFacts
from raypref.data.prompts import load_prompts
from raypref.data.record_prompts import bare_text, make_prompt, prompt_of, refuse_unread, source_of
from raypref.data.records import Record
from raypref.data.revision import Reviser
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import DataError
from raypref.loop.loading import load_run_data

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


# ---------------------------------------------------------------------------------------------- parts of a prompt in other fields


@pytest.mark.parametrize(
    ("values", "config", "name"),
    [
        ({"prompt": "q", "system": "Be brief."}, {}, "system"),
        ({"question": "q", "system_prompt": "Be brief."}, {"prompt_field": "question"}, "system_prompt"),
        ({"prompt": [{"role": "user", "content": "q"}], "system": "Be brief."}, {}, "system"),
        ({"prompt": "q", "history": [["a", "b"]]}, {}, "history"),
        ({"instruction": "Sum up.", "input": "A text."}, {"prompt_field": "instruction"}, "input"),
        ({"instruction": "Sum up.", "context": "A text."}, {"prompt_field": "instruction"}, "context"),
    ],
)
def test_a_part_of_the_prompt_in_a_field_that_is_not_read_is_refused(values: dict[str, Any], config: dict[str, Any], name: str) -> None:
    """As Orca's pairs have ``system``, and Alpaca's records ``input``: it is trained on, or the config says that it is not."""
    record, settings = Record(values, "p.jsonl:1"), DataConfig(**config)
    with pytest.raises(DataError, match=rf"^p\.jsonl:1: the field '{name}' belongs to a prompt, but is not in the one that is read"):
        refuse_unread(record, prompt_of(record, settings), settings)
    ignoring = DataConfig(**config, ignored_fields=(name,))
    refuse_unread(record, prompt_of(record, ignoring), ignoring)


@pytest.mark.parametrize(
    ("values", "config"),
    [
        ({"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}], "system": " Be brief.\n"}, {}),
        ({"prompt": "Sum up.\n\nA text.", "instruction": "Sum up.", "input": "A text."}, {}),
        ({"prompt": "q", "system": "", "history": [], "input": "of another kind", "context": 5}, {}),
        ({"history": "q"}, {"prompt_field": "history"}),
    ],
)
def test_a_part_that_the_prompt_holds_is_read(values: dict[str, Any], config: dict[str, Any]) -> None:
    record, settings = Record(values, "p.jsonl:1"), DataConfig(**config)
    refuse_unread(record, prompt_of(record, settings), settings)


def test_every_kind_of_data_refuses_what_it_does_not_read(tokenizer: Any) -> None:
    facts = PolicyFacts(tokenizer, 64, (2,))
    record = {"prompt": "q", "response": "a", "chosen": "a", "rejected": "b", "system": "Be brief."}
    with pytest.raises(DataError, match="the field 'system' belongs to a prompt"):
        load_prompts(DataConfig(chat_template=False), facts, 8, 0, prompts=[record])
    with pytest.raises(DataError, match="the field 'system' belongs to a prompt"):
        load_demonstrations(DataConfig(type="demonstrations", chat_template=False), facts, 0, records=[record])
    config = RunConfig.parse({"policy": {"path": "x"}, "loss": {"type": "dpo"}, "data": {"type": "preferences", "chat_template": False}})
    with pytest.raises(DataError, match="the field 'system' belongs to a prompt"):
        load_run_data(config, PolicyFacts(tokenizer, 4096, (2,)), records=[record])


def test_chats_of_sharegpt() -> None:
    """``from`` and ``value``, spoken by human and gpt, are the user's and the assistant's turns."""
    chat = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
        {"from": "human", "value": "r"},
    ]
    expected = Chat.of([("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r")])
    assert read({"conversations": chat}, prompt_field="conversations") == expected
    with pytest.raises(DataError, match=r"message 0 must have a text 'role' and 'content', got \{'from': 'observation'"):
        read({"prompt": [{"from": "observation", "value": "19 C"}]})


@pytest.mark.parametrize(("role", "usual"), [("human", "user"), ("gpt", "assistant"), ("User", "user"), ("system ", "system")])
def test_a_role_that_no_template_knows_is_refused(role: str, usual: str) -> None:
    """ChatML's template writes any role, so the policy would read ``<|im_start|>human``."""
    with pytest.raises(DataError, match=rf"^p\.jsonl:1: message 0 has the role '{role}', which .*; write '{usual}'"):
        read({"prompt": [{"role": role, "content": "q"}]})


@pytest.mark.parametrize("text", ['[{"role": "user", "content": "q"}]', "[{'content': 'q', 'role': 'user'}\n {'content': 'a'}]"])
def test_a_chat_that_is_written_as_a_text_is_refused(text: str) -> None:
    """As a CSV file holds chats, in JSON or as Python and numpy write them."""
    with pytest.raises(DataError, match=r"^p\.jsonl:1: the prompt in field 'prompt' is a list of messages written as a text"):
        read({"prompt": text})
    with pytest.raises(DataError, match=r"^p\.jsonl:1: an answer \(field .*\) is a list of messages written as a text"):
        read_preferences(Record({"prompt": "q", "chosen": text, "rejected": "b"}, "p.jsonl:1"), DataConfig())


def test_tools_that_are_nested_too_deeply_are_refused() -> None:
    with pytest.raises(DataError, match=r"^p\.jsonl:1: 'tools' must be a list of mappings"):
        read({"prompt": "q", "tools": "[" * 100_000})
