"""One call of a command of ``raypref evaluate``: its config, what it reads, its oracle, and where its results go."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from raypref.cli.options import Inputs

if TYPE_CHECKING:
    from rich.table import Table

    from raypref.cli.arguments import NamedPolicy
    from raypref.config import RunConfig
    from raypref.evaluation.labelled_comparisons import LabelledComparison
    from raypref.evaluation.matching import Matched
    from raypref.evaluation.outcomes import Outcomes
    from raypref.evaluation.response_files import ResponseSet
    from raypref.roles import OracleRole

T = TypeVar("T")


class Evaluation:
    """One call of a command. Everything that is read is checked before a policy answers, the oracle is asked, or a file is written."""

    def __init__(self, config: Path, overrides: list[str] | None, output: Path, results: Sequence[str], inputs: Inputs) -> None:
        """
        Args:
            config: the run's YAML file, or the run.
            overrides: ``section.key=value``.
            output: directory of the results.
            results: names of the files that the command writes there.
            inputs: the shared options of the command.

        Raises:
            ConfigError, DataError: the config has no oracle that can compare given responses, or a file cannot be read.
        """
        from raypref.checks import Task, check
        from raypref.cli.arguments import formats_of, run_config
        from raypref.errors import refuse
        from raypref.evaluation.response_files import read_questions

        self.output = output
        self.partial = inputs.partial
        self.config: RunConfig = run_config(config, overrides or []).model_copy(update={"output_dir": output})
        refuse(check(self.config, Task("compare")))
        self.in_flight = self.config.groups_in_flight()
        evaluation = self.config.evaluation
        self.bootstrap: dict[str, Any] = {
            "resamples": evaluation.bootstrap_resamples,
            "confidence": evaluation.confidence,
            "seed": self.config.seed,
        }
        self._inputs = inputs
        self._results = [output / name for name in results]
        self._formats = formats_of(inputs.formats or [])
        self._questions = None if inputs.questions is None else read_questions(inputs.questions)
        self._files_read = [] if inputs.questions is None else [inputs.questions]

    def read(self, argument: str, column: str | None = None) -> ResponseSet:
        """The responses of ``NAME=FILE`` or ``FILE``, from the field ``column`` where one is named."""
        from raypref.cli.arguments import path_of, read_set

        self._files_read.append(path_of(argument)[1])
        return read_set(argument, self._questions, column, self._formats)

    def methods(self, opponent: str) -> dict[str, list[ResponseSet]]:
        """The first answers and their revisions in each file of ``--responses``: name -> one set per round.

        Raises:
            ConfigError: there is no file, or two of one name.
        """
        from raypref.cli.arguments import check_names, path_of
        from raypref.evaluation.response_files import read_rounds

        named = [(name or path.stem, path) for name, path in map(path_of, self._inputs.responses or [])]
        check_names([*(name for name, _ in named), opponent], least=2)
        self._files_read += [path for _, path in named]
        return {name: read_rounds(path) for name, path in named}

    def comparisons(self, path: Path) -> list[LabelledComparison]:
        """Comparisons that people judged."""
        from raypref.evaluation.labelled_comparisons import read_comparisons

        self._files_read.append(path)
        return read_comparisons(path)

    def match(self, sets: Sequence[ResponseSet]) -> Matched:
        """The sets, prompt by prompt."""
        from raypref.evaluation.matching import match

        return match(sets, by=self._inputs.match, partial=self.partial)

    def sets(self, *, least: int = 1, against: ResponseSet | None = None) -> list[ResponseSet]:
        """The sets of ``--responses``, then those of ``--policy``, which answer now.

        Args:
            least: how many sets there must be, without ``against``.
            against: a set with which each of them is compared.

        Raises:
            ConfigError, DataError: before a policy answers.
        """
        from raypref.cli.arguments import check_names, policies_of

        others = [] if against is None else [against]
        from_files = [self.read(argument) for argument in self._inputs.responses or []]
        policies = policies_of(self._inputs.policies or [], self._inputs.prompts, self.output)
        check_names([*(one.name for one in (*from_files, *others)), *(policy.name for policy in policies)], least + len(others))
        at_hand = [*others, *from_files]
        for other in at_hand[1:]:
            self.match([at_hand[0], other])  # refuses sets that have different prompts
        self.check_targets(*(policy.target for policy in policies))
        return from_files + [self._answers_of(policy) for policy in policies]

    def check_targets(self, *responses: Path) -> None:
        """Refuse to replace files of responses that a command would write, or a file that it reads; say which results are replaced."""
        from raypref.cli.arguments import check_targets
        from raypref.output.terminal import visible

        for path in check_targets(self.output, responses, self._results, self._files_read):
            typer.echo(f"{visible(path)}: exists, and will be replaced")

    def _answers_of(self, policy: NamedPolicy) -> ResponseSet:
        from raypref.compose import generate
        from raypref.evaluation.response_files import read_responses

        assert self._inputs.prompts is not None
        self.output.mkdir(parents=True, exist_ok=True)
        policy_section = self.config.policy.model_copy(update={"path": policy.model})
        config = self.config.model_copy(update={"policy": policy_section, "rollout": self.config.evaluation_sampling})
        generate(config, self._inputs.prompts, policy.target, responses=self.config.evaluation.responses)
        return read_responses(policy.target, policy.name)

    def ask(self, work: Callable[[OracleRole], Coroutine[Any, Any, T]]) -> T:
        """The result of ``work`` with the config's oracle."""
        from raypref.compose import with_oracle

        self.output.mkdir(parents=True, exist_ok=True)
        return with_oracle(self.config, work)

    def play(self, matched: Matched, opponent: str | None = None) -> Outcomes:
        """All sets against each other, or against ``opponent`` alone."""
        from raypref.evaluation.outcomes import play

        async def compare(oracle: OracleRole) -> Outcomes:
            return await play(matched, oracle.compare, in_flight=self.in_flight, opponent=opponent)

        return self.ask(compare)

    def show(self, table: Table, result: Any, name: str) -> None:
        """Write the result as JSON, print the table and the file's name."""
        from raypref.evaluation.tables import write_json
        from raypref.output.terminal import print_table, visible

        write_json(self.output / name, result)
        print_table(table)
        typer.echo(visible(self.output / name))
