"""Given preferences as training examples, without sampling and without an oracle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raypref.data.chats import shortened
from raypref.data.config import DataConfig
from raypref.data.examples import ExampleBuilder
from raypref.data.identity import turns_of, without_held_out
from raypref.data.layouts import GivenPreferences, read_preferences
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import make_prompt, refuse_unread
from raypref.data.records import BadRecords, Record, name_record, read_source
from raypref.data.token_checks import LeftOut, blocks, check_end, check_ids, check_length, check_text
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
    """Number of records without an example: longer than the context, not picked by the selection, or the same answer twice."""
    overlong: int = 0
    """Those of ``dropped`` that are longer than the context."""
    unpicked: int = 0
    """Those of ``dropped`` of which the selection picks no response."""
    identical: int = 0
    """Comparisons of an answer with itself that were left out (``data.identical: drop``)."""
    skipped: int = 0
    """Records that could not be used (``data.on_bad_record: skip``)."""


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
        records: instead of ``config.path``; ``raypref.data.objects`` lists what is accepted.
        held_out: prompts for evaluation from elsewhere; like those that are set apart here, they are not trained on.

    Raises:
        DataError: a record is not valid; the message names file and line. Or no example is left.
        ConfigError: no data is given, or the loss needs comparisons that the data does not have.
    """
    counts = _Counts(BadRecords(config.on_bad_record == "skip"))
    groups = _groups(config, facts, records, counts.bad)
    apart = config.held_out_prompts if config.held_out is None else 0
    if apart and apart >= len(groups):
        raise DataError(f"data.held_out_prompts: {apart} are to be set apart from {len(groups)} records, which leaves none to train on")
    set_apart = [group.rollout.prompt for group in groups[len(groups) - apart :]]
    groups = without_held_out(groups[: len(groups) - apart], [*set_apart, *held_out], lambda group: turns_of(group.rollout.prompt))
    order = np.random.default_rng(seed).permutation(len(groups)) if config.shuffle else np.arange(len(groups))
    usable = _fitting([groups[int(k)] for k in order], config, facts.context_tokens, counts)
    makers = _Makers(loss, selection, builder, config.identical)
    by_group = [makers.examples(group, _partner(usable, k), counts) for k, group in enumerate(usable)]
    examples = [replace(example, prompt_index=k) for k, built in enumerate(filter(None, by_group)) for example in built]
    prompts = [
        replace(group.rollout.prompt, index=k) for k, group in enumerate(g for g, built in zip(usable, by_group, strict=True) if built)
    ]
    counts.report(len(order), facts.context_tokens, refuse=not examples)
    apart_in_order = [replace(prompt, index=k) for k, prompt in enumerate(set_apart)]
    left_out = {"overlong": counts.overlong.count, "unpicked": counts.unpicked.count, "identical": counts.identical.count}
    return PreferenceData(examples, prompts, apart_in_order, len(order) - len(prompts), **left_out, skipped=counts.bad.count)


@dataclass(frozen=True, slots=True)
class _Group:
    """One record's prompt and responses."""

    rollout: Rollout
    given: GivenPreferences
    place: str


@dataclass(frozen=True, slots=True)
class _Counts:
    """How many records give no example, by reason."""

    bad: BadRecords
    overlong: LeftOut = field(default_factory=LeftOut)
    """A sequence is longer than the context."""
    unpicked: LeftOut = field(default_factory=LeftOut)
    """The selection picks no response."""
    identical: LeftOut = field(default_factory=LeftOut)
    """Comparisons of an answer with itself; a record may have several."""

    def report(self, records: int, context_tokens: int, *, refuse: bool) -> None:
        """Log what was left out.

        Raises:
            DataError: ``refuse``, since nothing is left.
        """
        self.bad.report("data.path")
        reasons = f"too long for {context_tokens} tokens: {self.overlong}; not picked by the selection: {self.unpicked}"
        if refuse:
            reasons += f"; an answer compared with itself (data.identical=drop): {self.identical}"
            raise DataError(f"data.path: none of {records} records gives an example; {reasons}")
        if self.identical.count:
            logger.warning("data.path: comparisons of an answer with itself, which are left out (data.identical=drop): %s", self.identical)
        if self.overlong.count or self.unpicked.count:
            logger.warning("data.path: %d of %d records give no example; %s", self.overlong.count + self.unpicked.count, records, reasons)


def _groups(config: DataConfig, facts: PolicyFacts, records: Any, bad: BadRecords) -> list[_Group]:
    """Every record as a group of given responses, in the data's order."""
    policy, names = PolicyTokenizer(config, facts), dict[str, str]()
    groups: list[_Group] = []
    for block in blocks(enumerate(read_source(config.path, records, config, bad))):
        read = [item for number, record in block if (item := _read(record, number, config, policy, names, bad)) is not None]
        ids = policy.encode_given([text for _, _, _, text in read])
        for (place, name, given, text), tokens in zip(read, ids, strict=True):
            try:
                _check(given, text, tokens, facts, place)
            except DataError as error:
                bad.add(error)
                continue
            groups.append(_Group(_rollout(name, given, text, *tokens), given, place))
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


def _fitting(groups: Sequence[_Group], config: DataConfig, context_tokens: int, counts: _Counts) -> list[_Group]:
    kept = []
    for group in groups:
        longest = len(group.rollout.prompt.token_ids) + max(len(response.token_ids) for response in group.rollout.responses)
        advice = f"prompt and answer have {longest} tokens, the context {context_tokens}; shorten them"
        if check_length(longest, context_tokens, config, group.place, advice):
            kept.append(group)
        else:
            counts.overlong.add(f"{group.place}, {longest} tokens")
    return kept


def _partner(groups: Sequence[_Group], number: int) -> _Group | None:
    """The nearest group before it (before the first comes the last) with another prompt; None where all have the same one."""
    turns = turns_of(groups[number].rollout.prompt)
    before = (groups[number - k] for k in range(1, len(groups)))
    return next((group for group in before if turns_of(group.rollout.prompt) != turns), None)


@dataclass(frozen=True, slots=True)
class _Makers:
    """What turns a group into examples."""

    loss: Loss
    selection: Selection | None
    builder: ExampleBuilder
    identical: Literal["drop", "keep", "refuse"]
    """What happens to comparisons of an answer with itself."""

    def examples(self, group: _Group, partner: _Group | None, counts: _Counts) -> list[Example]:
        """The group's examples, without those that have a sequence beyond the context."""
        picked = self._picked(group)
        if not picked:
            counts.unpicked.add(group.place)
            return []
        picked = [item for item in picked if not self._left_out(item[0], group, counts)]
        other = None if partner is None else partner.rollout
        built = [self.builder.build(group.rollout, pick, targets, other) for pick, targets in picked]
        examples = [example for example in built if example is not None]
        if picked and not examples:
            counts.overlong.add(f"{group.place}, with the sequences that the loss adds")
        return examples

    def _left_out(self, pick: tuple[int, ...], group: _Group, counts: _Counts) -> bool:
        """Whether a pick compares an answer with itself and is to be left out; it is then counted."""
        first, *others = (group.rollout.responses[k].token_ids for k in pick)
        if self.identical == "keep" or not others or not all(np.array_equal(first, other) for other in others):
            return False
        if self.identical == "refuse":
            raise DataError(
                f"{group.place}: the answers that are compared are the same, {shortened(group.rollout.responses[pick[0]].text, 80)}; "
                f"correct the record or leave it out, or set data.identical=drop"
            )
        counts.identical.add(group.place)
        return True

    def _picked(self, group: _Group) -> list[tuple[tuple[int, ...], NDArray[np.float64]]]:
        """(responses of an example, their targets)."""
        if group.given.desirable is not None:
            return [((0,), self._labelled(group.given.desirable, group.place))]
        matrix = PreferenceMatrix(group.given.values, "given")
        try:
            return [(pick, self.loss.targets(matrix, pick)) for pick in _picks(group, matrix, self.selection)]
        except Unanswered as error:
            raise ConfigError(f"{group.place}: loss {self.loss.type!r} needs a comparison that the data does not have: {error}") from error

    def _labelled(self, desirable: bool, place: str) -> NDArray[np.float64]:
        """(1,) the target of an unpaired record's answer."""
        if self.selection is not None:
            raise ConfigError(f"selection: there is nothing to select from a record with one answer ({place}); remove the section")
        target = self.loss.labelled_target(desirable)
        if target is None:
            raise ConfigError(
                f"loss.type: {self.loss.type!r} compares answers, but a record has one answer with a label ({place}); set loss.type=kto, "
                f"or give pairs"
            )
        return np.array([target])


def _picks(group: _Group, matrix: PreferenceMatrix, selection: Selection | None) -> Picks:
    """What the selection makes of the given matrix; without one, all answers."""
    if selection is None:
        return [tuple(range(matrix.size))]
    rule = selection.seeded(seed_for(0, "group", None, group.rollout.prompt.id))
    return play_known(rule, matrix)
