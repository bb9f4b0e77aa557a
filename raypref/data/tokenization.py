"""Where text becomes token ids: everything that the policy reads, and given answers as the policy itself would have written them.

prompt (text or chat) --prompt_text--> text --encode--> token ids
prompt and answers    --given_text---> texts --encode_given--> token ids of the prompt and of each response

With a chat template, the tokens of a prompt and its response are those of ``apply_chat_template`` on the whole chat, up to and including
the first end token behind the prompt. The prompt is what the template writes with its generation prompt. The exceptions:

| case | prompt and response |
| --- | --- |
| the template does not write the answer right after the prompt, or drops a part of it | the record is refused |
| the template has no generation prompt | the assistant's header belongs to the response, as the template writes it |
| the template writes an empty thought before an answer | it belongs to the response |
| the template writes no end token behind the answer | the response ends with the answer; an end token is added |
| the tokenizer merges the prompt's end and the answer's beginning into one token | both are tokenised alone |
| an answer ends with an end token | it is the end that the template writes, and is not written twice |
| an end token stands inside an answer | the record is refused |
| a control token is spelt out in the data | it is plain text, unless ``data.special_tokens`` says otherwise |

Plain text gets what the tokenizer puts before it, but no end token behind a prompt; an answer ends with ``PolicyFacts.plain_end``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.data.chat_template import AssistantTurn, assistant_turn, render, written_response
from raypref.data.chats import Chat, unwritten
from raypref.data.config import DataConfig
from raypref.data.control_tokens import ControlTokens
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import ConfigError, DataError

Tokens = NDArray[np.int32]

BATCH = 1000
"""Texts that are given to the tokenizer at once. What it returns in addition to the ids takes much memory."""

_IDS = {"add_special_tokens": False, "verbose": False}
"""Without what the tokenizer puts around a text, and without its warning that a long text "will result in indexing errors": such a text
is left out or refused."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GivenText:
    """A prompt and given answers as the policy would read and write them."""

    prompt: str
    answers: tuple[str, ...]
    """As the data gives them, without an end token; what a sampled answer is decoded to."""
    responses: tuple[str, ...]
    """Behind ``prompt``; up to and including the end token if ``ended``."""
    ended: tuple[bool, ...]
    """Whether the response's text has its end token; otherwise one is added to its ids."""


class PolicyTokenizer:
    """The policy's tokenizer, as one run uses it."""

    def __init__(self, config: DataConfig, facts: PolicyFacts) -> None:
        """
        Args:
            config: the data section.
            facts: the policy's tokenizer and end tokens.
        """
        self._config = config
        self._facts = facts
        self._tokenizer = facts.tokenizer
        self._control = ControlTokens(facts.tokenizer, facts.end_token_ids)
        self._warned = False

    def prompt_text(self, prompt: str | Chat, place: str) -> str:
        """The text that the policy is given: the chat template applied up to where the answer begins, or the plain text.

        Raises:
            ConfigError: there is no chat template.
            DataError: the template refuses the chat, or leaves a part of it out; the prompt is a chat and ``data.chat_template`` is off;
                or a control token is spelt out and ``data.special_tokens`` is ``refuse``.
        """
        prompt = self._hidden(self._framed(prompt, place), place)
        if not self._config.chat_template:
            if not isinstance(prompt, str):
                raise DataError(f"{place}: chat messages need a chat template; set data.chat_template=true, or give plain text")
            if not prompt and not any(self._put_around()):
                raise DataError(f"{place}: the prompt is empty, and the tokenizer puts no token before a text; a policy needs at least one")
            return prompt
        return self._chat_text(_as_chat(prompt), place)

    def given_text(self, prompt: str | Chat, answers: Sequence[str], place: str) -> GivenText:
        """A prompt and the answers that the data gives, as texts; see the table above.

        Raises:
            ConfigError, DataError: as ``prompt_text``. Or the template does not write an answer right after its prompt, or leaves a part
                of it out, or an end token stands inside an answer.
        """
        bare = tuple(self.answer_text(answer, place) for answer in answers)
        answers = [self._hidden(answer, place) for answer in bare]
        text = self.prompt_text(prompt, place)
        if not self._config.chat_template:
            return GivenText(text, bare, tuple(answers), (False,) * len(answers))
        chat = _as_chat(self._hidden(self._framed(prompt, place), place))
        wholes = render(
            self._tokenizer,
            [chat.followed_by({"role": "assistant", "content": answer}) for answer in answers],
            place,
            generation_prompt=False,
        )
        responses = [
            written_response(self._tokenizer, self._control, chat, text, answer, whole, place)
            for answer, whole in zip(answers, wholes, strict=True)
        ]
        return GivenText(text, bare, tuple(response for response, _ in responses), tuple(ended for _, ended in responses))

    def answer_text(self, answer: str, place: str) -> str:
        """A given answer without the end token at its end, as a sampled answer is decoded.

        Raises:
            DataError: nothing is left of it, or an end token stands inside it.
        """
        text = self._control.without_end(answer)
        if not text.strip():
            raise DataError(f"{place}: an answer must be a text that is not empty, got {answer!r}")
        if (end := self._control.end_in(text)) is not None:
            raise DataError(
                f"{place}: the answer contains the end token {end!r} {_around(text, end)}; the policy would have stopped there; "
                f"cut the answer there, or reword it"
            )
        return text

    def as_text(self, text: str) -> str:
        """The text with control tokens read as plain text, whatever the config says: for an answer of the policy, an oracle's question."""
        return self._control.hide(text)

    def turn_content(self, answer: str) -> str:
        """A sampled answer without what the chat template itself writes around one, so that it can be a turn of another prompt."""
        if not self._config.chat_template or (turn := self._turn) is None:
            return answer
        return answer.removeprefix(turn.before).removesuffix(turn.after)

    def prompt_ids(self, prompt: str | Chat, place: str) -> Tokens:
        """Token ids of one prompt; raises as ``prompt_text``."""
        return self.encode([self.prompt_text(prompt, place)])[0]

    def encode(self, texts: Iterable[str]) -> list[Tokens]:
        """Token ids of texts from ``prompt_text``: (T,) each."""
        texts = list(texts)
        return [ids for k in range(0, len(texts), BATCH) for ids in self._encode_batch(texts[k : k + BATCH])]

    def encode_given(self, given: Sequence[GivenText]) -> list[tuple[Tokens, tuple[Tokens, ...]]]:
        """Token ids of each prompt and its responses; a response ends with its end token (no other: ``check_end``)."""
        prompts = self.encode(item.prompt for item in given)
        wholes = iter(self.encode(item.prompt + response for item in given for response in item.responses))
        return [
            (prompt, tuple(self._response_ids(prompt, next(wholes), *each) for each in zip(item.responses, item.ended, strict=True)))
            for prompt, item in zip(prompts, given, strict=True)
        ]

    @cached_property
    def _turn(self) -> AssistantTurn | None:
        """What the template writes around an answer, up to its end token, as it is decoded."""
        if (turn := assistant_turn(self._tokenizer)) is None:
            return None
        end = self._control.end_in(turn.after)
        after = turn.after[: turn.after.index(end)] if end else ""
        before, after = (self._tokenizer.decode(self._bare(text), skip_special_tokens=True) for text in (turn.before, after))
        return replace(turn, before=before, after=after)

    def _framed(self, prompt: str | Chat, place: str) -> str | Chat:
        """The prompt within ``data.frame``, which oracles are not shown.

        Raises:
            DataError: the prompt is a chat.
        """
        if self._config.frame is None:
            return prompt
        if not isinstance(prompt, str):
            raise DataError(f"{place}: data.frame stands around a text, and the prompt is a chat; give texts, or leave data.frame out")
        return self._config.frame.replace("{prompt}", prompt)

    def _chat_text(self, chat: Chat, place: str) -> str:
        def rendered(shown: Chat) -> str:
            return render(self._tokenizer, [shown], place, generation_prompt=True)[0]

        text = rendered(chat)
        if (missing := unwritten(chat, text, rendered)) is not None:
            raise DataError(
                f"{place}: the tokenizer's chat template does not write {missing}; leave it out of the data, or give another template"
            )
        return text

    def _hidden(self, value: Any, place: str) -> Any:
        """A text or a chat with marks in place of the control tokens that it spells out, or as it is if the config allows them."""
        if self._config.special_tokens == "allow":
            return value
        if isinstance(value, Chat):
            return Chat(self._hidden(value.turns, place), self._hidden(value.tools, place))
        if isinstance(value, str):
            return value if (name := self._control.spelt(value)) is None else self._hide(value, name, place)
        if isinstance(value, dict):
            return {self._hidden(key, place): self._hidden(item, place) for key, item in value.items()}
        return type(value)(self._hidden(item, place) for item in value) if isinstance(value, list | tuple) else value

    def _hide(self, text: str, name: str, place: str) -> str:
        if self._config.special_tokens == "refuse":
            raise DataError(
                f"{place}: the text spells out the control token {name!r}, {_around(text, name)}; remove it, or set "
                f"data.special_tokens=text (it is plain text) or =allow (it is the token)"
            )
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: the text spells out the control token %r, which is read as plain text, here and in other records; "
                "data.special_tokens=allow makes it the token",
                place,
                name,
            )
        return self._control.hide(text)

    def _encode_batch(self, texts: list[str]) -> list[Tokens]:
        """A chat template writes its own special tokens; plain text gets the tokenizer's, but no end token behind it.

        What the text already begins with (``data.special_tokens: allow``) is not put before it again.
        """
        before, after = ([], []) if self._config.chat_template else self._put_around()
        marked = [self._control.hidden_in(text) for text in texts]
        ordinary = iter(self._ids([text for text, hidden in zip(texts, marked, strict=True) if not hidden]))
        every = [self._control.encode(text) if hidden else next(ordinary) for text, hidden in zip(texts, marked, strict=True)]
        if before or after:
            every = [[*([] if ids[: len(before)] == before else before), *ids, *after] for ids in every]
        return [np.array(ids, dtype=np.int32) for ids in every]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts without marks. A fast tokenizer is asked directly, once it is set up: that halves the time of long lists."""
        if len(texts) < 2 or not getattr(self._tokenizer, "is_fast", False):
            ids: list[list[int]] = self._tokenizer(texts, **_IDS)["input_ids"] if texts else []
            return ids
        first = self._tokenizer(texts[:1], **_IDS)["input_ids"]  # sets truncation, padding and special tokens
        rest = self._tokenizer.backend_tokenizer.encode_batch_fast(texts[1:], add_special_tokens=False)
        return [*first, *(encoding.ids for encoding in rest)]

    def _put_around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and behind a plain text, without end tokens behind it.

        Raises:
            ConfigError: a plain letter is nothing to the tokenizer.
        """
        bare: list[int] = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        full: list[int] = self._tokenizer("a")["input_ids"]
        start = next((k for k in range(len(full)) if bare and full[k : k + len(bare)] == bare), None)
        if start is None:
            raise ConfigError(
                f"policy.tokenizer: it reads the text 'a' as the ids {full}, and as {bare} without special tokens, so what it puts around "
                f"a text is unknown; check that the tokenizer is the policy's"
            )
        before, after = full[:start], full[start + len(bare) :]
        while after and after[-1] in self._facts.end_token_ids:
            after = after[:-1]
        return before, after

    def _response_ids(self, prompt: Tokens, whole: Tokens, response: str, ended: bool) -> Tokens:
        fits = len(whole) > len(prompt) and np.array_equal(whole[: len(prompt)], prompt)
        ids = whole[len(prompt) :] if fits else self._continued(response)
        if ended and ids[-1] in self._facts.end_token_ids:
            return ids
        end = self._facts.plain_end
        return ids if len(ids) and ids[-1] == end else np.append(ids, np.int32(end))

    def _continued(self, text: str) -> Tokens:
        """Token ids of a text that continues another one, without the space that some tokenizers put before a text's first word."""
        for before in ("\n", "a", "."):
            first, both = self._bare(before), self._bare(before + text)
            if len(both) > len(first) and both[: len(first)] == first:
                return np.array(both[len(first) :], dtype=np.int32)
        return np.array(self._bare(text), dtype=np.int32)

    def _bare(self, text: str) -> list[int]:
        if self._control.hidden_in(text):
            return self._control.encode(text)
        ids: list[int] = self._tokenizer(text, **_IDS)["input_ids"]
        return ids


def _as_chat(prompt: str | Chat) -> Chat:
    return Chat.of([("user", prompt)]) if isinstance(prompt, str) else prompt


def _around(text: str, name: str) -> str:
    """The name with some characters around it, for a message."""
    at = text.index(name)
    return f"at character {at}: {text[max(at - 30, 0) : at + len(name) + 30]!r}"
