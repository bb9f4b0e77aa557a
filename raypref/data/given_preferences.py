"""Given preferences as training examples, without sampling and without an oracle."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.data.config import DataConfig
from raypref.data.examples import ExampleBuilder
from raypref.data.identity import turns_of, without_held_out
from raypref.data.layouts import GivenPreferences, read_preferences
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import make_prompt
from raypref.data.records import name_record, read_records, wrap_objects
from raypref.data.tokenization import GivenText, PolicyTokenizer, Tokens
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
    """The prompts of ``examples``, in the same order and once each; the regulariser samples answers to them."""
    held_out: list[Prompt]
    """The prompts of the records that were set apart."""
    dropped: int
    """Number of records without an example: longer than the context, or not picked by the selection."""


def load_preferences(
    config: DataConfig,
    facts: PolicyFacts,
    seed: int,
    *,
    loss: Loss,
    selection: Selection | None,
    builder: ExampleBuilder,
    records: Iterable[Any] | None = None,
    held_out: Sequence[Prompt] = (),
) -> PreferenceData:
    """Read, check and tokenise preferences, and build the examples.

    The verdicts of a record are its preference matrix, from which ``loss.targets`` computes the targets as it does for sampled data.
    Without a selection, a record is one example with all its answers, best first. With a selection, the examples are its picks; it can
    only ask for comparisons that the data has.

    Args:
        config: the data section.
        facts: the policy's tokenizer, context and end tokens. Answers end as the policy's own would; records with a sequence beyond the
            context are dropped or refused, as ``config.overlong`` says.
        seed: the seed of the shuffle.
        loss: computes the targets.
        selection: None: every record is one example.
        builder: builds the examples.
        records: instead of ``config.path``: mappings.
        held_out: prompts for evaluation from elsewhere; like those that are set apart here, they are not trained on.

    Raises:
        DataError: a record is not valid; the message names file and line. Or no example is left.
        ConfigError: no data is given, or the loss needs comparisons that the data does not have.
    """
    if records is None and config.path is None:
        raise ConfigError("data.path: required, unless preferences are passed to run()")
    groups = _groups(config, facts, records)
    apart = config.held_out_prompts if config.held_out is None else 0
    if apart and apart >= len(groups):
        raise DataError(f"data.held_out_prompts: {apart} are to be set apart of {len(groups)} records, which leaves none to train on")
    set_apart = [group.rollout.prompt for group in groups[len(groups) - apart :]]
    groups = without_held_out(groups[: len(groups) - apart], [*set_apart, *held_out], lambda group: turns_of(group.rollout.prompt))
    order = np.random.default_rng(seed).permutation(len(groups)) if config.shuffle else np.arange(len(groups))
    usable = _fitting([groups[int(k)] for k in order], config, facts.context_tokens)
    by_group = [_examples(group, _partner(usable, k), loss, selection, builder) for k, group in enumerate(usable)]
    examples = [replace(example, prompt_index=k) for k, built in enumerate(filter(None, by_group)) for example in built]
    prompts = [
        replace(group.rollout.prompt, index=k) for k, group in enumerate(g for g, built in zip(usable, by_group, strict=True) if built)
    ]
    dropped = len(order) - len(prompts)
    if not examples:
        raise DataError(f"data.path: none of {len(order)} records gives an example: too long for {facts.context_tokens} tokens, or dropped")
    if dropped:
        logger.warning("%d of %d records give no example: too long for %d tokens, or dropped", dropped, len(order), facts.context_tokens)
    return PreferenceData(examples, prompts, [replace(prompt, index=k) for k, prompt in enumerate(set_apart)], dropped)


@dataclass(frozen=True, slots=True)
class _Group:
    """One record's prompt and responses."""

    rollout: Rollout
    values: NDArray[np.float64]
    """(K, K) P[i, j], NaN where the data does not compare."""
    place: str


def _groups(config: DataConfig, facts: PolicyFacts, records: Iterable[Any] | None) -> list[_Group]:
    """Every record as a group of given responses, in the data's order."""
    source = wrap_objects(records, config.prompt_field) if records is not None else read_records(str(config.path), config.split)
    names: dict[str, str] = {}
    given: list[GivenPreferences] = []
    texts: list[GivenText] = []
    policy = PolicyTokenizer(config, facts)
    for number, record in enumerate(source):
        given.append(read_preferences(record, config))
        texts.append(policy.given_text(given[-1].prompt, given[-1].responses, record.place))
        name_record(record, number, config, names)
    ids = policy.encode_given(texts)
    return [
        _Group(_rollout(name, each, text, *tokens), each.values, place)
        for (name, place), each, text, tokens in zip(names.items(), given, texts, ids, strict=True)
    ]


def _rollout(name: str, given: GivenPreferences, text: GivenText, ids: Tokens, responses: Sequence[Tokens]) -> Rollout:
    prompt = make_prompt(0, name, given.prompt, ids)
    nothing = np.empty(0, dtype=np.float32)
    answered = [Response(tokens, nothing, answer, "stop") for tokens, answer in zip(responses, text.answers, strict=True)]
    return Rollout(prompt, tuple(answered), policy_version=None)


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


def _partner(groups: Sequence[_Group], number: int) -> _Group | None:
    """The nearest group before it (before the first comes the last) with another prompt; None where all have the same one."""
    turns = turns_of(groups[number].rollout.prompt)
    before = (groups[number - k] for k in range(1, len(groups)))
    return next((group for group in before if turns_of(group.rollout.prompt) != turns), None)


def _examples(group: _Group, partner: _Group | None, loss: Loss, selection: Selection | None, builder: ExampleBuilder) -> list[Example]:
    """The group's examples, without those that have a sequence beyond the context."""
    matrix = PreferenceMatrix(group.values, "given")
    try:
        picks = _picks(group, matrix, selection)
        targets = [loss.targets(matrix, pick) for pick in picks]
    except Unanswered as error:
        raise ConfigError(f"{group.place}: loss {loss.type!r} needs a comparison that the data does not have: {error}") from error
    other = None if partner is None else partner.rollout
    built = [builder.build(group.rollout, pick, target, other) for pick, target in zip(picks, targets, strict=True)]
    return [example for example in built if example is not None]


def _picks(group: _Group, matrix: PreferenceMatrix, selection: Selection | None) -> Picks:
    """What the selection makes of the given matrix; without one, all answers."""
    if selection is None:
        return [tuple(range(matrix.size))]
    rule = selection.seeded(seed_for(0, "group", None, group.rollout.prompt.id))
    return play_known(rule, matrix)
