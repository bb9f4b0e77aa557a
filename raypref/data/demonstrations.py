"""Given answers as training examples, for supervised fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raypref.data.config import DataConfig
from raypref.data.identity import Turns, content_id, turns_of_prompt, without_held_out
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import bare_text, chat_of, prompt_of
from raypref.data.records import Record, field_of, name_record, read_records, wrap_objects
from raypref.data.tokenization import GivenText, PolicyTokenizer, Tokens
from raypref.errors import ConfigError, DataError
from raypref.types import Example, Prompt

logger = logging.getLogger(__name__)


def load_demonstrations(
    config: DataConfig, facts: PolicyFacts, seed: int, *, records: Iterable[Any] | None = None, held_out: Sequence[Prompt] = ()
) -> list[Example]:
    """Prompts with their answers, as examples of one sequence each.

    An answer ends as the policy's own would (``raypref.data.tokenization``), so that the policy learns to stop. A prompt and answer that
    exceed the context together are dropped (the number is logged) or refused, as ``config.overlong`` says.

    Args:
        config: the data section.
        facts: the policy's tokenizer, context and end tokens.
        seed: the seed of the shuffle.
        records: instead of ``config.path``: mappings with the fields that ``config`` names.
        held_out: prompts for evaluation, which are not trained on.

    Raises:
        DataError: a line is broken, a field is missing or empty, an id occurs twice, or a demonstration is too long; the message names
            file and line. Or no demonstration is left.
        ConfigError: no data is given, or the tokenizer has no chat template.
    """
    if records is None and config.path is None:
        raise ConfigError("data.path: required, unless demonstrations are passed to run()")
    source = wrap_objects(records, config.prompt_field) if records is not None else read_records(str(config.path), config.split)
    policy, context_tokens = PolicyTokenizer(config, facts), facts.context_tokens
    names: dict[str, str] = {}
    given: list[GivenText] = []
    asked: list[Turns] = []
    for number, record in enumerate(source):
        prompt = prompt_of(record, config)
        given.append(policy.given_text(prompt, [_answer(record, config)], record.place))
        asked.append(turns_of_prompt(bare_text(prompt), chat_of(prompt)))
        name_record(record, number, config, names)
    kept = without_held_out(range(len(given)), held_out, asked.__getitem__)
    places = list(names.items())
    pairs = policy.encode_given([given[k] for k in kept])
    examples: list[Example] = []
    for number, (ids, (answer,)) in zip(kept, pairs, strict=True):
        name, place = places[number]
        if len(ids) + len(answer) <= context_tokens:
            examples.append(_example(len(examples), name, ids, answer, content_id("", asked[number])))
        elif config.overlong == "refuse":
            raise DataError(
                f"{place}: demonstration {name!r} has {len(ids)} + {len(answer)} tokens, the context {context_tokens}; shorten it, or "
                f"set data.overlong=drop"
            )
    if not examples:
        raise DataError(f"data.path: no demonstration left; {len(pairs)} were dropped, longer than the context of {context_tokens} tokens")
    if len(examples) < len(pairs):
        logger.warning("%d demonstrations dropped: longer than the context of %d tokens", len(pairs) - len(examples), context_tokens)
    order = np.random.default_rng(seed).permutation(len(examples)) if config.shuffle else np.arange(len(examples))
    return [replace(examples[int(k)], prompt_index=index) for index, k in enumerate(order)]


def _answer(record: Record, config: DataConfig) -> str:
    answer = field_of(record, config.response_field, "data.response_field")
    if not isinstance(answer, str) or not answer.strip():
        raise DataError(f"{record.place}: field {config.response_field!r} must be a text that is not empty, got {answer!r}")
    return answer


def _example(index: int, name: str, prompt: Tokens, answer: Tokens, content: str) -> Example:
    return Example(
        prompt_index=index,
        prompt_id=name,
        prompt_ids=(prompt,),
        response_ids=(answer,),
        targets=np.zeros(1),
        policy_version=None,
        content_id=content,
    )
