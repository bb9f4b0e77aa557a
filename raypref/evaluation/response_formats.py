"""Reading and checking one record of each format of responses (the table is in ``raypref.evaluation.response_files``).

Sources: tatsu-lab/alpaca_eval ``main.py`` (``instruction``, ``output``, ``generator``); lmarena/arena-hard-auto ``gen_answer.py`` and
``show_result.py`` in v0.1 (``question_id``, ``choices``; ``token_len`` in the turn or in ``conv_metadata``) and since v2 (``uid``,
``messages`` that end with ``{"answer": text}``, ``metadata``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raypref.data.chats import Chat, shortened
from raypref.data.config import DataConfig
from raypref.data.identity import Turns, turns_of_prompt
from raypref.data.record_prompts import bare_text, chat_of, prompt_chat, read_chat, refuse_unread
from raypref.data.records import Record, id_text
from raypref.errors import DataError
from raypref.types import FinishReason


@dataclass(frozen=True, slots=True)
class Answers:
    """One prompt with a policy's responses."""

    place: str
    """``file:line``."""
    id: str | None
    """As the file gives it; None where it gives none."""
    prompt: str | None
    """The text that an oracle is shown; None where the file gives only the prompt's id."""
    responses: tuple[str, ...]
    tokens: tuple[int, ...] | None = None
    """Length of each response as the file counts it: in the policy's tokens (``raypref generate``) or tiktoken's (Arena-Hard)."""
    chat: Turns = ()
    """(role, content) of the prompt's turns where the file gives a chat."""
    finish_reasons: tuple[FinishReason, ...] | None = None
    policy: str | None = None
    """Name of the policy, where the file gives it."""

    @property
    def turns(self) -> Turns | None:
        """What was asked; None where the file gives only the prompt's id."""
        return None if self.prompt is None else turns_of_prompt(self.prompt, self.chat)


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompt of a question."""

    text: str
    """The text that an oracle is shown."""
    chat: Turns = ()
    """Its turns where the file gives a chat."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format of response files."""

    name: str
    """As ``--format`` takes it."""
    fields: tuple[str, ...]
    """Fields that identify it."""
    read: Callable[[Record], Answers]
    """Reads one of its records."""

    def fits(self, record: Record, *, filled: bool = True) -> bool:
        """Whether the record has each of the format's fields; with ``filled``, whether it has a value in each of them."""
        return all(field in record.values and not (filled and record.values[field] is None) for field in self.fields)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.fields)})"


def question_of(record: Record) -> tuple[str, Asked]:
    """Id and prompt of a question: question_id and turns, uid and prompt, or id and prompt, which is a text or chat messages.

    Raises:
        DataError: one of them is missing, or there is more than one turn.
    """
    values = record.values
    name = next((_id(record, key) for key in ("question_id", "uid", "id") if values.get(key) is not None), None)
    if name is None:
        raise DataError(f"{record.place}: a question needs question_id, uid or id; fields here: {', '.join(map(str, values))}")
    if values.get("prompt") is not None:
        prompt = prompt_in(record)
        return name, Asked(bare_text(prompt), chat_of(prompt))
    text = _text(_turn(values.get("turns"), record, "turns")["content"], record, "turns")
    _refuse_unread(record, text, "turns")
    return name, Asked(text)


def _generated(record: Record) -> Answers:
    """``raypref generate``: for each response, the answer after the last revision, and its length."""
    answers = _prompt_and_responses(Record({**record.values, "tokens": None}, record.place), many=True)
    counts = tuple(_counts(chain, record, "tokens")[-1] for chain in _sequence(record, "tokens"))
    return _with_ends(replace(answers, tokens=counts), record)


def _with_ends(answers: Answers, record: Record) -> Answers:
    """The answers with the record's ``finish_reasons``.

    Raises:
        DataError: one of them is unknown, or responses, tokens and reasons differ in number.
    """
    reasons = tuple(_sequence(record, "finish_reasons"))
    if unknown := [reason for reason in reasons if reason not in ("stop", "length")]:
        raise DataError(f"{record.place}: 'finish_reasons' must be stop or length, got {shortened(unknown)}")
    counts = answers.tokens or ()
    if not len(counts) == len(reasons) == len(answers.responses):
        raise DataError(f"{record.place}: {len(answers.responses)} responses, {len(counts)} tokens, {len(reasons)} finish_reasons")
    return replace(answers, finish_reasons=reasons)


def _rollout(record: Record) -> Answers:
    """A run's ``rollouts/`` (``raypref.output.columns``): an oracle is shown the turns of a chat, as in the run."""
    chat = _sequence(record, "chat")
    asked = {"prompt": chat or record.values["prompt"], "responses": record.values["responses"]}
    answers = _prompt_and_responses(Record(asked, record.place), many=True)
    tokens = _sequence(record, "response_token_ids")
    if not all(isinstance(ids, Sequence) for ids in tokens):
        raise DataError(f"{record.place}: 'response_token_ids' must hold a list of ids for each response, got {shortened(tokens)}")
    return _with_ends(replace(answers, tokens=tuple(map(len, tokens))), record)


def _alpaca_eval(record: Record) -> Answers:
    """A non-empty ``input``, as in AlpacaFarm's older files, follows the instruction after an empty line."""
    values = record.values
    text = _text(values["instruction"], record, "instruction")
    if values.get("input"):
        text = f"{text}\n\n{_text(values['input'], record, 'input')}"
    asked = _with_tools(text, record)
    _refuse_unread(record, asked, "instruction")
    output = _text(values["output"], record, "output", empty=True)
    return Answers(record.place, None, bare_text(asked), (output,), chat=chat_of(asked), policy=_name(values, "generator"))


def _arena_hard_v01(record: Record) -> Answers:
    values = record.values
    turns = [
        _turn(_mapping(choice, record, "choices[]").get("turns"), record, "choices[].turns") for choice in _sequence(record, "choices")
    ]
    texts = tuple(_text(turn["content"], record, "turns[].content", empty=True) for turn in turns)
    if not texts:
        raise DataError(f"{record.place}: 'choices' is empty")
    counts = [turn.get("token_len") for turn in turns]
    if counts == [None]:
        counts = [_mapping(values.get("conv_metadata") or {}, record, "conv_metadata").get("token_len")]
    tokens = None if None in counts else _counts(counts, record, "token_len")
    return Answers(record.place, _id(record, "question_id"), None, texts, tokens, policy=_name(values, "model_id"))


def _arena_hard_v2(record: Record) -> Answers:
    values = record.values
    messages = _sequence(record, "messages")
    if len(messages) < 2 or _mapping(messages[-1], record, "messages[-1]").get("role") != "assistant":
        raise DataError(f"{record.place}: 'messages' must be a question and the assistant's answer, got {messages!r}")
    asked = prompt_chat(read_chat(messages[:-1], record, _READ), record.place)
    _refuse_unread(record, asked, "messages")
    content = messages[-1].get("content")
    text = _text(content.get("answer") if isinstance(content, Mapping) else content, record, "messages[-1].content", empty=True)
    count = _mapping(values.get("metadata") or {}, record, "metadata").get("token_len")
    tokens = None if count is None else _counts([count], record, "metadata.token_len")
    name = _name(values, "model")
    return Answers(record.place, _id(record, "uid"), bare_text(asked), (text,), tokens, chat=chat_of(asked), policy=name)


def _prompt_and_responses(record: Record, *, many: bool) -> Answers:
    values = record.values
    prompt = prompt_in(record)
    texts = _sequence(record, "responses") if many else [values["response"]]
    responses = tuple(_text(text, record, "responses" if many else "response", empty=True) for text in texts)
    if not responses:
        raise DataError(f"{record.place}: 'responses' is empty")
    count = values.get("tokens")
    tokens = None if count is None else _counts(count if many else [count], record, "tokens")
    if tokens is not None and len(tokens) != len(responses):
        raise DataError(f"{record.place}: {len(responses)} responses, {len(tokens)} tokens")
    return Answers(
        record.place,
        _id(record, "id") if values.get("id") is not None else None,
        bare_text(prompt),
        responses,
        tokens,
        chat=chat_of(prompt),
    )


FORMATS: tuple[Format, ...] = (
    Format("generate", ("prompt", "responses", "revisions", "tokens", "finish_reasons"), _generated),
    Format("alpaca_eval", ("instruction", "output"), _alpaca_eval),
    Format("arena_hard_v01", ("question_id", "choices"), _arena_hard_v01),
    Format("arena_hard", ("uid", "messages"), _arena_hard_v2),
    Format("responses", ("prompt", "responses"), partial(_prompt_and_responses, many=True)),
    Format("response", ("prompt", "response"), partial(_prompt_and_responses, many=False)),
    Format("rollouts", ("prompt", "chat", "responses", "response_token_ids", "finish_reasons"), _rollout),
)
"""All formats."""


def formats_of(record: Record) -> list[Format]:
    """The formats that a record fits, without those that ask for a part of another one's fields."""
    fitting = [each for each in FORMATS if each.fits(record)] or [each for each in FORMATS if each.fits(record, filled=False)]
    return [each for each in fitting if not any(set(each.fields) < set(other.fields) for other in fitting)]


def prompt_in(record: Record) -> str | Chat:
    """The field ``prompt``: a text, or a chat, with the record's ``tools``, as a run reads them.

    Raises:
        DataError: it is neither, is empty, or does not hold what other fields say of the prompt (``refuse_unread``).
    """
    value = record.values["prompt"]
    prompt: str | Chat
    if isinstance(value, str):
        prompt = _with_tools(_text(value, record, "prompt", empty=not value), record)
    elif isinstance(value, Sequence) and value:
        prompt = prompt_chat(read_chat(value, record, _READ), record.place)
    else:
        raise DataError(f"{record.place}: 'prompt' must be a text or a list of chat messages, got {value!r}")
    _refuse_unread(record, prompt, "prompt")
    return prompt


_READ = DataConfig()
"""How a run reads records whose fields have the usual names."""


def _with_tools(text: str, record: Record) -> str | Chat:
    chat = read_chat([{"role": "user", "content": text}], record, _READ)
    return chat if chat.tools else text


def _refuse_unread(record: Record, prompt: str | Chat, field: str) -> None:
    config = _READ if field == "prompt" else _READ.model_copy(update={"prompt_field": field})
    refuse_unread(record, prompt, config, otherwise="leave the field out of the file")


def _text(value: Any, record: Record, field: str, *, empty: bool = False) -> str:
    """A text. A response may be empty (``empty=True``), and a prompt may be the text ''; one of blanks alone may not."""
    if not isinstance(value, str):
        raise DataError(f"{record.place}: {field!r} must be a text, got {value!r}")
    if not (empty or value.strip()):
        raise DataError(f"{record.place}: {field!r} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{record.place}: {field!r} holds invalid Unicode (half a surrogate pair) at position {error.start}") from error
    return value


def _turn(turns: Any, record: Record, field: str) -> Mapping[str, Any]:
    """The single turn of a conversation: a mapping or a bare text."""
    if not isinstance(turns, Sequence) or isinstance(turns, str) or len(turns) != 1:
        raise DataError(f"{record.place}: {field!r} must hold one turn, got {turns!r}")
    turn = turns[0] if isinstance(turns[0], Mapping) else {"content": turns[0]}
    return {"content": None, **turn}


def _mapping(value: Any, record: Record, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{record.place}: {field!r} must be an object, got {value!r}")
    return value


def _sequence(record: Record, field: str) -> Sequence[Any]:
    value = record.values.get(field)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{record.place}: {field!r} must be a list, got {value!r}")
    return value


def _counts(values: Any, record: Record, field: str) -> tuple[int, ...]:
    counted = isinstance(values, Sequence) and len(values) > 0
    if not counted or any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in values):
        raise DataError(f"{record.place}: {field!r} must be counts of tokens, got {values!r}")
    return tuple(values)


def _name(values: Mapping[str, Any], field: str) -> str | None:
    """A name or an id as text; None where there is none."""
    value = values.get(field)
    return None if value is None else id_text(value) or str(value)


def _id(record: Record, field: str) -> str:
    """The id of a record that has one."""
    name = id_text(record.values.get(field))
    if name is None:
        raise DataError(f"{record.place}: {field!r} must be a text or a number, got {shortened(record.values.get(field))}")
    return name
