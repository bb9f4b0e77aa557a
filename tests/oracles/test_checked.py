"""What an oracle may answer, and what it may not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from raypref.errors import OracleError
from raypref.oracles.base import ABSTAIN, Answer, Oracle, Question
from raypref.oracles.support.checked import ask, check
from tests.test_preferences import ORDERED, matrices

QUESTION = Question("p7", "Why?", ("a", "b", "c"), ((0, 1), (0, 2), (1, 2)))


def changed(*entries: tuple[int, int, float]) -> np.ndarray:
    values = ORDERED.copy()
    for i, j, value in entries:
        values[i, j] = value
    return values


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (ORDERED[:2, :2], r"expected a \(3, 3\) matrix for its 3 responses, got shape \(2, 2\)"),
        (ORDERED[0], r"got shape \(3,\)"),
        ([["a"]], r"expected a \(3, 3\) matrix of numbers, got list"),
        (changed((0, 2, np.nan)), r"P\[0, 2\] = nan is no probability in \[0, 1\]; to abstain, give -1\.0"),
        (changed((2, 0, np.inf)), r"P\[2, 0\] = inf is no probability"),
        (changed((0, 1, 1.3), (1, 0, -0.3)), r"P\[0, 1\] = 1\.3 is no probability in \[0, 1\]; give the sigmoid of a score"),
        (changed((1, 2, 0.8)), r"P\[1, 2\] \+ P\[2, 1\] = 0\.8 \+ 0\.3 = 1\.1, not 1; average both orders"),
        (changed((1, 1, 1.0)), r"P\[1, 1\] = 1\.0; a response against itself is 0\.5"),
        (changed((0, 0, np.nan)), r"P\[0, 0\] = nan; a response against itself"),
        (changed((0, 1, ABSTAIN)), r"P\[0, 1\] abstains, but P\[1, 0\] = 0\.2 does not; abstain on both"),
    ],
)
def test_what_is_no_preference_matrix_is_refused(matrix: Any, message: str) -> None:
    with pytest.raises(OracleError, match=r"oracle 'mine', prompt 'p7': .*" + message):
        check(matrix, QUESTION, "mine")


class Failing(Oracle):
    """Raises for one prompt, or returns something else."""

    type: str = "failing"
    returned: Any = "raise"

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        if self.returned == "raise":
            raise KeyError("my bug: no such feature")
        result: list[Answer] = self.returned
        return result


def test_an_oracle_that_raises_is_named_with_the_prompts_of_the_batch() -> None:
    questions = [Question(f"p{k}", "Why?", ("a", "b"), ((0, 1),)) for k in range(18)]
    with pytest.raises(OracleError) as caught:
        ask(Failing(), questions[:2])
    place = r"\(.*test_checked\.py:\d+, in compare\)"
    message = rf"oracle 'failing' raised KeyError: 'my bug: no such feature' {place}, asked about prompts 'p0', 'p1'"
    assert re.fullmatch(message, str(caught.value))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(OracleError, match=r"asked about prompts 'p0', .*, 'p15' and 2 more$"):
        ask(Failing(), questions)
    with pytest.raises(OracleError, match=r"asked about prompt 'p3'$"):
        ask(Failing(), questions[3:4])


@pytest.mark.parametrize("returned", [None, 0.5, "text", {"a": 1}])
def test_an_oracle_that_returns_no_list_is_told_what_to_return(returned: object) -> None:
    with pytest.raises(OracleError, match=r"oracle 'failing': returned \w+; expected a list of Answer, one per prompt"):
        ask(Failing(returned=returned), [QUESTION])


@given(matrices())
def test_a_preference_matrix_is_taken_as_it_is(values: Any) -> None:
    size = len(values)
    question = Question("p", "Why?", ("a",) * size, tuple((i, j) for i in range(size) for j in range(i + 1, size)))
    np.testing.assert_allclose(check(values, question, "mine"), values, atol=1e-12)


def test_only_what_was_asked_is_read() -> None:
    read = check(changed((1, 2, 7.0), (0, 2, np.nan)), Question("p7", "Why?", ("a", "b", "c"), ((0, 1),)), "mine")
    np.testing.assert_allclose(read, [[0.5, 0.8, np.nan], [0.2, 0.5, np.nan], [np.nan, np.nan, 0.5]])


def test_an_abstention_is_masked() -> None:
    read = check(changed((0, 1, ABSTAIN), (1, 0, ABSTAIN)), QUESTION, "mine")
    np.testing.assert_array_equal(np.isnan(read), [[False, True, False], [True, False, False], [False, False, False]])


def test_the_rounding_of_float32_is_shared_out() -> None:
    """0.8 and 0.2 in float32 add up to 1 + 1.5e-8; afterwards they add up to 1 exactly."""
    read = check(ORDERED.astype(np.float32), QUESTION, "mine")
    assert (read + read.T == 1).all()


def test_a_probability_a_rounding_error_outside_is_brought_back() -> None:
    read = check(changed((0, 1, 1 + 1e-7), (1, 0, -1e-7)), QUESTION, "mine")
    assert (read[0, 1], read[1, 0]) == (1.0, 0.0)


def test_as_many_answers_as_questions() -> None:
    class Silent(Oracle):
        type: str = "silent"

        def compare(self, questions: Sequence[Question]) -> list[Answer]:
            return []

    with pytest.raises(OracleError, match="oracle 'silent': 0 answers to 1 questions"):
        ask(Silent(), [QUESTION])
