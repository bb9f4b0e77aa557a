"""Prompts to sample from: read, checked, tokenised and shuffled once; some are set apart for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raypref.data.benchmark_questions import as_prompt
from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.held_out import set_apart
from raypref.data.identity import turns_of, without_held_out
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import bare_text, make_prompt, prompt_of, refuse_unread
from raypref.data.records import BadRecords, Record, name_record, read_source
from raypref.data.token_checks import LeftOut, blocks, check_ids, check_length, check_text
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import DataError
from raypref.types import Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PromptData:
    """A run's prompts."""

    train: list[Prompt]
    """In the order in which the run takes them."""
    held_out: list[Prompt]
    """For evaluation; never trained on."""
    dropped: int
    """Prompts, of both kinds, that left no room for a response."""
    skipped: int = 0
    """Records, of both kinds, that could not be used (``data.on_bad_record: skip``)."""


def load_prompts(
    config: DataConfig,
    facts: PolicyFacts,
    max_response_tokens: int,
    seed: int,
    *,
    prompts: Any = None,
    held_out: Any = None,
    apart: Sequence[Prompt] = (),
) -> PromptData:
    """Load the prompts that ``config`` names, or the given objects.

    Args:
        config: the data section.
        facts: the policy's tokenizer and context.
        max_response_tokens: ``rollout.max_tokens``.
        seed: the seed of the shuffle.
        prompts: instead of ``config.path``; ``raypref.data.objects`` lists what is accepted.
        held_out: instead of ``config.held_out``, likewise.
        apart: prompts for evaluation from elsewhere, which are not trained on.

    Raises:
        DataError: a line is broken, a prompt is missing, empty or too long (with ``overlong: refuse``), or an id occurs twice; the message
            names file and line. Or no prompt is left.
        ConfigError: no prompts are given, or the tokenizer has no chat template.
    """
    limit = facts.context_tokens - max_response_tokens
    loaded = _load(config.path, prompts, config, facts, limit, "data.path")
    train, dropped, skipped = loaded.train, loaded.dropped, loaded.skipped
    if not train:
        raise DataError(
            f"data.path: no prompt left to train on; {dropped} were dropped, since rollout.max_tokens = {max_response_tokens} leaves "
            f"{max(limit, 0)} of the context's {facts.context_tokens} tokens; lower it, or raise policy.max_context_tokens"
        )
    if held_out is not None or config.held_out is not None:
        given = load_apart(config, facts, limit, held_out)
        held, dropped, skipped = given.held_out, dropped + given.dropped, skipped + given.skipped
    else:
        train, held = set_apart(train, config.held_out_prompts, "prompts")
    train = without_held_out(train, [*held, *apart], turns_of)
    return PromptData(_in_order(train, config.shuffle, seed), _in_order(held, False, seed), dropped, skipped)


def load_apart(config: DataConfig, facts: PolicyFacts, limit: int, objects: Any = None, key: str = "data.held_out") -> PromptData:
    """The first ``held_out_prompts`` prompts (0: all) of ``held_out`` or of the given objects, as held-out prompts.

    Args:
        config: the data section.
        facts: the policy's tokenizer and end tokens.
        limit: largest number of tokens of a prompt.
        objects: instead of ``config.held_out``.
        key: names the prompts in messages.

    Raises:
        DataError, ConfigError: as ``load_prompts``; or there are prompts, but none is left.
    """
    if isinstance(objects, list) and not objects:
        return PromptData([], [], 0)
    apart = _load(config.held_out, objects, config, facts, limit, key)
    if not apart.train and apart.dropped:
        remedy = "lower it, or raise policy.max_context_tokens" if limit > 0 else "lower rollout.max_tokens"
        raise DataError(f"{key}: no prompt left; {apart.dropped} were dropped: {room_text(facts.context_tokens, limit)}; {remedy}")
    return replace(apart, train=[], held_out=apart.train[: config.held_out_prompts or None])


def room_text(context_tokens: int, limit: int) -> str:
    """How many tokens a prompt may have, with the arithmetic.

    Args:
        context_tokens: of a prompt and its response together.
        limit: what ``rollout.max_tokens`` leaves for the prompt.
    """
    if limit > 0:
        return f"the context's {context_tokens} tokens less rollout.max_tokens = {context_tokens - limit} leave {limit} for a prompt"
    return f"rollout.max_tokens = {context_tokens - limit} leaves no room for a prompt in the context's {context_tokens} tokens"


@dataclass(frozen=True, slots=True)
class _Read:
    """A record on its way to a prompt."""

    place: str
    name: str
    named: bool
    prompt: str | Chat
    text: str
    """The text that the policy is given."""


def _load(path: str | None, objects: Any, config: DataConfig, facts: PolicyFacts, limit: int, key: str) -> PromptData:
    """Checked and tokenised prompts, in the data's order. They are tokenised in blocks, so that only the prompts stay in memory."""
    bad, overlong = BadRecords(config.on_bad_record == "skip"), LeftOut()
    policy, names = PolicyTokenizer(config, facts), dict[str, str]()
    kept: list[Prompt] = []
    for block in blocks(enumerate(read_source(path, objects, config, bad, key=key))):
        read = [item for number, record in block if (item := _read(record, number, config, policy, names, bad)) is not None]
        for item, ids in zip(read, policy.encode(each.text for each in read), strict=True):
            try:
                check_ids(ids, facts, item.place, "prompt")
                check_text(bare_text(item.prompt), facts, item.place, "prompt")
            except DataError as error:
                bad.add(error)
                continue
            advice = f"the context leaves {max(limit, 0)} beside rollout.max_tokens; shorten it, lower rollout.max_tokens"
            if check_length(len(ids), limit, config, item.place, f"prompt {item.name!r} has {len(ids)} tokens; {advice}"):
                kept.append(make_prompt(len(kept), item.name, item.prompt, ids, named=item.named))
            else:
                overlong.add(f"{item.place}, {len(ids)} tokens")
    bad.report(key)
    if overlong.count:
        logger.warning("%s: prompts dropped: %s; %s", key, overlong, room_text(facts.context_tokens, limit))
    return PromptData(kept, [], overlong.count, bad.count)


def _read(record: Record, number: int, config: DataConfig, policy: PolicyTokenizer, names: dict[str, str], bad: BadRecords) -> _Read | None:
    """The record's prompt and its text; None where it cannot be used and is skipped."""
    try:
        record = as_prompt(record, config)
        prompt = prompt_of(record, config)
        refuse_unread(record, prompt, config)
        text = policy.prompt_text(prompt, record.place)
        name = name_record(record, number, config, names)
    except DataError as error:
        bad.add(error)
        return None
    return _Read(record.place, name, record.values.get(config.id_field) is not None, prompt, text)


def _in_order(prompts: Sequence[Prompt], shuffle: bool, seed: int) -> list[Prompt]:
    order = np.random.default_rng(seed).permutation(len(prompts)) if shuffle else np.arange(len(prompts))
    return [replace(prompts[int(k)], index=index) for index, k in enumerate(order)]
