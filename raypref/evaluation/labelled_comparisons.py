"""Comparisons that people have judged, read from a file, and an oracle's agreement with these people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from raypref.data.identity import Turns
from raypref.data.record_prompts import bare_text, chat_of
from raypref.data.records import Record, field_of
from raypref.errors import DataError
from raypref.evaluation.agreement import LABELS, Agreement, Label, agreement, cohens_kappa, majority
from raypref.evaluation.matching import text_prompt, text_rollout
from raypref.evaluation.outcomes import Compare, compare_all, summary
from raypref.evaluation.response_files import records_of
from raypref.evaluation.response_formats import prompt_in
from raypref.types import Rollout


@dataclass(frozen=True, slots=True)
class LabelledComparison:
    """Two responses to a prompt, and what people said about them."""

    place: str
    """``file:line``."""
    prompt: str
    """The text that an oracle is shown."""
    responses: tuple[str, str]
    labels: tuple[Label, ...]
    """One for each person."""
    chat: Turns = ()
    """The prompt's turns where it is a chat."""

    def sides(self, number: int) -> tuple[Rollout, Rollout]:
        """The two responses as an oracle role compares them; the comparison is the ``number``-th of its file."""
        prompt = text_prompt(number, self.place, self.prompt, self.chat)
        first, second = self.responses
        return text_rollout(prompt, [first]), text_rollout(prompt, [second])


def read_comparisons(path: Path) -> list[LabelledComparison]:
    """Labelled comparisons from a JSONL or Parquet file, or a JSON list.

    A record has ``prompt`` (a text or chat messages), ``responses`` (two texts) and ``label``: one of ``LABELS``, or a list with one from
    each person.

    Raises:
        DataError: naming the place: a field is missing or not of that form, or the records have different numbers of labels.
    """
    comparisons = [_comparison(record) for record in records_of(path)]
    if not comparisons:
        raise DataError(f"{path}: no comparisons in this file")
    people = len(comparisons[0].labels)
    for comparison in comparisons:
        if len(comparison.labels) != people:
            raise DataError(f"{comparison.place}: {len(comparison.labels)} labels; {comparisons[0].place} has {people}")
    return comparisons


def _comparison(record: Record) -> LabelledComparison:
    _, responses, label = (field_of(record, name, "a labelled comparison") for name in ("prompt", "responses", "label"))
    labels: Sequence[Any] = (label,) if isinstance(label, str) else label
    if not isinstance(labels, Sequence) or not labels or any(one not in LABELS for one in labels):
        raise DataError(f"{record.place}: 'label' must be one of {', '.join(LABELS)}, or a list of them, got {label!r}")
    if not isinstance(responses, Sequence) or isinstance(responses, str) or [type(text) for text in responses] != [str, str]:
        raise DataError(f"{record.place}: 'responses' must be a list of two texts, got {responses!r}")
    asked = prompt_in(record)
    return LabelledComparison(record.place, bare_text(asked), (responses[0], responses[1]), tuple(labels), chat_of(asked))


async def oracle_agreement(
    comparisons: Sequence[LabelledComparison], compare: Compare, *, in_flight: int, tie_margin: float = 0.0, **bootstrap: Any
) -> Agreement:
    """Ask an oracle about labelled comparisons, and compare its verdicts with the majority of the people.

    Args:
        comparisons: with the same number of labels each.
        compare: an oracle's verdict on two rollouts.
        in_flight: how many comparisons are asked for at once.
        tie_margin: as for ``agreement``, and so are the others.

    Raises:
        DataError: no comparison has a label with more than half of the votes.
        OracleError: from ``compare``, or the oracle abstained on every comparison.
    """
    labels = {place: label for place, one in enumerate(comparisons) if (label := majority(one.labels)) is not None}
    if not labels:
        raise DataError(
            f"{comparisons[0].place}: on none of the {len(comparisons)} comparisons does a label have more than half of the votes"
        )
    judged = [comparisons[place] for place in labels]
    verdicts = await compare_all((one.sides(number) for number, one in enumerate(judged)), compare, in_flight)
    chances = [verdict.win_rate for verdict in verdicts]
    result = agreement(chances, list(labels.values()), [one.prompt for one in judged], tie_margin=tie_margin, **bootstrap)
    people = list(zip(*(one.labels for one in comparisons), strict=True))
    kappas = [cohens_kappa(a, b) for a, b in combinations(people, 2)]
    return replace(
        result,
        no_majority=len(comparisons) - len(judged),
        people_kappa=float(np.mean(kappas)) if kappas else float("nan"),
        oracle=summary(verdict.metrics for verdict in verdicts),
    )
