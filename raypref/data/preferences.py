"""Given preferences as training examples: what the loop trains on without sampling, and without an oracle."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raypref.data.config import DataConfig
from raypref.data.examples import ExampleBuilder
from raypref.data.layouts import Opinion, opinion_of
from raypref.data.prompts import name_record
from raypref.data.records import read_records, wrap_objects
from raypref.data.text import bare_text, chat_of, policy_text, tokenize_answers
from raypref.errors import ConfigError, DataError
from raypref.losses.base import Loss
from raypref.preferences import Unanswered
from raypref.seeds import seed_for
from raypref.selection.base import Picks, Selection, play_known
from raypref.types import Example, PreferenceMatrix, Prompt, Response, Rollout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreferenceData:
    """A run's given preferences."""

    examples: list[Example]
    """In the order in which the run takes them."""
    prompts: list[Prompt]
    """The prompts of ``examples``, in the same order and once each: what a regulariser's samples answer."""
    held_out: list[Prompt]
    """The prompts of the records that were set apart."""
    dropped: int
    """Records that gave no example: longer than the context, or not wanted by the selection."""


def load_preferences(
    config: DataConfig,
    tokenizer: Any,
    context_tokens: int,
    seed: int,
    end_token_id: int,
    *,
    loss: Loss,
    selection: Selection | None,
    builder: ExampleBuilder,
    records: Iterable[Any] | None = None,
) -> PreferenceData:
    """Read, check, tokenise, and make examples.

    The verdicts of a record are its preference matrix, from which ``loss.targets`` makes the targets as it does for sampled data. Without
    a selection a record is one example with all its answers, best first; with one, what it picks (it may ask for given comparisons only).

    Args:
        config: the data section; answers end with the end token, like demonstrations.
        tokenizer: the policy's.
        context_tokens: the longest sequence; records with a longer one are dropped or refused, as ``config.overlong`` says.
        seed: of the shuffle.
        end_token_id: the token that ends an answer.
        loss: makes the targets.
        selection: None: every record as it is.
        builder: builds the examples.
        records: instead of ``config.path``: mappings.

    Raises:
        DataError: naming file and line; or nothing is left.
        ConfigError: there is no source, or the loss wants comparisons that the data does not have.
    """
    if records is None and config.path is None:
        raise ConfigError("data.path: required, unless preferences are passed to run()")
    groups = _groups(config, tokenizer, end_token_id, records)
    apart = config.held_out_prompts if config.held_out is None else 0
    if apart and apart >= len(groups):
        raise DataError(f"data.held_out_prompts: {apart} are to be set apart of {len(groups)} records, which leaves none to train on")
    held_out = [group.rollout.prompt for group in groups[len(groups) - apart :]]
    order = np.random.default_rng(seed).permutation(len(groups) - apart) if config.shuffle else np.arange(len(groups) - apart)
    usable = _fitting([groups[int(k)] for k in order], config, context_tokens)
    made = [_examples(group, usable[k - 1] if len(usable) > 1 else None, loss, selection, builder) for k, group in enumerate(usable)]
    examples = [replace(example, prompt_index=k) for k, own in enumerate(own for own in made if own) for example in own]
    prompts = [replace(group.rollout.prompt, index=k) for k, group in enumerate(g for g, own in zip(usable, made, strict=True) if own)]
    dropped = len(order) - len(prompts)
    if not examples:
        raise DataError(f"data.path: none of {len(order)} records gives an example: too long for {context_tokens} tokens, or dropped")
    if dropped:
        logger.warning("%d of %d records give no example: too long for %d tokens, or dropped", dropped, len(order), context_tokens)
    return PreferenceData(examples, prompts, [replace(prompt, index=k) for k, prompt in enumerate(held_out)], dropped)


@dataclass(frozen=True, slots=True)
class _Group:
    rollout: Rollout
    opinion: Opinion
    place: str


def _groups(config: DataConfig, tokenizer: Any, end_token_id: int, records: Iterable[Any] | None) -> list[_Group]:
    """Every record as a group that nobody sampled, in the data's order."""
    source = wrap_objects(records, config.prompt_field) if records is not None else read_records(str(config.path), config.split)
    names: dict[str, str] = {}
    opinions: list[Opinion] = []
    for number, record in enumerate(source):
        opinions.append(opinion_of(record, config))
        name_record(record, number, config, names)
    texts = [policy_text(opinion.prompt, config, tokenizer, place) for opinion, place in zip(opinions, names.values(), strict=True)]
    flat = [(text, answer) for text, opinion in zip(texts, opinions, strict=True) for answer in opinion.responses]
    pairs = iter(tokenize_answers([text for text, _ in flat], [answer for _, answer in flat], config, tokenizer, end_token_id))
    return [
        _Group(_rollout(name, opinion, [next(pairs) for _ in opinion.responses]), opinion, place)
        for (name, place), opinion in zip(names.items(), opinions, strict=True)
    ]


def _rollout(name: str, opinion: Opinion, pairs: Sequence[tuple[list[int], list[int]]]) -> Rollout:
    ids = np.asarray(pairs[0][0], dtype=np.int32)
    prompt = Prompt(0, name, bare_text(opinion.prompt), ids, chat_of(opinion.prompt))
    nothing = np.empty(0, dtype=np.float32)
    responses = [
        Response(np.asarray(tokens, dtype=np.int32), nothing, text, "stop")
        for (_, tokens), text in zip(pairs, opinion.responses, strict=True)
    ]
    return Rollout(prompt, tuple(responses), policy_version=None)


def _fitting(groups: Sequence[_Group], config: DataConfig, context_tokens: int) -> list[_Group]:
    kept = []
    for group in groups:
        longest = len(group.rollout.prompt.token_ids) + max(len(response.token_ids) for response in group.rollout.responses)
        if longest <= context_tokens:
            kept.append(group)
        elif config.overlong == "refuse":
            raise DataError(
                f"{group.place}: prompt and answer have {longest} tokens, the context {context_tokens}; shorten them, or set "
                f"data.overlong=drop"
            )
    return kept


def _examples(group: _Group, partner: _Group | None, loss: Loss, selection: Selection | None, builder: ExampleBuilder) -> list[Example]:
    """The group's examples; those with a sequence that is too long are left out."""
    matrix = PreferenceMatrix(group.opinion.values, "given")
    try:
        picks = _picks(group, matrix, selection)
        targets = [loss.targets(matrix, pick) for pick in picks]
    except Unanswered as error:
        raise ConfigError(f"{group.place}: loss {loss.type!r} wants a comparison that the data does not have: {error}") from error
    other = None if partner is None else partner.rollout
    made = [builder.build(group.rollout, pick, target, other) for pick, target in zip(picks, targets, strict=True)]
    return [example for example in made if example is not None]


def _picks(group: _Group, matrix: PreferenceMatrix, selection: Selection | None) -> Picks:
    """What the selection makes of the given matrix; without one, all answers."""
    if selection is None:
        return [tuple(range(matrix.size))]
    rule = selection.seeded(seed_for(0, "group", None, group.rollout.prompt.id))
    return play_known(rule, matrix)
