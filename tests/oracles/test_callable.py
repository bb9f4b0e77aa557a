"""Python functions as oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raypref.errors import ConfigError, OracleError
from raypref.oracles.base import ABSTAIN, Oracle, Question, oracles
from raypref.oracles.callable import CallableOracle
from raypref.oracles.support.checked import ask
from raypref.preferences import Matrix

QUESTIONS = [Question("p0", "Why?", ("long answer", "short"), ((0, 1),)), Question("p1", "How?", ("a", "bb", "ccc"), ((0, 2), (1, 2)))]


def prefer_longer(prompts: list[str], responses: list[list[str]]) -> list[Matrix]:
    """P = 1 for the longer one, 1/2 for equal lengths."""
    lengths = [np.array([len(text) for text in group]) for group in responses]
    return [(np.sign(count[:, None] - count[None, :]) + 1) / 2 for count in lengths]


def longer_of_two(prompt: str, a: str, b: str) -> float:
    return 1.0 if len(a) > len(b) else 0.25


def build(**settings: Any) -> Oracle:
    return oracles.build({"type": "callable", **settings})


@pytest.mark.parametrize("function", [prefer_longer, "tests.oracles.test_callable:prefer_longer"])
def test_a_batch_of_prompts_in_matrices_out(function: Any) -> None:
    first, second = (answer.values for answer in ask(build(function=function), QUESTIONS))
    np.testing.assert_array_equal(first, [[0.5, 1.0], [0.0, 0.5]])
    assert (second[0, 2], second[1, 2]) == (0.0, 0.0)


def test_pairwise_asks_for_each_wanted_pair_once() -> None:
    """``a`` is shorter than ``ccc``: 0.25, and 0.75 for the mirror image; (0, 1) was not asked."""
    asked = []

    def judge(prompt: str, a: str, b: str) -> float:
        asked.append((prompt, a, b))
        return longer_of_two(prompt, a, b)

    answers = ask(build(function=judge, mode="pairwise"), QUESTIONS)
    assert asked == [("Why?", "long answer", "short"), ("How?", "a", "ccc"), ("How?", "bb", "ccc")]
    assert (answers[1].values[0, 2], answers[1].values[2, 0]) == (0.25, 0.75)
    assert np.isnan(answers[1].values[0, 1])


def test_pairwise_can_abstain() -> None:
    (answer, _) = ask(build(function=lambda prompt, a, b: ABSTAIN, mode="pairwise"), QUESTIONS)
    assert np.isnan(answer.values[0, 1])


@pytest.mark.parametrize(("given", "shown"), [(float("nan"), "nan"), (1.5, r"1\.5"), (-0.5, r"-0\.5")])
def test_pairwise_answers_are_checked(given: float, shown: str) -> None:
    with pytest.raises(OracleError, match=rf"oracle 'callable', prompt 'p0': P\[0, 1\] = {shown} is no probability"):
        ask(build(function=lambda prompt, a, b: given, mode="pairwise"), QUESTIONS)


def test_pairwise_answers_must_be_numbers() -> None:
    with pytest.raises(OracleError, match=r"prompt 'p0', responses 0 and 1: expected one number P\(a > b\), got None"):
        ask(build(function=lambda prompt, a, b: None, mode="pairwise"), QUESTIONS)


def test_a_batch_function_must_give_matrices() -> None:
    with pytest.raises(OracleError, match=r"<lambda> gave None; expected one matrix per prompt"):
        ask(build(function=lambda prompts, responses: None), QUESTIONS)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "cannot import 'no_such_module:f'"),
        ("tests.oracles.test_callable:no_such_function", "cannot import 'tests.oracles.test_callable:no_such_function'"),
        ("tests.oracles.test_callable", "expected 'module:name'"),
        ("tests.oracles.test_callable:QUESTIONS", "is a list, not a function"),
        (3, "expected 'module:name' or a function, got 3"),
    ],
)
def test_what_is_no_function_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"oracle\.function: .*{message}"):
        build(function=function)


@pytest.mark.parametrize("function", [prefer_longer, "tests.oracles.test_callable:prefer_longer"])
def test_the_resolved_config_names_the_function(function: Any) -> None:
    dumped = build(function=function).model_dump(mode="json")
    assert dumped == {"type": "callable", "function": "tests.oracles.test_callable:prefer_longer", "mode": "batch"}
    assert isinstance(oracles.build(dumped), CallableOracle)


def test_an_object_with_a_call_method_is_named_by_its_class() -> None:
    class Judge:
        def __call__(self, prompts: list[str], responses: list[list[str]]) -> list[Matrix]:
            return prefer_longer(prompts, responses)

    assert (
        build(function=Judge()).model_dump()["function"].endswith(":test_an_object_with_a_call_method_is_named_by_its_class.<locals>.Judge")
    )


def test_only_functions_that_are_their_code_may_be_cached() -> None:
    """Two functions of one name and different code are two oracles; the same code is one oracle wherever it is loaded."""

    def same_name(code: str) -> Any:
        space = {}
        exec(code, space)
        return build(function=space["judge"], mode="pairwise").identity()

    code = "def judge(prompt, a, b):\n    return 1.0 if a in {'x', 'y'} else 0.5\n"
    assert same_name(code) == same_name("\n" + code)
    assert same_name(code) != same_name(code.replace("1.0", "0.9"))
    table = {"a": 1.0}
    assert build(function=lambda prompt, a, b: table.get(a, 0.5), mode="pairwise").identity() is None
    assert build(function=np.vectorize(longer_of_two), mode="pairwise").identity() is None
    assert build(function=prefer_longer).identity() is None, "a batch function may look at the whole group"
