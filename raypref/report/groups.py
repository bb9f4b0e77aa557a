"""The groups that a run has sampled and judged, from its journal: sealed, or still open in a run that goes on or was killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref import preferences
from raypref.judging.transcript import Transcript
from raypref.output.recorded import journalled
from raypref.report.run_directory import RunDirectory
from raypref.types import Prompt, Response, Rollout

MATRICES = ("iteration", "prompt_index", "prompt_id", "preference", "origin")
"""The columns that a survey of all matrices needs."""


@dataclass(frozen=True)
class Group:
    """One group: a row of ``raypref.output.columns.ROLLOUT_COLUMNS``, K responses."""

    row: Mapping[str, Any] = field(repr=False)

    @property
    def iteration(self) -> int:
        return int(self.row["iteration"])

    @property
    def prompt_index(self) -> int:
        return int(self.row["prompt_index"])

    @property
    def prompt_id(self) -> str:
        return str(self.row["prompt_id"])

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """(K, K) P(i > j); NaN where it is not known."""
        return np.array([[np.nan if value is None else value for value in line] for line in self.row["preference"]], dtype=np.float64)

    @cached_property
    def win_rates(self) -> NDArray[np.float64]:
        """(K,) means of the known entries of each row; of a complete matrix they are ``preferences.win_rates``."""
        known = ~np.isnan(self.matrix)
        return np.asarray(np.where(known, self.matrix, 0.0).sum(axis=1) / known.sum(axis=1))

    @property
    def complete(self) -> bool:
        return not bool(np.isnan(self.matrix).any())

    @property
    def cyclic(self) -> bool:
        """Whether the majority relation has a cycle."""
        return preferences.has_cycle(self.matrix)

    @property
    def roles(self) -> dict[int, str]:
        """Response -> what it is in the group's training examples: chosen or rejected in one pair, otherwise picked."""
        picked = self.row["picked"]
        if len(picked) == 1 and len(picked[0]) == 2:
            return dict(zip(picked[0], ("chosen", "rejected"), strict=True))
        return {k: "picked" for pick in picked for k in pick}

    def upset(self) -> tuple[float, int, int] | None:
        """The largest upset: a response beats another one that has the higher win rate in the group.

        Returns:
            by how much (P(i > j) - 1/2, plus the lead of j in win rate), i and j; None where there is no upset.
        """
        lead = self.win_rates[None, :] - self.win_rates[:, None]
        chance = np.nan_to_num(self.matrix, nan=0.5) - 0.5
        size = np.where((lead > preferences.TIE) & (chance > preferences.TIE), lead + chance, 0.0)
        i, j = np.unravel_index(int(size.argmax()), size.shape)
        return (float(size[i, j]), int(i), int(j)) if size[i, j] > 0 else None

    @property
    def rollout(self) -> Rollout:
        """The sampled responses, as they were judged."""
        row = self.row
        chat = tuple((turn["role"], turn["content"]) for turn in row["chat"] or ())
        prompt = Prompt(self.prompt_index, self.prompt_id, row["prompt"], np.array(row["prompt_token_ids"], dtype=np.int32), chat)
        columns = zip(row["response_token_ids"], row["logprobs"], row["responses"], row["finish_reasons"], strict=True)
        responses = tuple(
            Response(np.array(ids, dtype=np.int32), np.array(logprobs, dtype=np.float32), text, reason)
            for ids, logprobs, text, reason in columns
        )
        return Rollout(prompt, responses, row["policy_version"], row["origin"])

    @property
    def transcript(self) -> Transcript:
        """What the oracle was asked and what it answered."""
        return Transcript.from_json(self.row["transcript"])


def groups_of(run: RunDirectory, iteration: int | None = None, columns: Sequence[str] | None = None) -> Iterator[Group]:
    """The run's groups in the order of its files; one that was written twice comes once.

    Args:
        run: whose groups.
        iteration: of this iteration alone.
        columns: what is read, ``iteration`` and ``origin`` among them; default: everything.
    """
    seen: set[tuple[int, str]] = set()
    for batch in journalled(run.path / "rollouts", run.problems, iteration, columns):
        for row in batch.to_pylist():
            name = (row["iteration"], row["origin"])
            if (iteration is None or row["iteration"] == iteration) and name not in seen:
                seen.add(name)
                yield Group(row)


def iteration_groups(run: RunDirectory, iteration: int) -> list[Group]:
    """The groups of one iteration in the order in which its batches fill."""
    return sorted(groups_of(run, iteration), key=lambda group: group.prompt_index)


def of_prompt(run: RunDirectory, prompt: str) -> list[Group]:
    """The groups of a prompt, by iteration: of the prompt with this id, or else with this ``prompt_index``."""
    names = [(group.iteration, group.prompt_index, group.prompt_id) for group in groups_of(run, columns=MATRICES)]
    wanted = {name[:2] for name in names if name[2] == prompt} or {name[:2] for name in names if str(name[1]) == prompt}
    found = [group for number in sorted({name[0] for name in wanted}) for group in groups_of(run, number)]
    return sorted((group for group in found if (group.iteration, group.prompt_index) in wanted), key=lambda group: group.iteration)
