"""Real preferences: 999 comparisons of 5 models' answers to 170 instructions, by three annotators (PandaLM's test set); needs
RAYPREF_TEST_DATA."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypref.evaluation.agreement import LABELS, agreement, cohens_kappa, majority
from raypref.oracles.base import ABSTAIN, Answer, Oracle, Question
from raypref.oracles.ensemble import Ensemble
from raypref.oracles.support.checked import ask
from raypref.preferences import Matrix, has_cycle

DATA = os.environ.get("RAYPREF_TEST_DATA")

pytestmark = pytest.mark.skipif(DATA is None, reason="RAYPREF_TEST_DATA names no directory")

Records = list[dict[str, Any]]

CHANCES = {"first": 1.0, "second": 0.0, "tie": 0.5}


@pytest.fixture(scope="module")
def records() -> Records:
    return json.loads((Path(DATA) / "pandalm" / "testset-v1.json").read_text())


def labels_of(records: Records, annotator: int) -> list[str]:
    """The file says 1, 2 and 0."""
    return [LABELS[record[f"annotator{annotator}"] - 1] for record in records]


def majorities_of(records: Records) -> list[str | None]:
    return [majority(votes) for votes in zip(*(labels_of(records, annotator) for annotator in (1, 2, 3)), strict=True)]


def questions_of(records: Records) -> list[Question]:
    """One question per comparison; its id is the comparison's number."""
    prompts = [f"{record['instruction']}\n{record['input']}" for record in records]
    return [
        Question(str(record["idx"]), prompt, (record["response1"], record["response2"]), ((0, 1),))
        for record, prompt in zip(records, prompts, strict=True)
    ]


class Labelled(Oracle):
    """Says what a table says: prompt id -> pair -> label; abstains on what is not in it."""

    type: str = "labelled"
    table: dict

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        return [Answer(self._matrix(question)) for question in questions]

    def _matrix(self, question: Question) -> Matrix:
        values = np.full((len(question.responses), len(question.responses)), 0.5)
        for i, j in question.pairs:
            label = self.table[question.prompt_id].get((i, j))
            values[i, j], values[j, i] = (ABSTAIN, ABSTAIN) if label is None else (CHANCES[label], 1.0 - CHANCES[label])
        return values


def annotator(records: Records, number: int) -> Labelled:
    """An oracle that answers like one of the three."""
    labels = labels_of(records, number)
    return Labelled(table={str(record["idx"]): {(0, 1): label} for record, label in zip(records, labels, strict=True)})


def measured(oracle: Any, records: Records, labels: Any) -> Any:
    """Agreement, with the instructions as what is resampled."""
    questions = questions_of(records)
    chances = [answer.values[0, 1] for answer in ask(oracle, questions)]
    return agreement(chances, labels, [question.prompt for question in questions], resamples=500)


@pytest.mark.parametrize(("a", "b", "published"), [(1, 2, 0.85), (1, 3, 0.88), (2, 3, 0.86)])
def test_agreement_between_annotators_as_published(records: Records, a: str, b: str, published: Any) -> None:
    assert cohens_kappa(labels_of(records, a), labels_of(records, b)) == pytest.approx(published, abs=0.005)


def test_majority_labels_as_published(records: Records) -> None:
    """Every comparison has one."""
    assert Counter(majorities_of(records)) == {"tie": 105, "first": 422, "second": 472}


@pytest.mark.parametrize(("a", "b", "agreed"), [(1, 2, 912), (1, 3, 928), (2, 3, 917)])
def test_an_annotator_as_the_oracle_agrees_with_another_as_the_two_do(records: Records, a: str, b: str, agreed: Any) -> None:
    """Counted in the file; the intervals are over its 170 instructions."""
    labels = labels_of(records, b)
    found = measured(annotator(records, a), records, labels)
    assert found.comparisons == 999
    assert found.agreement == pytest.approx(agreed / 999)
    assert found.kappa == pytest.approx(cohens_kappa(labels_of(records, a), labels))
    assert found.low < agreed / 999 < found.high
    assert found.kappa_low < found.kappa < found.kappa_high


def test_an_ensemble_of_the_annotators_is_their_majority_but_for_one_vote_against_two_ties(records: Records) -> None:
    """A mean of three verdicts is on the side of the majority, unless two say tie and one does not: 7 + 13 of the 999, counted in the
    file. All three agree on 879; there the ensemble's disagreement is 0."""
    ensemble = Ensemble(members=[annotator(records, number) for number in (1, 2, 3)])
    found = measured(ensemble, records, majorities_of(records))
    assert found.confusion == ((422, 0, 0), (0, 472, 0), (7, 13, 85))
    spread = [answer.observed["oracle/disagreement"][0] for answer in ask(ensemble, questions_of(records))]
    assert sum(figure == 0.0 for figure in spread) == 879


def groups_of(records: Records, labels: Any) -> Any:
    """A question for each instruction, with the five models as its responses, and an oracle that answers as labelled.

    The models stand for their answers: of some instructions the file has an answer cut off at several places.
    """
    models = tuple(sorted({model for record in records for model in record["cmp_key"].split("_")}))
    table = {}
    for record, label in zip(records, labels, strict=True):
        i, j = (models.index(model) for model in record["cmp_key"].split("_"))
        table.setdefault(f"{record['instruction']}\n{record['input']}", {})[i, j] = label
    pairs = tuple(itertools.combinations(range(len(models)), 2))
    return [Question(prompt, prompt, models, pairs) for prompt in table], Labelled(table=table)


@pytest.mark.parametrize(("votes", "cycles"), [("majority", 1), (1, 3), (2, 3), (3, 1)])
def test_people_have_cycles_too(records: Records, votes: Any, cycles: Any) -> None:
    """Of 170 instructions, with 999 of their 1,700 comparisons labelled; counted by networkx as well."""
    labels = majorities_of(records) if votes == "majority" else labels_of(records, votes)
    questions, oracle = groups_of(records, labels)
    answers = ask(oracle, questions)
    assert len(questions) == 170
    assert sum(np.isnan(answer.values[np.triu_indices(5, 1)]).sum() for answer in answers) == 1700 - 999
    assert sum(has_cycle(answer.values) for answer in answers) == cycles


def test_the_cycle_of_the_majority_is_unanimous(records: Records) -> None:
    """Holidays: BLOOM's answer beats Cerebras-GPT's, that one LLaMA's, and LLaMA's beats BLOOM's, say all three annotators."""
    questions, oracle = groups_of(records, majorities_of(records))
    (prompt,) = {q.prompt for q, answer in zip(questions, ask(oracle, questions), strict=True) if has_cycle(answer.values)}
    assert prompt.startswith("You can easily make your holidays more eco-friendly")
    votes = {
        record["cmp_key"]: [record[f"annotator{number}"] for number in (1, 2, 3)]
        for record in records
        if f"{record['instruction']}\n{record['input']}" == prompt
    }
    assert votes["bloom-7b_cerebras-gpt-6.7B"] == [1, 1, 1]
    assert votes["cerebras-gpt-6.7B_llama-7b"] == [1, 1, 1]
    assert votes["bloom-7b_llama-7b"] == [2, 2, 2]
