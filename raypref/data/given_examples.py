"""From groups of given answers to examples: what the selection picks of each, and its targets; what gives no example is counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raypref.data.chats import shortened
from raypref.data.examples import ExampleBuilder
from raypref.data.identity import turns_of
from raypref.data.layouts import GivenPreferences
from raypref.data.records import BadRecords
from raypref.data.token_checks import LeftOut
from raypref.errors import ConfigError, DataError
from raypref.losses.base import Loss
from raypref.preferences import Unanswered
from raypref.seeds import seed_for
from raypref.selection.base import Picks, Selection, play_known
from raypref.types import Example, PreferenceMatrix, Rollout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Group:
    """One record's prompt and responses."""

    rollout: Rollout
    given: GivenPreferences
    place: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many records give no example, by reason."""

    key: str
    """Of the records' source, for messages."""
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
        self.bad.report(self.key)
        reasons = f"too long for {context_tokens} tokens: {self.overlong}; not picked by the selection: {self.unpicked}"
        if refuse:
            reasons += f"; an answer compared with itself (data.identical=drop): {self.identical}"
            raise DataError(f"{self.key}: none of {records} records gives an example; {reasons}")
        if self.identical.count:
            what = "comparisons of an answer with itself, which are left out (data.identical=drop)"
            logger.warning("%s: %s: %s", self.key, what, self.identical)
        if self.overlong.count or self.unpicked.count:
            count = self.overlong.count + self.unpicked.count
            logger.warning("%s: %d of %d records give no example; %s", self.key, count, records, reasons)


def _partner(groups: Sequence[Group], number: int) -> Group | None:
    """The nearest group before it (before the first comes the last) with another prompt; None where all have the same one."""
    turns = turns_of(groups[number].rollout.prompt)
    before = (groups[number - k] for k in range(1, len(groups)))
    return next((group for group in before if turns_of(group.rollout.prompt) != turns), None)


@dataclass(frozen=True, slots=True)
class Makers:
    """What turns groups into examples."""

    loss: Loss
    selection: Selection | None
    builder: ExampleBuilder
    identical: Literal["drop", "keep", "refuse"]
    """What happens to comparisons of an answer with itself."""

    def examples(self, groups: Sequence[Group], counts: Counts, others: Sequence[Group] = ()) -> tuple[list[Group], list[Example]]:
        """The groups that give examples, and these, numbered by their groups.

        Args:
            groups: in the order of the examples.
            counts: takes the groups without an example.
            others: the last of them is a partner where all ``groups`` have the same prompt.
        """
        last = others[-1] if others else None
        by_group = [self._examples(group, _partner(groups, k) or last, counts) for k, group in enumerate(groups)]
        kept = [group for group, built in zip(groups, by_group, strict=True) if built]
        return kept, [replace(example, prompt_index=k) for k, built in enumerate(filter(None, by_group)) for example in built]

    def _examples(self, group: Group, partner: Group | None, counts: Counts) -> list[Example]:
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

    def _left_out(self, pick: tuple[int, ...], group: Group, counts: Counts) -> bool:
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

    def _picked(self, group: Group) -> list[tuple[tuple[int, ...], NDArray[np.float64]]]:
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


def _picks(group: Group, matrix: PreferenceMatrix, selection: Selection | None) -> Picks:
    """What the selection makes of the given matrix; without one, all answers."""
    if selection is None:
        return [tuple(range(matrix.size))]
    rule = selection.seeded(seed_for(0, "group", None, group.rollout.prompt.id))
    return play_known(rule, matrix)
