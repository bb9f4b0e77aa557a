"""``raypref inspect RUN``: an overview, one prompt, one step, or groups by a metric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raypref.errors import ConfigError

if TYPE_CHECKING:
    from raypref.config import RunConfig
    from raypref.data.policy_facts import PolicyFacts
    from raypref.report.replay import Replay
    from raypref.report.run_directory import RunDirectory
    from raypref.types import Judged


def inspected(
    run: RunDirectory,
    *,
    prompt: str | None,
    step: int | None,
    sort: str | None,
    iteration: int | None,
    tokens: int,
    most: int,
    log_probs: bool,
    width: int,
) -> Iterator[str]:
    """The lines of the command.

    Raises:
        ConfigError: the run does not have what is asked for.
    """
    from raypref.report.overview import overview

    if prompt is not None:
        yield from _prompt(run, prompt, iteration, tokens, width, log_probs)
    elif step is not None:
        yield from _step(run, step, width)
    elif sort is not None:
        yield from _sorted(run, sort, iteration, most)
    else:
        yield from overview(run)


def _prompt(run: RunDirectory, prompt: str, iteration: int | None, tokens: int, width: int, log_probs: bool) -> Iterator[str]:
    from raypref.report.groups import iteration_groups, of_prompt
    from raypref.report.shown_group import shown_group

    found = [group for group in of_prompt(run, prompt) if iteration in (None, group.iteration)]
    if not found:
        raise ConfigError(f"--prompt {prompt}: no such group in {run.path / 'rollouts'}; raypref inspect RUN --sort length lists groups")
    replay, facts, missing = _replay(run)
    for group in found:
        judged = None
        if replay is not None:
            groups = iteration_groups(run, group.iteration) if replay.config.loss.mismatched else [group]
            places = [other.prompt_index for other in groups]
            judged = replay.judged(groups)[places.index(group.prompt_index)]
        logps = _log_probs(run, group.iteration, judged) if log_probs and judged is not None else []
        yield from shown_group(group, judged, replay, facts, tokens=tokens, width=width, logps=logps)
        yield ""
    yield from missing


def _log_probs(run: RunDirectory, iteration: int, judged: Judged) -> list[dict[str, Any]]:
    """For each example of a group the log-probs of its sequences under the policies on disk."""
    from raypref.report.policy_logps import logps_of, policies_around

    config = _config(run)
    policies = policies_around(run, config, iteration)
    if not policies:
        raise ConfigError("--log-probs: no policy of this iteration is on disk; checkpoint.policies says how many a run keeps")
    return [dict(logps_of(policies, example, config)) for example in judged.examples]


def _step(run: RunDirectory, number: int, width: int) -> Iterator[str]:
    from raypref.report.shown_step import shown_step

    if number > run.steps:
        raise ConfigError(f"--step {number}: the run has {run.steps} steps so far")
    config = _config(run)
    replay, facts, missing = _replay(run)
    if replay is None:
        raise ConfigError("; ".join(missing))
    if config.data.type == "prompts":
        yield from shown_step(run, replay, replay.sampled_step(run, number), width)
        return
    from raypref.loop.loading import load_run_data

    if facts is None or config.data.path is None:
        raise ConfigError(
            f"--step {number}: the run's data is given examples, which cannot be read here: {'; '.join(missing) or 'no data.path'}"
        )
    yield from shown_step(run, replay, replay.given_step(load_run_data(config, facts), number), width)


def _sorted(run: RunDirectory, metric: str, iteration: int | None, most: int) -> Iterator[str]:
    from raypref.report.groups import MATRICES, groups_of, iteration_groups
    from raypref.report.shown_group import listed

    newest = max((group.iteration for group in groups_of(run, columns=MATRICES)), default=0)
    groups = iteration_groups(run, iteration or newest)
    if not groups:
        raise ConfigError(f"--sort {metric}: {run.path / 'rollouts'} has no group{f' of iteration {iteration}' if iteration else ''}")
    replay, _, missing = _replay(run)
    if replay is None:
        raise ConfigError("; ".join(missing))
    yield from listed(groups, replay.judged(groups), metric, most)


def _config(run: RunDirectory) -> RunConfig:
    if run.config is None:
        raise ConfigError("; ".join(run.problems))
    return run.config


def _replay(run: RunDirectory) -> tuple[Replay | None, PolicyFacts | None, list[str]]:
    """What judges the run's groups again, its policy's tokenizer, and why one of them is missing.

    The tokenizer is that of the policy which the run started from, or else that of its result.
    """
    from raypref.checks import Task
    from raypref.compose import inspect
    from raypref.report.replay import Replay

    if run.config is None:
        return None, None, [f"note: {problem}" for problem in run.problems]
    notes: list[str] = []
    facts: PolicyFacts | None = None
    for path in (run.config.policy.path, *[str(path) for path in run.exported.values()][-1:]):
        policy = run.config.policy.model_copy(update={"path": path})
        problems, facts = inspect(run.config.model_copy(update={"policy": policy}), Task())
        if facts is not None:
            break
        notes += [f"note: {problem}" for problem in problems]
    try:
        return Replay(run.config, facts), facts, [] if facts is not None else notes[-1:]
    except ConfigError as error:
        return None, facts, [f"note: {error}"]
