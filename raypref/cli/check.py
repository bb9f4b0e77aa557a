"""``raypref check``: every problem of a config, of its data's first records and of its model's files. Nothing is started."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from raypref.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from raypref.config import RunConfig

FIRST_RECORDS = 32
"""Records that are read of each data file."""


def problems_of(path: Path, overrides: Sequence[str]) -> list[Problem]:
    """Every problem that shows before anything is started.

    Args:
        path: the run's YAML file.
        overrides: ``section.key=value``.

    Raises:
        ConfigError: the file is missing or malformed.
    """
    from raypref.checks import Task
    from raypref.compose import inspect
    from raypref.config import read_values

    config, problems = _parsed(read_values(path, overrides))
    if config is None:
        return problems
    more, facts = inspect(config, Task())
    problems += more
    known = {problem.path for problem in problems}
    return problems + [problem for problem in _data_problems(config, facts) if problem.path not in known]


def _parsed(values: dict[str, Any]) -> tuple[RunConfig | None, list[Problem]]:
    """The config without the keys that are wrong, so that the rest can be checked, and what is wrong with them."""
    from raypref.config import RunConfig

    try:
        return RunConfig.parse(values), []
    except ConfigError as error:
        problems = [Problem.of(ConfigError(line)) for line in str(error).splitlines()]
        rest = copy.deepcopy(values)
        _remove_wrong_keys(rest, error.__cause__)
    try:
        return RunConfig.parse(rest), problems
    except ConfigError:
        return None, problems


def _remove_wrong_keys(values: dict[str, Any], error: BaseException | None) -> None:
    """Remove what a validation error names; of a loss, selection or oracle, what the error inside it names."""
    assert isinstance(error, ValidationError)
    for item in error.errors():
        *sections, key = item["loc"] or (None,)
        parent: Any = values
        for section in sections:
            parent = parent.get(section, {}) if isinstance(parent, dict) else {}
        if not isinstance(parent, dict) or key not in parent:
            continue
        inside = getattr(item.get("ctx", {}).get("error"), "__cause__", None)
        if isinstance(inside, ValidationError) and isinstance(parent[key], dict):
            _remove_wrong_keys(parent[key], inside)
        else:
            del parent[key]


def _data_problems(config: RunConfig, facts: Any) -> list[Problem]:
    """What is wrong with the first records of ``data.path`` and ``data.held_out``.

    Args:
        facts: the policy's ``PolicyFacts``; None: its files cannot be read, and the records are read, but not tokenised.
    """
    from raypref.loop.loading import load_run_data

    problems: list[Problem] = []
    records = _first_records("data.path", config.data.path, config, problems)
    held_out = None
    if config.data.held_out is not None:
        held_out = _first_records("data.held_out", config.data.held_out, config, problems)
    if problems or facts is None:
        return problems
    data = config.data.model_copy(update={"held_out_prompts": 0})  # would be set apart from the end of all records
    try:
        if held_out is not None and len(records) == FIRST_RECORDS:  # the records behind the first ones may have other prompts
            _load_alone(config.model_copy(update={"data": data}), facts, held_out)
            held_out, data = None, data.model_copy(update={"held_out": None})
        load_run_data(config.model_copy(update={"data": data}), facts, records=records, held_out=held_out)
    except (ConfigError, DataError) as error:
        return [Problem.of(error)]
    return []


def _load_alone(config: RunConfig, facts: Any, held_out: list[Any]) -> None:
    """Read held-out records without the training data."""
    from raypref.data.held_out import hold_answers
    from raypref.data.prompts import load_apart
    from raypref.loop.loading import check_answers_or_oracle, load_run_data

    if config.data.type != "prompts":
        if hold_answers(held_out, config.data):
            load_run_data(config, facts, records=held_out, held_out=[])
            return
        check_answers_or_oracle(config, held_out)
    load_apart(config.data, facts, facts.context_tokens - config.rollout.max_tokens, held_out)


def _first_records(key: str, path: str | None, config: RunConfig, problems: list[Problem]) -> list[Any]:
    from raypref.data.records import BadRecords, read_source

    if path is None:
        problems.append(Problem(key, None, "required", "name a file, a directory or a data set; or pass objects to raypref.run()"))
        return []
    try:
        bad = BadRecords(config.data.on_bad_record == "skip")
        return list(itertools.islice(read_source(path, None, config.data, bad, key=key), FIRST_RECORDS))
    except DataError as error:
        text = str(error)
        problems.append(Problem.of(error) if text.startswith("data.") else Problem(key, None, text, ""))
        return []
