"""The sequences of an example: picked, revised, mismatched."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from raypref.data.examples import ExampleBuilder
from raypref.data.revision import Reviser
from raypref.errors import ConfigError, DataError
from raypref.losses.base import Loss
from raypref.types import Prompt
from tests.groups import rollout


class Six(Loss):
    type: str = "six"
    revisions: ClassVar[bool] = True


class Doubled(Loss):
    type: str = "doubled"
    mismatched: ClassVar[bool] = True


class Both(Six):
    type: str = "both"
    mismatched: ClassVar[bool] = True


class Marks(Reviser):
    """The prompt with the answer's characters behind it."""

    def __init__(self) -> None: ...

    def revise(self, prompt: Prompt, answer: str) -> Prompt:
        return Prompt(0, prompt.id, "", np.array([*prompt.token_ids, *map(ord, answer)], dtype=np.int32))


GROUP = rollout("a", "bb", "c")


def read(example: Any) -> list[tuple[str, str]]:
    """(prompt, response) of each sequence as characters; the first prompt is the tokens 1, 2, 3."""
    pairs = zip(example.prompt_ids, example.response_ids, strict=True)
    return [("x" + "".join(map(chr, p[3:])), "".join(map(chr, r))) for p, r in pairs]


def test_picked_sequences_share_one_prompt_array() -> None:
    example = ExampleBuilder(Loss()).build(GROUP, (1, 0), np.array([2.0, -1.0]), None)
    assert example is not None
    assert read(example) == [("x", "bb"), ("x", "a")]
    assert example.prompt_ids[0] is example.prompt_ids[1] is GROUP.prompt.token_ids
    assert example.targets.tolist() == [2.0, -1.0]
    assert example.sampled_logps is not None
    assert example.sampled_logps.tolist() == [-1.0, -0.5], "2 tokens and 1, at -0.5 nats each"


def test_revisions_in_the_order_of_the_contract() -> None:
    """w, l given x; given x and w; given x and l; the two targets three times."""
    example = ExampleBuilder(Six(), Marks()).build(GROUP, (1, 0), np.array([2.0, -1.0]), None)
    assert example is not None
    assert read(example) == [("x", "bb"), ("x", "a"), ("xbb", "bb"), ("xbb", "a"), ("xa", "bb"), ("xa", "a")]
    assert example.targets.tolist() == [2, -1, 2, -1, 2, -1]
    assert example.prompt_ids[2] is example.prompt_ids[3]
    np.testing.assert_equal(example.sampled_logps, [-1.0, -0.5, *[np.nan] * 4])


def test_mismatched_responses_stand_behind_the_own_ones() -> None:
    """Three picked, two to borrow: the first one again."""
    example = ExampleBuilder(Doubled()).build(GROUP, (2, 0, 1), np.arange(3.0), rollout("dd", "e", prompt_id="q"))
    assert example is not None
    assert read(example) == [("x", "c"), ("x", "a"), ("x", "bb"), ("x", "dd"), ("x", "e"), ("x", "dd")]
    assert example.targets.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(DataError, match="'p': mismatched sequences need the responses of another prompt"):
        ExampleBuilder(Doubled()).build(GROUP, (0,), np.zeros(1), None)


def test_a_sequence_that_is_too_long_gives_no_example() -> None:
    """x bb bb has 3 + 2 + 2 = 7 tokens; without revisions the longest has 5."""
    for loss, reviser, longest in ((Six(), Marks(), 7), (Loss(), None, 5)):
        targets = np.zeros(2)
        assert ExampleBuilder(loss, reviser, longest).build(GROUP, (1, 0), targets, None) is not None
        assert ExampleBuilder(loss, reviser, longest - 1).build(GROUP, (1, 0), targets, None) is None


def test_what_no_example_can_be_made_of() -> None:
    with pytest.raises(ConfigError, match=r"data\.template: loss 'six' trains on revisions"):
        ExampleBuilder(Six())
    with pytest.raises(ConfigError, match="there is no such example"):
        ExampleBuilder(Both(), Marks())
    with pytest.raises(ConfigError, match="revises pairs, the selection gave 3 responses"):
        ExampleBuilder(Six(), Marks()).build(GROUP, (0, 1, 2), np.zeros(3), None)
