"""Checks an oracle's answers: each is a preference matrix, or an error that names the entry."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raypref.errors import OracleError, RayprefError
from raypref.oracles.base import ABSTAIN, Answer, Oracle, Question
from raypref.preferences import unknown

MOST_PROMPTS = 16
"""Prompts that a message names."""
TOLERANCE = 1e-6
"""Largest departure from P + P^T = 1, from [0, 1] and from 1/2 on the diagonal: enough for float32 rounding, too little for mistakes."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A checked answer to one question."""

    values: NDArray[np.float64]
    """(K, K), NaN where not asked or abstained; P + P^T = 1 exactly."""
    observed: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """``Answer.observed``."""
    provisional: frozenset[tuple[int, int]] = frozenset()
    """``Answer.provisional``."""


def ask(oracle: Oracle, questions: Sequence[Question]) -> list[Checked]:
    """Put questions to an oracle and check its answers.

    Raises:
        OracleError: naming the oracle, the prompt, the entry and its value; or the prompts of the batch, if the oracle itself fails.
    """
    try:
        answers = oracle.compare(questions)
    except RayprefError:
        raise
    except Exception as error:  # whatever the oracle's code raises
        raise OracleError(f"oracle {oracle.type!r} raised {_told(error)}, asked about {_prompts(questions)}") from error
    if not isinstance(answers, list | tuple):
        raise OracleError(f"oracle {oracle.type!r}: returned {type(answers).__name__}; expected a list of Answer, one per prompt")
    if len(answers) != len(questions):
        raise OracleError(f"oracle {oracle.type!r}: {len(answers)} answers to {len(questions)} questions; give one per prompt")
    return [_checked(answer, question, oracle.type) for answer, question in zip(answers, questions, strict=True)]


def _told(error: Exception) -> str:
    """The error with the line of code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = f": {error}" if str(error) else ""
    return f"{type(error).__name__}{text} ({frame.filename}:{frame.lineno}, in {frame.name})"


def _prompts(questions: Sequence[Question]) -> str:
    ids = [repr(question.prompt_id) for question in questions]
    more = f" and {len(ids) - MOST_PROMPTS} more" if len(ids) > MOST_PROMPTS else ""
    return f"prompt{'s' if len(ids) > 1 else ''} {', '.join(ids[:MOST_PROMPTS])}{more}"


def _checked(answer: object, question: Question, oracle: str) -> Checked:
    if not isinstance(answer, Answer):
        raise OracleError(f"oracle {oracle!r}, prompt {question.prompt_id!r}: expected an Answer, got {type(answer).__name__}")
    return Checked(check(answer.values, question, oracle), answer.observed, answer.provisional)


def check(matrix: object, question: Question, oracle: str) -> NDArray[np.float64]:
    """One answer: shape, finite numbers in [0, 1], P + P^T = 1, one half on the diagonal.

    Args:
        matrix: what the oracle returned; only the diagonal, the pairs that were asked and their mirror images are read.
        question: what it was asked.
        oracle: its name, for messages.

    Returns:
        (K, K), NaN where not asked or abstained; P + P^T = 1 exactly.

    Raises:
        OracleError: naming the oracle, the prompt, the entry and its value.
    """
    where = f"oracle {oracle!r}, prompt {question.prompt_id!r}"
    given = _as_square(matrix, len(question.responses), where)
    for k, value in enumerate(np.diagonal(given)):
        if not abs(value - 0.5) <= TOLERANCE:
            raise OracleError(f"{where}: P[{k}, {k}] = {value}; a response against itself is 0.5")
    values = unknown(len(given))
    for i, j in question.pairs:
        if given[i, j] == ABSTAIN and given[j, i] == ABSTAIN:
            continue
        values[i, j] = _checked_pair(given, i, j, where)
        values[j, i] = 1.0 - values[i, j]
    return values


def _as_square(matrix: object, size: int, where: str) -> NDArray[np.float64]:
    try:
        given = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OracleError(f"{where}: expected a ({size}, {size}) matrix of numbers, got {type(matrix).__name__}: {error}") from error
    if given.shape != (size, size):
        raise OracleError(f"{where}: expected a ({size}, {size}) matrix for its {size} responses, got shape {given.shape}")
    return given


def _checked_pair(given: NDArray[np.float64], i: int, j: int, where: str) -> float:
    """P[i, j]; a rounding error of P + P^T = 1 is divided evenly between the two entries."""
    for a, b in ((i, j), (j, i)):
        value = given[a, b]
        if value == ABSTAIN:
            raise OracleError(f"{where}: P[{a}, {b}] abstains, but P[{b}, {a}] = {given[b, a]} does not; abstain on both")
        if not -TOLERANCE <= value <= 1.0 + TOLERANCE:
            remedy = f"to abstain, give {ABSTAIN}" if np.isnan(value) else "give the sigmoid of a score, not the score"
            raise OracleError(f"{where}: P[{a}, {b}] = {value} is no probability in [0, 1]; {remedy}")
    total = given[i, j] + given[j, i]
    if abs(total - 1.0) > TOLERANCE:
        raise OracleError(
            f"{where}: P[{i}, {j}] + P[{j}, {i}] = {given[i, j]} + {given[j, i]} = {total}, not 1; average both orders of asking"
        )
    return float(np.clip((given[i, j] + 1.0 - given[j, i]) / 2.0, 0.0, 1.0))
