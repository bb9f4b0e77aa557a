"""What the commands of ``raypref evaluate`` share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from raypref.cli.given import NamedPolicy
    from raypref.config import RunConfig
    from raypref.evaluation.labelled_comparisons import LabelledComparison
    from raypref.evaluation.matching import Matched
    from raypref.evaluation.outcomes import Outcomes
    from raypref.evaluation.response_files import ResponseSet
    from raypref.roles import OracleRole

T = TypeVar("T")


class Session:
    """What the commands share: the config, what is read, where results go, the oracle.

    Nothing is written, no policy answers and no oracle is asked before all that was given is checked.
    """

    def __init__(self, config: Path, overrides: list[str] | None, output: Path, *results: str, questions: Path | None = None) -> None:
        """
        Args:
            config: of the run.
            overrides: of it.
            output: directory of the results.
            results: names of the files that the command writes there.
            questions: of response files without prompts.
        """
        from raypref.checks import Task, check
        from raypref.config import load_config
        from raypref.errors import refuse
        from raypref.evaluation.response_files import read_questions

        self.output = output
        self.config: RunConfig = load_config(config, overrides or []).model_copy(update={"output_dir": output})
        refuse(check(self.config, Task("compare")))
        self.in_flight = self.config.groups_in_flight()
        evaluation = self.config.evaluation
        self.bootstrap: dict[str, Any] = {
            "resamples": evaluation.bootstrap_resamples,
            "confidence": evaluation.confidence,
            "seed": self.config.seed,
        }
        self._results = [output / name for name in results]
        self._questions = None if questions is None else read_questions(questions)
        self._inputs = [] if questions is None else [questions]

    def read(self, given: str, column: str | None = None) -> ResponseSet:
        from raypref.cli.given import path_of, read_given

        self._inputs.append(path_of(given)[1])
        return read_given(given, self._questions, column)

    def rounds(self, path: Path) -> list[ResponseSet]:
        from raypref.evaluation.response_files import read_rounds

        self._inputs.append(path)
        return read_rounds(path)

    def comparisons(self, path: Path) -> list[LabelledComparison]:
        from raypref.evaluation.labelled_comparisons import read_comparisons

        self._inputs.append(path)
        return read_comparisons(path)

    def sets(
        self,
        files: list[str] | None,
        policies: list[str] | None,
        prompts: str | None,
        *,
        partial: bool,
        least: int = 1,
        against: ResponseSet | None = None,
    ) -> list[ResponseSet]:
        """The sets of files, then those that policies answer now; at least so many.

        Args:
            files: ``NAME=FILE``, or ``FILE``.
            policies: ``NAME=MODEL``.
            prompts: what the policies answer.
            partial: whether prompts that are not in every set are left out.
            least: how many sets there must be, ``against`` aside.
            against: a set that each of them will meet.

        Raises:
            ConfigError, DataError: before a policy answers.
        """
        from raypref.cli.given import check_names, policies_of
        from raypref.evaluation.matching import match

        others = [] if against is None else [against]
        read = [self.read(given) for given in files or []]
        answering = policies_of(policies or [], prompts, self.output)
        check_names([*(own.name for own in (*read, *others)), *(policy.name for policy in answering)], least + len(others))
        there = [*others, *read]
        for own in there[1:]:
            match([there[0], own], partial=partial)
        self.check_targets(*(policy.target for policy in answering))
        return read + [self._answered(policy, prompts) for policy in answering]

    def check_targets(self, *responses: Path) -> None:
        """That nothing is in the way of the results, and of files of responses that will be written."""
        from raypref.cli.given import check_targets

        check_targets(self.output, responses, self._results, self._inputs)

    def _answered(self, policy: NamedPolicy, prompts: str | None) -> ResponseSet:
        from raypref.compose import generate
        from raypref.evaluation.response_files import read_responses

        assert prompts is not None
        self.output.mkdir(parents=True, exist_ok=True)
        config = self.config.model_copy(update={"policy": self.config.policy.model_copy(update={"path": policy.model})})
        generate(config, prompts, policy.target, responses=self.config.evaluation.responses)
        return read_responses(policy.target, policy.name)

    def ask(self, work: Callable[[OracleRole], Coroutine[Any, Any, T]]) -> T:
        from raypref.compose import with_oracle

        self.output.mkdir(parents=True, exist_ok=True)
        return with_oracle(self.config, work)

    def play(self, matched: Matched, opponent: str | None = None) -> Outcomes:
        from raypref.evaluation.outcomes import play

        async def compare(oracle: OracleRole) -> Outcomes:
            return await play(matched, oracle.compare, in_flight=self.in_flight, opponent=opponent)

        return self.ask(compare)

    def show(self, table: Table, result: Any, name: str) -> None:
        from rich.console import Console

        from raypref.evaluation.tables import write_json

        write_json(self.output / name, result)
        Console().print(table)
        typer.echo(str(self.output / name))
