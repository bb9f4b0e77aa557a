"""A Python function as the oracle."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import CodeType
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer

from raypref.errors import ConfigError, OracleError
from raypref.oracles.base import ABSTAIN, Answer, Oracle, Question, oracles


def _function_of(value: Any) -> Callable[..., Any]:
    """The function itself, also where its name was given. It is sent to the nodes as an object."""
    if isinstance(value, str):
        return _import_function(value)
    if not callable(value):
        raise ConfigError(f"oracle.function: expected 'module:name' or a function, got {value!r}")
    return value


def _import_function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ConfigError(f"oracle.function: expected 'module:name', got {name!r}")
    importlib.invalidate_caches()  # the file may be younger than this process
    try:
        value = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"oracle.function: cannot import {name!r}: {error}; run from the directory that holds the module, or install it"
        ) from error
    if not callable(value):
        raise ConfigError(f"oracle.function: {name!r} is a {type(value).__name__}, not a function")
    return value


def _name(value: Callable[..., Any]) -> str:
    owner = value if hasattr(value, "__qualname__") else type(value)
    return f"{owner.__module__}:{owner.__qualname__}"


@oracles.register("callable")
class CallableOracle(Oracle):
    """Asks a Python function.

    ``mode: batch``: ``f(prompts: list[str], responses: list[list[str]])`` returns one (K, K) matrix per prompt, P[i, j] = P(response i >
    response j). ``mode: pairwise``: ``g(prompt: str, a: str, b: str)`` returns one number, P(a > b); it is called once per pair. To
    abstain, a function returns ``raypref.oracles.base.ABSTAIN``.
    """

    type: str = "callable"
    function: Annotated[Callable[..., Any], BeforeValidator(_function_of), PlainSerializer(_name, return_type=str)]
    """``module:name``, or a Python object (written to the resolved config by its name)."""
    mode: Literal["batch", "pairwise"] = "batch"
    """What the function takes and returns."""

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        if self.mode == "batch":
            answers = self.function([question.prompt for question in questions], [list(question.responses) for question in questions])
            if not isinstance(answers, Iterable):
                raise OracleError(f"oracle 'callable': {_name(self.function)} gave {answers!r}; expected one matrix per prompt")
            return [Answer(matrix) for matrix in answers]
        return [Answer(_matrix(self.function, question)) for question in questions]

    def identity(self) -> str | None:
        """The function's name and code, since a changed function may answer differently. The functions that it calls are not included.

        None, so that nothing is cached, where an answer depends on more than the code: a callable object, a closure, or ``mode: batch``,
        which sees the whole group.
        """
        if self.mode == "batch" or not inspect.isfunction(self.function) or self.function.__closure__:
            return None
        return self.model_dump_json() + repr((_code(self.function.__code__), self.function.__defaults__, self.function.__kwdefaults__))


def _code(code: CodeType) -> tuple[Any, ...]:
    """The code of a function in a form that is the same in every process."""
    inner = [_code(value) if isinstance(value, CodeType) else _text(value) for value in code.co_consts]
    return (code.co_code.hex(), code.co_names, code.co_varnames, inner)


def _text(value: object) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _matrix(function: Callable[..., Any], question: Question) -> NDArray[np.float64]:
    """(K, K) from a function of single pairs. Entries that were not asked are one half and are not read."""
    values = np.full((len(question.responses), len(question.responses)), 0.5)
    for i, j in question.pairs:
        chance = function(question.prompt, question.responses[i], question.responses[j])
        try:
            values[i, j] = float(chance)
        except (TypeError, ValueError) as error:
            raise OracleError(
                f"oracle 'callable', prompt {question.prompt_id!r}, responses {i} and {j}: expected one number P(a > b), got {chance!r}"
            ) from error
        values[j, i] = ABSTAIN if values[i, j] == ABSTAIN else 1.0 - values[i, j]
    return values
