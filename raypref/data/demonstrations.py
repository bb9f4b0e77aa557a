"""Given answers as training examples, for supervised fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.held_out import set_apart
from raypref.data.identity import Turns, content_id, turns_of_prompt, without_held_out
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import bare_text, chat_of, make_prompt, refuse_unread
from raypref.data.records import BadRecords, Record, field_of, name_record, read_source
from raypref.data.shared_turns import prompt_and_answers
from raypref.data.token_checks import LeftOut, blocks, check_end, check_ids, check_length, check_text
from raypref.data.tokenization import GivenText, PolicyTokenizer, Tokens
from raypref.errors import DataError
from raypref.types import Example, Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DemonstrationData:
    """A run's demonstrations."""

    examples: list[Example]
    """In the order in which the run takes them."""
    overlong: int
    """Demonstrations, of both kinds, that are longer than the context."""
    skipped: int
    """Records, of both kinds, that could not be used (``data.on_bad_record: skip``)."""
    held_out: list[Prompt]
    """The prompts of the held-out records, in the data's order."""
    held_out_examples: list[Example]
    """Of the held-out records, in the same order; never trained on."""


def load_demonstrations(
    config: DataConfig, facts: PolicyFacts, seed: int, *, records: Any = None, held_out: Sequence[Prompt] = ()
) -> list[Example]:
    """The examples of ``read_demonstrations``."""
    return read_demonstrations(config, facts, seed, records=records, held_out=held_out).examples


def read_demonstrations(
    config: DataConfig,
    facts: PolicyFacts,
    seed: int,
    *,
    records: Any = None,
    held_out: Sequence[Prompt] = (),
    held_out_records: Sequence[Record] | None = None,
) -> DemonstrationData:
    """Prompts with their answers, as examples of one sequence each. An answer is a text, or a chat with or without the prompt's turns.

    An answer ends as the policy's own would (``raypref.data.tokenization``), so that the policy learns to stop. A prompt and answer that
    exceed the context together are dropped (the number is logged) or refused, as ``config.overlong`` says.

    Args:
        config: the data section.
        facts: the policy's tokenizer, context and end tokens.
        seed: the seed of the shuffle.
        records: instead of ``config.path``; ``raypref.data.objects`` lists what is accepted.
        held_out: prompts for evaluation, which are not trained on.
        held_out_records: demonstrations for evaluation, of which the first ``config.held_out_prompts`` are taken (0: all); None: the last
            ``config.held_out_prompts`` of the data are set apart.

    Raises:
        DataError: a line is broken, a field is missing or empty, an id occurs twice, or a demonstration is too long; the message names
            file and line. Or no demonstration is left.
        ConfigError: no data is given, or the tokenizer has no chat template.
    """
    bad, bad_apart = (BadRecords(config.on_bad_record == "skip") for _ in range(2))
    given = list(_given(config, facts, records, bad))
    if held_out_records is None:
        given, apart = set_apart(given, 0 if config.held_out is not None else config.held_out_prompts, "records")
    else:
        apart = list(_given(config, facts, held_out_records, bad_apart))[: config.held_out_prompts or None] if held_out_records else []
    bad.report("data.path")
    bad_apart.report("data.held_out")
    prompts_apart = [make_prompt(k, item.name, item.source, item.prompt) for k, item in enumerate(apart)]
    given = without_held_out(given, [*prompts_apart, *held_out], lambda item: item.turns)
    examples = _examples(given, config, facts.context_tokens, "data.path")
    held_out_examples = _examples(apart, config, facts.context_tokens, "data.held_out") if apart else []
    order = np.random.default_rng(seed).permutation(len(examples)) if config.shuffle else np.arange(len(examples))
    return DemonstrationData(
        examples=[replace(examples[int(k)], prompt_index=index) for index, k in enumerate(order)],
        overlong=len(given) - len(examples) + len(apart) - len(held_out_examples),
        skipped=bad.count + bad_apart.count,
        held_out=prompts_apart,
        held_out_examples=held_out_examples,
    )


def load_texts(path: str, config: DataConfig, facts: PolicyFacts) -> tuple[list[Example], list[Prompt]]:
    """Held-out prompts with their answers, whose likelihood is measured, and the prompts, which are not trained on.

    Args:
        path: ``evaluation.texts``.
        config: the data section: fields, tokenization, and what becomes of records that cannot be used.
        facts: the policy's tokenizer, context and end tokens.

    Raises:
        DataError, ConfigError: as ``read_demonstrations``.
    """
    key, bad = "evaluation.texts", BadRecords(config.on_bad_record == "skip")
    if Path(path).expanduser().is_file():
        config = config.model_copy(update={"split": "", "subset": None})  # those are parts of ``data.path``; a file has none
    given = list(_given(config, facts, list(read_source(path, None, config, bad, key=key)), bad))
    bad.report(key)
    prompts = [make_prompt(k, item.name, item.source, item.prompt) for k, item in enumerate(given)]
    return _examples(given, config, facts.context_tokens, key), prompts


@dataclass(frozen=True, slots=True)
class _Given:
    """One record's prompt and answer."""

    place: str
    name: str
    source: str | Chat
    """The prompt."""
    prompt: Tokens
    answer: Tokens

    @property
    def turns(self) -> Turns:
        """What the prompt asks."""
        return turns_of_prompt(bare_text(self.source), chat_of(self.source))


def _given(config: DataConfig, facts: PolicyFacts, records: Any, bad: BadRecords) -> Iterator[_Given]:
    """Every record that can be used, in the data's order."""
    policy, names = PolicyTokenizer(config, facts), dict[str, str]()
    for block in blocks(enumerate(read_source(config.path, records, config, bad))):
        read = [item for number, record in block if (item := _read(record, number, config, policy, names, bad)) is not None]
        ids = policy.encode_given([text for _, _, _, text in read])
        for (place, name, source, text), (prompt, (answer,)) in zip(read, ids, strict=True):
            try:
                check_ids(prompt, facts, place, "prompt")
                check_ids(answer, facts, place, "answer")
                check_end(answer, facts, place)
                check_text(text.answers[0], facts, place, "answer")
            except DataError as error:
                bad.add(error)
                continue
            yield _Given(place, name, source, prompt, answer)


def _read(
    record: Record, number: int, config: DataConfig, policy: PolicyTokenizer, names: dict[str, str], bad: BadRecords
) -> tuple[str, str, str | Chat, GivenText] | None:
    """(place, name, prompt, texts) of a record; None where it cannot be used and is skipped."""
    try:
        answer = field_of(record, config.response_field, "data.response_field")
        prompt, answers = prompt_and_answers([answer], record, config, config.response_field)
        refuse_unread(record, prompt, config)
        text = policy.given_text(prompt, answers, record.place)
        return record.place, name_record(record, number, config, names), prompt, text
    except DataError as error:
        bad.add(error)
        return None


def _examples(given: Sequence[_Given], config: DataConfig, context_tokens: int, key: str) -> list[Example]:
    """The examples of the demonstrations that fit into the context; ``key`` names their source in messages."""
    examples: list[Example] = []
    overlong = LeftOut()
    for item in given:
        count = f"{len(item.prompt)} + {len(item.answer)} tokens"
        advice = f"demonstration {item.name!r} has {count}, the context {context_tokens}; shorten it"
        if check_length(len(item.prompt) + len(item.answer), context_tokens, config, item.place, advice):
            examples.append(_example(len(examples), item))
        else:
            overlong.add(f"{item.place}, {count}")
    if not examples:
        raise DataError(f"{key}: no demonstration left; {overlong.count} were dropped, longer than the context of {context_tokens} tokens")
    if overlong.count:
        logger.warning("%s: demonstrations dropped: %s; longer than the context of %d tokens", key, overlong, context_tokens)
    return examples


def _example(index: int, given: _Given) -> Example:
    return Example(
        prompt_index=index,
        prompt_id=given.name,
        prompt_ids=(given.prompt,),
        response_ids=(given.answer,),
        targets=np.zeros(1),
        policy_version=None,
        content_id=content_id("", given.turns),
    )
