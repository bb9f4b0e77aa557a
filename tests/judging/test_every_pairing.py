"""Every loss with every selection: either the check refuses the two before anything starts, or every group can be judged."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from raypref.checks import check
from raypref.config import RunConfig
from raypref.data.examples import ExampleBuilder
from raypref.judging.judge import Judge
from raypref.judging.oracle_queue import OracleQueue
from raypref.losses.base import losses
from raypref.oracles.base import ABSTAIN, Answer, Oracle, Question
from raypref.selection.base import selections
from tests.data.test_examples import Marks
from tests.groups import rollout

LOSSES: list[dict[str, Any]] = [
    *({"type": name} for name in losses.names()),
    {"type": "sppo", "against": "pair"},
    {"type": "sppo", "against": "pair", "labels": "hard"},
    {"type": "sppo", "baseline": "estimate"},
    {"type": "inpo", "labels": "soft"},
    {"type": "inpo", "labels": "win_rate"},
    {"type": "dpo", "labels": "soft"},
    {"type": "rebel", "rewards": "win_rate"},
    {"type": "kto", "desirable": "win_rate"},
    {"type": "spo", "form": "best_of_n"},
    {"type": "spo", "form": "ranking"},
    {"type": "spo", "labels": "soft"},
    {"type": "srpo", "labels": "soft"},
]
SELECTIONS: list[dict[str, Any]] = [
    *({"type": name} for name in selections.names()),
    {"type": "best_worst", "by": "score", "all_equal": "keep"},
    {"type": "best_of_n", "others": "drop"},
    {"type": "ranking", "examples": "tails", "all_equal": "keep"},
    {"type": "random_pair", "chosen": "drawn", "ties": "first"},
    {"type": "all_pairs", "ties": "first"},
]
JUDGING: list[dict[str, Any]] = [
    {},
    {"pairs": "all", "truncated": "drop"},
    {"pairs": "random", "opponents": 1},
    {"preference": "sppo", "truncated": "penalise"},
    {"pairs": "random", "abstentions": "drop_group"},
    {"abstentions": "tie", "tie_margin": 0.1},
]


class Moody(Oracle):
    """Its answers are drawn per question: certain ones, ties, abstentions and anything between."""

    type: str = "moody"

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        size = len(question.responses)
        draw = np.random.default_rng([ord(letter) for letter in question.prompt_id])
        values = np.full((size, size), 0.5)
        for i, j in itertools.combinations(range(size), 2):
            chance = draw.choice([0.0, 0.5, 1.0, ABSTAIN, draw.random()])
            values[i, j], values[j, i] = chance, ABSTAIN if chance == ABSTAIN else 1 - chance
        return Answer(values)


def config_of(loss: dict[str, Any], selection: dict[str, Any], judging: dict[str, Any], size: int) -> RunConfig:
    return RunConfig.parse(
        {
            "policy": {"path": "m"},
            "data": {"path": "p", "template": "tldr"},
            "oracle": {"type": "callable", "function": "builtins:len"},
            "rollout": {"responses": size},
        }
        | {"loss": loss, "selection": selection, "judging": judging}
    )


def judge_groups(config: RunConfig, groups: int = 8) -> int:
    """Judge groups of different lengths, cut-off responses and answers; how many examples came of them."""
    assert config.selection is not None
    builder = ExampleBuilder(config.loss, Marks())
    judge = Judge(OracleQueue(Moody(), config.judging), config.selection, config.loss, builder, config.judging)
    size = config.rollout.responses

    async def all_groups() -> int:
        count = 0
        for number in range(groups):
            texts = [f"{k:02d}" * (k % 3 + 1) for k in range(size)]
            group = rollout(*texts, cut_off=[k for k in range(size) if (k + number) % 4 == 0], prompt_id=f"p{number}")
            judged = await judge.judge(group, rollout(*texts, prompt_id="other"))
            fewest, most = config.loss.responses
            assert all(fewest <= len(pick) and (most is None or len(pick) <= most) for pick in judged.picked)
            count += len(judged.examples)
        return count

    return asyncio.run(all_groups())


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_loss_and_a_selection_are_refused_at_once_or_work_to_the_end(loss: dict[str, Any], selection: dict[str, Any]) -> None:
    for judging, size in [*((judging, 5) for judging in JUDGING), ({}, 2)]:
        config = config_of(loss, selection, judging, size)
        if not check(config):
            judge_groups(config)


def test_the_table_has_every_loss_and_every_selection() -> None:
    assert len(losses.names()) == 18
    assert len(selections.names()) == 7


PAIRS = ("all_pairs", "best_worst", "random_pair", "tournament")


@pytest.mark.parametrize("name", losses.names())
def test_what_fits_with_five_responses(name: str) -> None:
    """With the defaults: pairs for the losses of two responses; SPPO and REBEL read win rates over the group, which a
    tournament and a random pair do not ask for."""
    fits = {rule for rule in selections.names() if not check(config_of({"type": name}, {"type": rule}, {}, 5))}
    of_pairs = set(PAIRS)
    expected = {
        "best_response_sft": of_pairs | {"all_responses", "best_of_n", "ranking"},
        "sft": of_pairs | {"all_responses", "best_of_n", "ranking"},
        "rebel": {"all_pairs", "best_worst"},
        "sppo": {"all_responses", "all_pairs", "best_worst", "best_of_n", "ranking"},
        "s_dpo": of_pairs | {"all_responses", "best_of_n", "ranking"},
        "ranking_dpo": of_pairs | {"all_responses", "best_of_n", "ranking"},
    }
    assert fits == expected.get(name, of_pairs)


@pytest.mark.parametrize("name", losses.names())
def test_a_pairing_that_fits_gives_examples(name: str) -> None:
    """So that the test above is not passed by dropping every group."""
    for rule in PAIRS:
        config = config_of({"type": name}, {"type": rule}, {"pairs": "all", "abstentions": "tie"}, 5)
        assert check(config) == []
        assert judge_groups(config) > 0
