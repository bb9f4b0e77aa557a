"""Given preferences as training examples, without sampling and without an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raypref.data.config import DataConfig
from raypref.data.examples import ExampleBuilder
from raypref.data.given_examples import Counts, Group, Makers
from raypref.data.held_out import set_apart
from raypref.data.identity import turns_of, without_held_out
from raypref.data.layouts import GivenPreferences, read_preferences
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import make_prompt, refuse_unread
from raypref.data.records import BadRecords, Record, name_record, read_source
from raypref.data.token_checks import blocks, check_end, check_ids, check_length, check_text
from raypref.data.tokenization import GivenText, PolicyTokenizer, Tokens
from raypref.errors import DataError
from raypref.losses.base import Loss
from raypref.selection.base import Selection
from raypref.types import Example, Prompt, Response, Rollout


@dataclass(frozen=True, slots=True)
class PreferenceData:
    """A run's given preferences."""

    examples: list[Example]
    """In the order in which the run takes them."""
    prompts: list[Prompt]
    """The prompts of ``examples``, in the same order and once each; the regulariser samples answers to them."""
    held_out: list[Prompt]
    """The prompts of the held-out records, in the data's order."""
    dropped: int
    """Number of records, of both kinds, without an example: longer than the context, not picked by the selection, or the same answer
    twice."""
    overlong: int = 0
    """Those of ``dropped`` that are longer than the context."""
    unpicked: int = 0
    """Those of ``dropped`` of which the selection picks no response."""
    identical: int = 0
    """Comparisons of an answer with itself that were left out (``data.identical: drop``)."""
    skipped: int = 0
    """Records, of both kinds, that could not be used (``data.on_bad_record: skip``)."""
    held_out_examples: list[Example] = field(default_factory=list)
    """Of the held-out records, in the same order."""


def load_preferences(
    config: DataConfig,
    facts: PolicyFacts,
    seed: int,
    *,
    loss: Loss,
    selection: Selection | None,
    builder: ExampleBuilder,
    records: Any = None,
    held_out: Sequence[Prompt] = (),
    held_out_records: Sequence[Record] | None = None,
) -> PreferenceData:
    """Read, check and tokenise preferences, and build the examples to train on and those that are held out.

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
        records: instead of ``config.path``; ``raypref.data.objects`` lists what is accepted.
        held_out: prompts for evaluation from elsewhere; like those of held-out records, they are not trained on.
        held_out_records: preferences for evaluation, of which the first ``config.held_out_prompts`` are taken (0: all); None: the last
            ``config.held_out_prompts`` of the data are set apart.

    Raises:
        DataError: a record is not valid; the message names file and line. Or no example is left.
        ConfigError: no data is given, or the loss needs comparisons that the data does not have.
    """
    skip = config.on_bad_record == "skip"
    counts, apart_counts = (Counts(key, BadRecords(skip)) for key in ("data.path", "data.held_out"))
    groups = _groups(config, facts, records, counts.bad)
    if held_out_records is None:
        groups, apart = set_apart(groups, 0 if config.held_out is not None else config.held_out_prompts, "records")
    else:
        apart = _groups(config, facts, held_out_records, apart_counts.bad)[: config.held_out_prompts or None] if held_out_records else []
    prompts_apart = [replace(group.rollout.prompt, index=k) for k, group in enumerate(apart)]
    groups = without_held_out(groups, [*prompts_apart, *held_out], lambda group: turns_of(group.rollout.prompt))
    order = np.random.default_rng(seed).permutation(len(groups)) if config.shuffle else np.arange(len(groups))
    makers = Makers(loss, selection, builder, config.identical)
    usable = _fitting([groups[int(k)] for k in order], config, facts.context_tokens, counts)
    kept, examples = makers.examples(usable, counts)
    counts.report(len(order), facts.context_tokens, refuse=not examples)
    apart_kept, held_out_examples = makers.examples(_fitting(apart, config, facts.context_tokens, apart_counts), apart_counts, usable)
    apart_counts.report(len(apart), facts.context_tokens, refuse=bool(apart) and not held_out_examples)
    both = (counts, apart_counts)
    return PreferenceData(
        examples=examples,
        prompts=[replace(group.rollout.prompt, index=k) for k, group in enumerate(kept)],
        held_out=prompts_apart,
        dropped=len(order) - len(kept) + len(apart) - len(apart_kept),
        overlong=sum(each.overlong.count for each in both),
        unpicked=sum(each.unpicked.count for each in both),
        identical=sum(each.identical.count for each in both),
        skipped=sum(each.bad.count for each in both),
        held_out_examples=held_out_examples,
    )


def _groups(config: DataConfig, facts: PolicyFacts, records: Any, bad: BadRecords) -> list[Group]:
    """Every record as a group of given responses, in the data's order."""
    policy, names = PolicyTokenizer(config, facts), dict[str, str]()
    groups: list[Group] = []
    for block in blocks(enumerate(read_source(config.path, records, config, bad))):
        read = [item for number, record in block if (item := _read(record, number, config, policy, names, bad)) is not None]
        ids = policy.encode_given([text for _, _, _, text in read])
        for (place, name, given, text), tokens in zip(read, ids, strict=True):
            try:
                _check(given, text, tokens, facts, place)
            except DataError as error:
                bad.add(error)
                continue
            groups.append(Group(_rollout(name, given, text, *tokens), given, place))
    return groups


def _read(
    record: Record, number: int, config: DataConfig, policy: PolicyTokenizer, names: dict[str, str], bad: BadRecords
) -> tuple[str, str, GivenPreferences, GivenText] | None:
    """(place, name, preferences, texts) of a record; None where it cannot be used and is skipped."""
    try:
        given = read_preferences(record, config)
        refuse_unread(record, given.prompt, config)
        text = policy.given_text(given.prompt, given.responses, record.place)
        return record.place, name_record(record, number, config, names), given, text
    except DataError as error:
        bad.add(error)
        return None


def _check(given: GivenPreferences, text: GivenText, tokens: tuple[Tokens, tuple[Tokens, ...]], facts: PolicyFacts, place: str) -> None:
    prompt, responses = tokens
    check_ids(prompt, facts, place, "prompt")
    for answer, ids in zip(text.answers, responses, strict=True):
        check_ids(ids, facts, place, "answer")
        check_end(ids, facts, place)
        check_text(answer, facts, place, "answer")


def _rollout(name: str, given: GivenPreferences, text: GivenText, ids: Tokens, responses: Sequence[Tokens]) -> Rollout:
    prompt = make_prompt(0, name, given.prompt, ids)
    nothing = np.empty(0, dtype=np.float32)
    answered = [Response(tokens, nothing, answer, "stop") for tokens, answer in zip(responses, text.answers, strict=True)]
    return Rollout(prompt, tuple(answered), policy_version=None)


def _fitting(groups: Sequence[Group], config: DataConfig, context_tokens: int, counts: Counts) -> list[Group]:
    kept = []
    for group in groups:
        longest = len(group.rollout.prompt.token_ids) + max(len(response.token_ids) for response in group.rollout.responses)
        advice = f"prompt and answer have {longest} tokens, the context {context_tokens}; shorten them"
        if check_length(longest, context_tokens, config, group.place, advice):
            kept.append(group)
        else:
            counts.overlong.add(f"{group.place}, {longest} tokens")
    return kept
