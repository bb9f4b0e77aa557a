"""A chat as the data gives it: every message with all of its keys, and the tools that the record offers.

Nothing of a message is left out silently. ``chat_of_messages`` refuses what is no message, ``Chat.shown`` writes everything for an oracle,
and ``unwritten`` finds what a chat template does not write for the policy.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from raypref.errors import DataError

Message = Mapping[str, Any]
"""``role`` and ``content`` are texts. Further keys, such as ``tool_calls`` and ``name``, are there if the data has them."""

SILENT_KEYS = frozenset({"tool_call_id"})
"""Keys that a chat template may leave unwritten: a tool's answer follows its call, and most templates show that by the order alone."""

_PLAIN = {"role", "content"}
_ROLE_OF = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
"""Role of a speaker in ShareGPT's chats, whose messages have ``from`` and ``value``."""
_WRITTEN = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content|from|value)["']\s*:""")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 5, 12, 12, 12, 200, 200


@dataclass(frozen=True, slots=True)
class Chat(Sequence[Message]):
    """A conversation: a sequence of messages."""

    turns: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Descriptions of the tools that may be called, as the record gives them; a chat template writes them."""

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Message, ...]: ...
    def __getitem__(self, index: int | slice) -> Message | tuple[Message, ...]:
        return self.turns[index]

    def __len__(self) -> int:
        return len(self.turns)

    @classmethod
    def of(cls, turns: Iterable[tuple[str, str]]) -> Chat:
        """A chat of (role, content)."""
        return cls(tuple({"role": role, "content": content} for role, content in turns))

    def followed_by(self, *turns: Message) -> Chat:
        """The chat with more turns, and the same tools."""
        return Chat((*self.turns, *turns), self.tools)

    @property
    def is_plain(self) -> bool:
        """Whether role and content are all that it holds."""
        return not self.tools and all(turn.keys() <= _PLAIN for turn in self.turns)

    def shown(self) -> tuple[tuple[str, str], ...]:
        """(role, content) of each turn, for an oracle. Further keys are written below the content; tools below the system's turn."""
        turns = [(turn["role"], _with_keys(turn)) for turn in self.turns]
        if self.tools:
            tools = f"tools: {_json(self.tools)}"
            begins = bool(turns) and turns[0][0] == "system"
            turns[: int(begins)] = [("system", f"{turns[0][1]}\n\n{tools}" if begins else tools)]
        return tuple(turns)


def chat_of_messages(messages: Any, place: str, tools: Any = None, dropped: Collection[str] = ()) -> Chat:
    """A chat from what a record holds, checked.

    Keys without a value (null, or an empty list, as a Parquet file fills them in) count as absent. Content parts of type ``text`` are put
    together; a message that calls tools may have no content.

    Args:
        messages: a list of messages.
        place: of the record.
        tools: the record's ``tools``: a list of mappings, or such a list as JSON.
        dropped: keys of messages that are left out (``data.dropped_message_keys``).

    Raises:
        DataError: a message has no role or no content, or has content that is no text (an image); the message is named.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise DataError(f"{place}: expected a list of chat messages, got {shortened(messages)}")
    return Chat(tuple(_message(turn, number, place, dropped) for number, turn in enumerate(messages)), _tools(tools, place))


def unwritten(chat: Chat, text: str, render: Callable[[Chat], str]) -> str | None:
    """What a chat template leaves out of its text, in words; None where everything is written.

    A part is left out if the text is the same without it. Contents of user and assistant are not looked at: templates write them, except
    for thoughts of earlier turns, which some leave out on purpose.

    Args:
        chat: what was rendered.
        text: its rendered text.
        render: renders a chat like that.
    """
    if chat.tools and render(Chat(chat.turns)) == text:
        return "the record's 'tools'"
    for number, turn in enumerate(chat.turns):
        unseen = turn["role"] not in ("user", "assistant") and turn["content"].strip() not in text
        if unseen and _without(chat, number, {**turn, "content": ""}, render) == text:
            return f"message {number} (role {turn['role']!r})"
        for key in sorted(turn.keys() - _PLAIN - SILENT_KEYS):
            if _without(chat, number, {name: value for name, value in turn.items() if name != key}, render) == text:
                return f"{key!r} of message {number} (role {turn['role']!r})"
    return None


def refuse_written_chat(text: str, place: str, name: str) -> None:
    """Refuse a chat that is written as a text, as a CSV file holds it: the policy would read brackets and quotes.

    Raises:
        DataError: the text begins with a list of messages.
    """
    if _WRITTEN.match(text):
        raise DataError(
            f"{place}: {name} is a list of messages written as a text, {shortened(text, 80)}; give it as a list (JSON lines, Parquet)"
        )


def shortened(value: Any, most: int = 200) -> str:
    """A value as an error message shows it: cut where it is long or deep."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # a number of more digits than Python writes
        text = f"a {type(value).__name__} with a number of more than 4,300 digits"
    return text if len(text) <= most else f"{text[:most]}..."


def _without(chat: Chat, number: int, turn: Message, render: Callable[[Chat], str]) -> str | None:
    """The text with another message in one place; None where the template refuses it, which shows that the template reads it."""
    try:
        return render(Chat((*chat.turns[:number], turn, *chat.turns[number + 1 :]), chat.tools))
    except DataError:
        return None


def _message(turn: Any, number: int, place: str, dropped: Collection[str]) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{place}: message {number} must have a text 'role' and 'content', got {shortened(turn)}")
    kept = {str(key): value for key, value in turn.items() if value is not None and value != [] and key not in dropped}
    if "from" in kept and "value" in kept and not kept.keys() & _PLAIN:
        kept = {"role": _ROLE_OF.get(str(kept.pop("from"))), "content": kept.pop("value"), **kept}
    role, content = kept.get("role"), kept.get("content", "" if "tool_calls" in kept else None)
    if isinstance(content, list | tuple):
        content = "".join(_part(part, number, place) for part in content)
    if not isinstance(role, str) or not role.strip() or not isinstance(content, str):
        raise DataError(f"{place}: message {number} must have a text 'role' and 'content', got {shortened(turn)}")
    if (usual := _ROLE_OF.get(role.strip().lower(), role)) != role:
        raise DataError(f"{place}: message {number} has the role {role!r}, which chat templates do not know; write {usual!r}")
    return {**kept, "role": role, "content": content}


def _part(part: Any, number: int, place: str) -> str:
    """The text of a content part."""
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        further = {key for key, value in part.items() if value is not None} - {"type", "text"}
        if not further:
            return str(part["text"])
    raise DataError(
        f"{place}: message {number} has a content part that is no text, got {shortened(part)}; only "
        f"{{'type': 'text', 'text': ...}} is understood"
    )


def _tools(tools: Any, place: str) -> tuple[Mapping[str, Any], ...]:
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: 'tools' must be a list of mappings, or such a list as JSON, got {shortened(tools)}") from error
    if tools is None or tools == "" or tools == []:
        return ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"{place}: 'tools' must be a list of mappings, got {shortened(tools)}")
    return tuple(_pruned(tool) for tool in tools)


def _pruned(value: Any) -> Any:
    """Without the nulls that a Parquet file fills in where other records have a key."""
    if isinstance(value, Mapping):
        return {key: _pruned(item) for key, item in value.items() if item is not None}
    return [_pruned(item) for item in value] if isinstance(value, list | tuple) else value


def _with_keys(turn: Message) -> str:
    return "\n".join(filter(None, [turn["content"], *_further(turn)]))


def _further(turn: Message) -> Iterator[str]:
    for key, value in turn.items():
        if key not in _PLAIN:
            yield f"{key}: {value if isinstance(value, str) else _json(value)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
