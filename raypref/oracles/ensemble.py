"""Several oracles as one: the weighted mean of their preferences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator, Field, PositiveFloat, SerializationInfo, model_serializer

from raypref.errors import ConfigError, OracleError
from raypref.metric_info import MetricInfo
from raypref.oracles.base import ABSTAIN, Answer, Oracle, Question, Services, oracles
from raypref.oracles.support.checked import Checked, ask
from raypref.registry import Section


class Member(Section):
    """An oracle of an ensemble. In a config, the oracle's keys and ``weight`` are side by side."""

    oracle: Oracle
    weight: PositiveFloat = 1.0
    """Its weight in the mean, relative to the other members."""

    @model_serializer
    def _side_by_side(self, info: SerializationInfo) -> dict[str, Any]:
        return self.oracle.model_dump(mode=info.mode) | {"weight": self.weight}


def _members_of(values: Any) -> list[Member]:
    """Members from a config's values. Reports every problem, with the member's number."""
    if not isinstance(values, list | tuple):
        raise ConfigError(f"oracle.members: expected a list of oracle sections, got {values!r}")
    built, problems = [], []
    for number, value in enumerate(values):
        try:
            with _naming(number):
                built.append(_member_of(value))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return built


def _member_of(value: Any) -> Member:
    if isinstance(value, Member):
        return value
    if not isinstance(value, Mapping):
        return Member(oracle=oracles.build(value))
    weight = {"weight": value["weight"]} if "weight" in value else {}
    settings = {key: setting for key, setting in value.items() if key != "weight"}
    return Member.parse({"oracle": oracles.build(settings), **weight}, path="oracle")


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Errors from inside the block name the member."""
    place = f"oracle.members.{number}"
    try:
        yield
    except ConfigError as error:
        raise ConfigError(re.sub(r"^oracle(?=[.:])", place, str(error), flags=re.MULTILINE)) from error
    except OracleError as error:
        raise OracleError(f"{place}: {error}") from error


@oracles.register("ensemble")
class Ensemble(Oracle):
    """P[i, j] = sum_m w_m P_m[i, j] / sum_m w_m, over the members that gave a verdict on the pair; it abstains where all members do.

    ``oracle/<member>/abstained`` is the share of comparisons on which a member abstained; what the member itself observes is beside it.
    <member> is its type and its number in the list, such as ``judge_1``. ``oracle/disagreement`` is the weighted standard deviation of the
    members' P[i, j] on pairs with two or more verdicts: 0 where they agree, at most 1/2.

    A verdict on which a member abstained is provisional, since the reason may be temporary (a request that failed).

    Members that wait for a server (``Oracle.parallel`` above 1) do so in threads, while the other members compute one after the other.
    """

    type: str = "ensemble"
    members: Annotated[list[Member], Field(min_length=1), BeforeValidator(_members_of)]
    """Oracle sections, each with a ``weight`` (default 1)."""

    @property
    def asks_policy(self) -> bool:
        return any(member.oracle.asks_policy for member in self.members)

    @property
    def waits_for_others(self) -> bool:
        return any(member.oracle.waits_for_others for member in self.members)

    @property
    def engine_share(self) -> float | None:
        shares = [share for member in self.members if (share := member.oracle.engine_share) is not None]
        return sum(shares) if shares else None

    def located(self) -> Self:
        return self.model_copy(
            update={"members": [Member(oracle=member.oracle.located(), weight=member.weight) for member in self.members]}
        )

    def load(self, services: Services) -> None:
        for number, member in enumerate(self.members):
            with _naming(number):
                member.oracle.load(services)

    def extra_metrics(self) -> tuple[MetricInfo, ...]:
        """Those of the members."""
        return tuple(entry for member in self.members for entry in member.oracle.extra_metrics())

    def identity(self) -> str | None:
        """The identities and weights of all members; None if a member has none."""
        identities = [(member.weight, member.oracle.identity()) for member in self.members]
        return None if any(identity is None for _, identity in identities) else json.dumps([self.type, identities])

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        answers = self._ask(questions)
        return [self._mean(question, [checked[number] for checked in answers]) for number, question in enumerate(questions)]

    def _ask(self, questions: Sequence[Question]) -> list[list[Checked]]:
        """(members, questions) checked answers.

        Raises:
            OracleError: a member's answer is no preference matrix; the message names the member.
        """
        answers: dict[int, list[Checked]] = {}
        with ExitStack() as stack:
            waiting = {
                number: stack.enter_context(_each(member.oracle, questions))
                for number, member in enumerate(self.members)
                if member.oracle.parallel > 1
            }
            for number, member in enumerate(self.members):
                if number not in waiting:
                    with _naming(number):
                        answers[number] = ask(member.oracle, questions)
            for number, arriving in waiting.items():
                with _naming(number):
                    answers[number] = list(arriving)
        return [answers[number] for number in range(len(self.members))]

    def _mean(self, question: Question, answers: Sequence[Checked]) -> Answer:
        values = np.full((len(question.responses), len(question.responses)), 0.5)
        weights = np.array([member.weight for member in self.members])
        deviations = []
        for i, j in question.pairs:
            chances = np.array([answer.values[i, j] for answer in answers])
            known = ~np.isnan(chances)
            if not known.any():
                values[i, j] = values[j, i] = ABSTAIN
                continue
            values[i, j] = np.average(chances[known], weights=weights[known])
            values[j, i] = 1.0 - values[i, j]
            if known.sum() > 1:
                deviations.append(float(np.sqrt(np.average((chances[known] - values[i, j]) ** 2, weights=weights[known]))))
        observed = {"oracle/disagreement": deviations} | self._observed(question, answers)
        return Answer(values, observed, self._provisional(question, answers))

    def _provisional(self, question: Question, answers: Sequence[Checked]) -> frozenset[tuple[int, int]]:
        abstained = {pair for pair in question.pairs if any(np.isnan(answer.values[pair]) for answer in answers)}
        return frozenset(abstained).union(*(answer.provisional for answer in answers))

    def _observed(self, question: Question, answers: Sequence[Checked]) -> dict[str, Sequence[float]]:
        observed: dict[str, Sequence[float]] = {}
        for number, (member, answer) in enumerate(zip(self.members, answers, strict=True)):
            name = f"oracle/{member.oracle.type.rpartition(':')[2]}_{number}"
            observed[f"{name}/abstained"] = [float(np.isnan(answer.values[pair])) for pair in question.pairs]
            observed |= {f"{name}/{key.removeprefix('oracle/')}": figures for key, figures in answer.observed.items()}
        return observed


@contextmanager
def _each(oracle: Oracle, questions: Sequence[Question]) -> Iterator[Iterator[Checked]]:
    """Answers as they arrive from an oracle that takes one question per call. An error in the block drops calls that have not begun."""
    pool = ThreadPoolExecutor(oracle.parallel, thread_name_prefix="oracle-member")
    try:
        yield pool.map(lambda question: ask(oracle, [question])[0], questions)
    finally:
        pool.shutdown(cancel_futures=True)
