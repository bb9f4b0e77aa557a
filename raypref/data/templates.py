"""Templates (``data.template``): prompts that hold an earlier answer, and first prompts that are composed from a record's fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from raypref.data.chats import Chat
from raypref.errors import ConfigError


class Template(Protocol):
    """How a prompt asks for a revision of an earlier answer."""

    def compose(self, values: Mapping[str, Any]) -> str | None:
        """The first prompt of a record that has none, or None where the record lacks the template's fields."""
        ...

    def revise(self, prompt: str | Chat, answer: str) -> str | Chat:
        """The prompt that asks for a revision of ``answer``."""
        ...


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary after ``TL;DR:``; the earlier one stands before it as EXAMPLE SUMMARY.

    Source: SRPO Appendix C.1. The paper's text is kept to the letter ("a both precise and concise summary").
    """

    what: str
    """``reddit POST`` or ``news ARTICLE``."""
    fields: tuple[tuple[str, str], ...]
    """(record's field, its label in the prompt), in the prompt's order."""

    def compose(self, values: Mapping[str, Any]) -> str | None:
        """Fields stand in the record, or in its ``info`` (the layout of openai/summarize_from_feedback)."""
        info = values.get("info")
        known = {**(info if isinstance(info, Mapping) else {}), **values}
        if any(not isinstance(known.get(field), str) for field, _ in self.fields):
            return None
        lines = [f"{label}: {known[field].strip()}" for field, label in self.fields]
        return "\n".join([self._opening(f"{self._given()} and TITLE"), *lines, "TL;DR:"])

    def revise(self, prompt: str | Chat, answer: str) -> str:
        """The prompt for a revision, with the opening sentence also where the first prompt lacks it.

        Raises:
            ConfigError: the prompt is a chat.
        """
        if not isinstance(prompt, str):
            raise ConfigError("data.template: 'tldr' and 'xsum' are for plain prompts, the data holds chats; set data.template=chat")
        body = prompt.removeprefix(self._opening(f"{self._given()} and TITLE")).strip().removesuffix("TL;DR:").rstrip()
        opening = self._opening(f"{self._given()}, TITLE, and an EXAMPLE SUMMARY")
        return "\n".join([opening, body, f"EXAMPLE SUMMARY: {answer.strip()}", "TL;DR:"])

    def _given(self) -> str:
        return f"corresponding {self.fields[0][1]}"

    def _opening(self, given: str) -> str:
        document = self.what.split()[-1]
        return f"Below is a {self.what} and the {given}. Write a both precise and concise summary of the contents of the {document}."


@dataclass(frozen=True, slots=True)
class Continuation:
    """Continues the conversation: the earlier answer is the assistant's turn, and the user asks for a better one. Not from a paper."""

    request: str = "Please improve your answer. Reply with the improved answer alone."

    def compose(self, values: Mapping[str, Any]) -> None:
        """None: the prompt is in the data."""
        return None

    def revise(self, prompt: str | Chat, answer: str) -> Chat:
        chat = Chat.of([("user", prompt)]) if isinstance(prompt, str) else prompt
        return chat.followed_by({"role": "assistant", "content": answer}, {"role": "user", "content": self.request})


@dataclass(frozen=True, slots=True)
class Plain:
    """A user's text with {prompt} and {answer}."""

    text: str

    def compose(self, values: Mapping[str, Any]) -> None:
        """None: the prompt is in the data."""
        return None

    def revise(self, prompt: str | Chat, answer: str) -> str:
        if not isinstance(prompt, str):
            raise ConfigError(
                "data.template: a text with {prompt} and {answer} is for plain prompts, the data holds chats; set data.template=chat"
            )
        before, _, after = self.text.partition("{answer}")
        return before.replace("{prompt}", prompt) + answer + after.replace("{prompt}", prompt)


_NAMED: Mapping[str, Template] = {
    "tldr": Summary("reddit POST", (("subreddit", "SUBREDDIT"), ("title", "TITLE"), ("post", "POST"))),
    "xsum": Summary("news ARTICLE", (("id", "ID"), ("title", "TITLE"), ("article", "ARTICLE"))),
    "chat": Continuation(),
}


def template_of(name: str) -> Template:
    """The template of ``data.template``.

    Raises:
        ConfigError: it is neither a known name nor a text with {prompt} and one {answer}.
    """
    if name in _NAMED:
        return _NAMED[name]
    if "{prompt}" not in name or name.count("{answer}") != 1:
        raise ConfigError(f"data.template: {name!r} is neither one of {', '.join(_NAMED)} nor a text with {{prompt}} and one {{answer}}")
    return Plain(name)
