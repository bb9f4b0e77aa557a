"""Sections of the report: responses to the same held-out prompt across iterations, and groups whose preferences are not transitive."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raypref import preferences
from raypref.report.groups import MATRICES, Group, groups_of
from raypref.report.oracle import chosen
from raypref.report.parts import Answer, Block, Level, Note, Sample, Section
from raypref.report.run_directory import RunDirectory

PROMPTS = 8
"""Held-out prompts that are shown: the lowest win rates, some in the middle, the highest."""
COLUMNS = 4
"""Policies that are shown beside the base policy."""
MATRICES_SHOWN = 4
"""Of each kind: cycles, and upsets."""
MOST_CHARACTERS = 4000
"""Of a text; longer ones are cut, and say so."""


def samples(run: RunDirectory) -> Section:
    """Responses of the base policy and of evaluated policies, side by side."""
    evaluations = run.against("base")
    if not evaluations:
        return Section("samples", "Samples", blocks=[Note("There is no evaluation, whose responses could be shown.")])
    shown = [evaluations[number - 1] for number in chosen(len(evaluations), COLUMNS)]
    newest = shown[-1]
    blocks: list[Block] = []
    for prompt in _spread(newest.by_prompt):
        row = newest.by_prompt[prompt]
        answers = [Answer("base", cut(row["defender"]), f"{row['defender_tokens']:.0f} tokens")]
        for evaluation in shown:
            if (entry := evaluation.by_prompt.get(prompt)) is not None:
                rate = entry["win_rate"]
                about = f"win rate {rate:.2f}, {entry['challenger_tokens']:.0f} tokens" if _known(rate) else "no verdict"
                answers.append(Answer(f"iteration {evaluation.iteration}", cut(entry["challenger"]), about, _level(rate)))
        blocks.append(Sample(cut(row["prompt"]), answers, f"prompt {prompt}"))
    intro = (
        f"The same held-out prompts: those on which iteration {newest.iteration} loses most against the base policy, some in the middle, "
        "and those on which it wins most. Win rates and lengths are means over all responses to the prompt; the first one is shown."
    )
    return Section("samples", "Samples", intro, blocks)


def _spread(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ids of prompts from the lowest to the highest win rate; those without a verdict are left out."""
    order = sorted((prompt for prompt, row in rows.items() if _known(row["win_rate"])), key=lambda prompt: rows[prompt]["win_rate"])
    return [order[number - 1] for number in chosen(len(order), PROMPTS)]


def matrices(run: RunDirectory) -> Section:
    """Groups of the newest iterations whose majority relation has a cycle, and those with the largest upsets."""
    survey = _Survey()
    for group in groups_of(run, columns=MATRICES):
        survey.add(group)
    if not survey.groups:
        return Section("matrices", "Preference matrices", blocks=[Note("The journal has no judged group; a run on given data has none.")])
    intro = (
        f"{survey.groups:,} groups in the journal, {survey.complete:,} with every comparison answered; of these {survey.cyclic:,} "
        f"({survey.cyclic / max(1, survey.complete):.1%}) have a cycle. An upset: a response beats one that has the higher win rate."
    )
    blocks: list[Block] = [*_shown(run, survey.cycles, "a cycle"), *_shown(run, survey.upsets, "an upset")]
    if not blocks:
        blocks.append(Note("No group has a cycle or an upset: the win rates say it all.", "good"))
    return Section("matrices", "Preference matrices", intro, blocks)


class _Survey:
    """Which groups of the whole journal are worth showing. Only their names are kept."""

    def __init__(self) -> None:
        self.groups = self.complete = self.cyclic = 0
        self.cycles: list[tuple[float, int, int]] = []
        """(size, iteration, prompt index): the size of a cycle is the spread of its group's win rates."""
        self.upsets: list[tuple[float, int, int]] = []

    def add(self, group: Group) -> None:
        self.groups += 1
        self.complete += group.complete
        if group.complete and group.cyclic:
            self.cyclic += 1
            self._keep(self.cycles, float(np.ptp(group.win_rates)), group)
        elif (upset := group.upset()) is not None:
            self._keep(self.upsets, upset[0], group)

    def _keep(self, kept: list[tuple[float, int, int]], size: float, group: Group) -> None:
        heapq.heappush(kept, (size, group.iteration, group.prompt_index))
        if len(kept) > MATRICES_SHOWN:
            heapq.heappop(kept)


def _shown(run: RunDirectory, kept: Sequence[tuple[float, int, int]], what: str) -> Iterator[Sample]:
    wanted = {(iteration, index): size for size, iteration, index in kept}
    found = [group for number in {name[0] for name in wanted} for group in groups_of(run, number)]
    groups = [group for group in found if (group.iteration, group.prompt_index) in wanted]
    for group in sorted(groups, key=lambda group: -wanted[group.iteration, group.prompt_index]):
        yield matrix_of(group, what)


def matrix_of(group: Group, what: str) -> Sample:
    """A group's responses with their win rates, and its matrix."""
    names = [name_of(k) for k in range(len(group.matrix))]
    roles = group.roles
    answers = [
        Answer(
            f"{name} ({roles[k]})" if k in roles else name,
            cut(text),
            f"win rate {group.win_rates[k]:.2f}, {len(group.row['response_token_ids'][k])} tokens",
        )
        for k, (name, text) in enumerate(zip(names, group.row["responses"], strict=True))
    ]
    about = f"{what}: prompt {group.prompt_id}, iteration {group.iteration}; {describe(group)}"
    values = [[None if np.isnan(value) else float(value) for value in row] for row in group.matrix]
    return Sample(cut(group.row["prompt"]), answers, about, values, names)


def describe(group: Group) -> str:
    """``A beats B beats C beats A``; without a cycle the largest upset, or that there is none."""
    if cycle := preferences.cycle(group.matrix):
        return " beats ".join(name_of(k) for k in (*cycle, cycle[0]))
    upset = group.upset()
    return "no cycle, no upset" if upset is None else f"{name_of(upset[1])} beats {name_of(upset[2])}, whose win rate is higher"


def name_of(response: int) -> str:
    """``A`` for response 0."""
    return chr(ord("A") + response) if response < 26 else str(response)


def cut(text: str) -> str:
    """The text, its rest left out where it is very long."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … ({len(text):,} characters)"


def _known(rate: float | None) -> bool:
    return rate is not None and rate == rate


def _level(rate: float | None) -> Level:
    if rate is None or not _known(rate):
        return "plain"
    return "good" if rate > 0.5 else "warning" if rate < 0.5 else "plain"
