"""Prompts to sample from: read, checked, tokenised and shuffled once; some are set apart for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.identity import turns_of, without_held_out
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import make_prompt, prompt_of
from raypref.data.records import Record, name_record, read_records, wrap_objects
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import ConfigError, DataError
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


def load_prompts(
    config: DataConfig,
    facts: PolicyFacts,
    max_response_tokens: int,
    seed: int,
    *,
    prompts: Iterable[Any] | None = None,
    held_out: Iterable[Any] | None = None,
) -> PromptData:
    """Load the prompts that ``config`` names, or the given objects.

    Args:
        config: the data section.
        facts: the policy's tokenizer and context.
        max_response_tokens: ``rollout.max_tokens``.
        seed: the seed of the shuffle.
        prompts: instead of ``config.path``: texts, lists of chat messages, or mappings with the fields that ``config`` names.
        held_out: instead of ``config.held_out``, likewise.

    Raises:
        DataError: a line is broken, a prompt is missing, empty or too long (with ``overlong: refuse``), or an id occurs twice; the message
            names file and line. Or no prompt is left.
        ConfigError: no prompts are given, or the tokenizer has no chat template.
    """
    limit = facts.context_tokens - max_response_tokens
    train, dropped = _load(_source(config.path, config, prompts, "data.path"), config, facts, limit)
    if not train:
        raise DataError(
            f"data.path: no prompt left to train on; {dropped} were dropped, since rollout.max_tokens = {max_response_tokens} leaves "
            f"{max(limit, 0)} of the context's {facts.context_tokens} tokens; lower it, or raise policy.max_context_tokens"
        )
    if held_out is not None or config.held_out is not None:
        apart, dropped_apart = load_held_out(config, facts, limit, held_out)
        dropped += dropped_apart
    else:
        train, apart = _set_apart(train, config.held_out_prompts)
    train = without_held_out(train, apart, turns_of)
    if dropped:
        logger.warning("%d prompts dropped: longer than %d tokens, which leaves no room for rollout.max_tokens", dropped, limit)
    return PromptData(_in_order(train, config.shuffle, seed), _in_order(apart, False, seed), dropped)


def load_held_out(config: DataConfig, facts: PolicyFacts, limit: int, objects: Iterable[Any] | None = None) -> tuple[list[Prompt], int]:
    """The first ``held_out_prompts`` prompts (0: all) of ``held_out`` or of the given objects, and the number that was too long.

    Args:
        config: the data section.
        facts: the policy's tokenizer and end tokens.
        limit: largest number of tokens of a prompt.
        objects: instead of ``config.held_out``.

    Raises:
        DataError, ConfigError: as ``load_prompts``.
    """
    apart, dropped = _load(_source(config.held_out, config, objects, "data.held_out"), config, facts, limit)
    return apart[: config.held_out_prompts or None], dropped


def _source(path: str | None, config: DataConfig, objects: Iterable[Any] | None, key: str) -> Iterable[Record]:
    if objects is not None:
        return wrap_objects(objects, config.prompt_field)
    if path is None:
        raise ConfigError(f"{key}: required, unless prompts are passed to run()")
    return read_records(path, config.split)


def _load(records: Iterable[Record], config: DataConfig, facts: PolicyFacts, limit: int) -> tuple[list[Prompt], int]:
    """Checked and tokenised prompts in the data's order, and the number that was dropped."""
    names: dict[str, str] = {}
    places: list[str] = []
    prompts: list[str | Chat] = []
    rendered: list[str] = []
    named: list[bool] = []
    policy = PolicyTokenizer(config, facts)
    for number, record in enumerate(records):
        prompt = prompt_of(record, config)
        name_record(record, number, config, names)
        named.append(record.values.get(config.id_field) is not None)
        places.append(record.place)
        prompts.append(prompt)
        rendered.append(policy.prompt_text(prompt, record.place))
    tokens = policy.encode(rendered)
    kept: list[Prompt] = []
    for name, is_named, place, prompt, ids in zip(names, named, places, prompts, tokens, strict=True):
        if len(ids) <= limit:
            kept.append(replace(make_prompt(len(kept), name, prompt, ids), named=is_named))
        elif config.overlong == "refuse":
            raise DataError(
                f"{place}: prompt {name!r} has {len(ids)} tokens; the context leaves {limit} beside rollout.max_tokens; shorten it, lower "
                f"rollout.max_tokens, or set data.overlong=drop"
            )
    return kept, len(tokens) - len(kept)


def _set_apart(prompts: list[Prompt], count: int) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to train on, and the last ``count`` for evaluation."""
    if count >= len(prompts) and count:
        raise DataError(f"data.held_out_prompts: {count} are to be set apart of {len(prompts)} prompts, which leaves none to train on")
    return prompts[: len(prompts) - count], prompts[len(prompts) - count :]


def _in_order(prompts: Sequence[Prompt], shuffle: bool, seed: int) -> list[Prompt]:
    order = np.random.default_rng(seed).permutation(len(prompts)) if shuffle else np.arange(len(prompts))
    return [replace(prompts[int(k)], index=index) for index, k in enumerate(order)]
