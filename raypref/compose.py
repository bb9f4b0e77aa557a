"""The composition root: from a config, or Python objects in place of its sections, to a finished run.

This is the one module of ``raypref`` that imports ``actors``, and it does so when a run starts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from raypref.checks import Task, check, check_supply, evaluates, samples
from raypref.config import RunConfig
from raypref.errors import ConfigError, DataError, Problem, refuse
from raypref.loop.driver import Driver
from raypref.loop.generation import Chain
from raypref.loop.outcome import Outcome
from raypref.losses.base import Loss
from raypref.oracles.base import Oracle
from raypref.oracles.callable import CallableOracle
from raypref.output import directory as output
from raypref.output import report
from raypref.output.checkpoint import Checkpoints
from raypref.output.metric_table import MetricTable
from raypref.output.metrics import MetricsWriter
from raypref.output.progress import Callback, ProgressLine
from raypref.roles import OracleRole
from raypref.selection.base import Selection
from raypref.types import RunData

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves behind."""

    output_dir: Path
    """Resolved config, metrics, rollouts, checkpoints, evaluations, logs."""
    policy_dir: Path
    """The final policy as a Hugging Face model directory."""
    summary: dict[str, Any]
    """The content of ``summary.json``: versions, evaluations, sync check, seconds by stage."""


def run(
    config: RunConfig,
    *,
    prompts: Sequence[Any] | None = None,
    held_out: Sequence[Any] | None = None,
    oracle: Oracle | Callable[..., Any] | None = None,
    selection: Selection | None = None,
    loss: Loss | None = None,
    callbacks: Sequence[Callback] | None = None,
    resume: bool = False,
) -> RunResult:
    """Run the loop to its end, on the Ray cluster that is there or on a local one.

    Works inside a ``ray.init`` of the caller's and any number of times in one process.

    Args:
        config: what to run.
        prompts: in place of ``data.path``: texts, lists of chat messages, or mappings as a data file holds them.
        held_out: in place of ``data.held_out``, likewise.
        oracle: in place of the ``oracle`` section: an ``Oracle``, or a function (see ``CallableOracle``).
        selection: in place of the ``selection`` section.
        loss: in place of the ``loss`` section.
        callbacks: told of every group, step and evaluation; default: a progress line.
        resume: continue from the newest checkpoint in ``output_dir``.

    Raises:
        ConfigError, DataError: before anything starts.
        PlacementError: the cluster cannot hold the run.
        SyncError, LossNotFinite, OracleError: the run stopped; checkpoints, rollouts and metrics so far are on disk.
    """
    from raypref.loop.loading import load_run_data

    config = _with_objects(config, oracle, selection, loss)
    problems, facts = inspect(config, Task(held_out=None if held_out is None else bool(held_out)))
    refuse(problems)
    data = load_run_data(config, facts, records=prompts, held_out=held_out)
    refuse(check_supply(config, len(data.items)), DataError)
    resume_from = None
    if resume:
        resume_from = output.resume(config)
    else:
        output.begin(config)
    start = time.monotonic()
    shown = callbacks if callbacks is not None else [ProgressLine(config.loop.iterations)]
    try:
        outcome = _run_on_cluster(config, data, shown, resume_from)
    finally:
        for callback in shown:
            callback.on_end()
    summary = _summary(config, outcome, run_s=time.monotonic() - start)
    report.write_summary(config.output_dir / "summary.json", summary)
    return RunResult(config.output_dir, Path(summary["policy_dir"]), summary)


def _run_on_cluster(config: RunConfig, data: RunData, callbacks: Sequence[Callback], resume_from: Path | None) -> Outcome:
    from actors.learner import checkpoint as learner_checkpoint
    from actors.learner.checkpoint import Layout

    begun = time.monotonic()
    need = _need(config, Task(held_out=bool(data.held_out)))
    after_step = None
    if resume_from is not None:
        after_step = Checkpoints.read(resume_from)[0].step
        learner_checkpoint.read(resume_from / "learner", Layout(config.placement.learner.ranks, config.learner.zero_stage))
    with (
        _assembled(config, need) as team,
        contextlib.closing(MetricsWriter(config.output_dir, after_step, MetricTable.of(config))) as metrics,
    ):
        driver = Driver(config, team.roles, data, metrics=metrics, callbacks=callbacks)
        return _complete(_with_team(team, _train(team, driver, resume_from, begun)))


def generate(
    config: RunConfig, prompts: str | Sequence[Any], output: Path, *, responses: int = 1, revisions: int = 0, best: bool = False
) -> None:
    """Have the policy answer prompts and revise its answers, through the engines of ``placement.rollout``; no learner is started.

    Args:
        config: policy, data (how prompts are read and rendered), rollout (sampling) and placement are what matters.
        prompts: a file, directory or data set like ``data.path``, or prompts as ``run`` takes them.
        output: a JSONL file (see ``raypref.loop.generation.record_of``), replaced.
        responses: first answers a prompt.
        revisions: how often each is revised; needs ``data.template``.
        best: of a prompt's last answers keep the one with the highest mean score under the oracle (best of n, SPPO section 5). All
            answers are written beside ``output``, to ``<its name>.all.jsonl``, before the oracle is asked.

    Raises:
        ConfigError, DataError: before anything starts.
        PlacementError: the cluster cannot hold the engines.
    """
    from raypref.data.prompts import load_held_out
    from raypref.data.revision import Reviser
    from raypref.evaluation.reranking import best_of
    from raypref.loop.generation import generate_chains, write_chains

    config = _with_objects(config, None, None, None)
    task = Task("generate", revises=revisions > 0, chooses=best)
    problems, facts = inspect(config, task)
    if best and responses < 2:
        problems.append(Problem("responses", responses, "which leaves the oracle nothing to choose from", "set at least 2"))
    refuse(problems)
    room = facts.context_tokens - config.rollout.max_tokens
    given = {"held_out": prompts} if isinstance(prompts, str) else {}
    section = config.data.model_copy(update=given | {"held_out_prompts": 0})
    asked, dropped = load_held_out(section, facts.tokenizer, room, None if given else prompts)
    if dropped:
        logger.warning("%d prompts dropped: longer than %d tokens, which leaves no room for rollout.max_tokens", dropped, room)
    revise = Reviser(section, facts.tokenizer).within(room) if revisions else None

    async def made() -> list[Chain]:
        chains = await generate_chains(team.roles.rollout, config, asked, responses, revisions, revise)
        if not best:
            return chains
        write_chains(output.with_name(f"{output.stem}.all.jsonl"), chains)
        return await best_of(chains, team.roles.oracle)

    with _assembled(config, _need(config, task)) as team:
        write_chains(output, _complete(_with_team(team, made())))


def with_oracle(config: RunConfig, work: Callable[[OracleRole], Coroutine[Any, Any, T]]) -> T:
    """Do something with the config's oracle, on actors of ``placement.oracle`` and no others.

    Args:
        config: oracle, judging, placement and output_dir are what matters.
        work: a coroutine function of the oracle's role.

    Raises:
        ConfigError: there is no oracle, or it needs what is not there (the policy, for one).
        PlacementError: the cluster cannot hold the actors.
    """
    config = _with_objects(config, None, None, None)
    task = Task("compare")
    refuse([*check(config, task), *_placement_problems(config, task)])
    with _assembled(config, _need(config, task)) as team:
        return _complete(_with_team(team, work(team.roles.oracle)))


def inspect(config: RunConfig, task: Task) -> tuple[list[Problem], Any]:
    """Everything that is wrong with a config, its placement and its policy's files; nothing is started.

    Returns:
        The problems, and the policy's ``PolicyFacts``: None where its files cannot be read.
    """
    from actors.policy_model import facts_of

    problems = [*check(config, task), *_placement_problems(config, task)]
    try:
        return problems, facts_of(config.policy)
    except ConfigError as error:
        return [*problems, Problem.of(error)], None


def _placement_problems(config: RunConfig, task: Task) -> list[Problem]:
    from actors.cluster.placement import plan_placement
    from actors.team import transport_of

    problems = []
    try:
        plan_placement(config.placement, _need(config, task))
    except ConfigError as error:
        problems.append(Problem.of(error))
    try:
        if config.placement.device != "auto":  # otherwise the cluster decides
            transport_of(config, config.placement.device)
    except ConfigError as error:
        problems.append(Problem.of(error))
    return problems


def _need(config: RunConfig, task: Task) -> Any:
    """The roles of a task (``actors.cluster.placement.Need``)."""
    from actors.cluster.placement import Need

    if task.kind != "run":
        return Need(rollout=task.kind == "generate", reference=False, oracle=task.kind == "compare" or task.chooses, learner=False)
    asked = config.data.type == "prompts" or evaluates(config, task)
    return Need(rollout=samples(config, task), reference=bool(config.loss.needs), oracle=asked)


@contextlib.contextmanager
def _assembled(config: RunConfig, need: Any) -> Iterator[Any]:
    """The ``Team`` of the actors that are needed, on the cluster that is there or a local one; the caller's modules reach every node."""
    from actors.cluster.connection import connected, ship_own_modules
    from actors.cluster.placement import plan_placement
    from actors.team import Team

    plan = plan_placement(config.placement, need)
    logger.info("starting %s; their logs go to %s", plan.arithmetic(), config.output_dir / "logs")
    with connected(plan, config) as (device, may_grow):
        ship_own_modules()
        with Team.assembled(config, plan, device, may_grow=may_grow) as team:
            yield team


async def _with_team(team: Any, work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    finally:
        await team.close()


async def _train(team: Any, driver: Driver, resume_from: Path | None, begun: float) -> Outcome:
    await team.connect()
    start_s = time.monotonic() - begun
    logger.info("started in %.0f s", start_s)
    outcome = await driver.run(resume_from)
    outcome.seconds = {"start": round(start_s, 3)} | outcome.seconds
    return outcome


def _complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; in a thread of its own where an event loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def _with_objects(
    config: RunConfig, oracle: Oracle | Callable[..., Any] | None, selection: Selection | None, loss: Loss | None
) -> RunConfig:
    """The config with the caller's objects in place of its sections, and local paths absolute: an actor's directory is another one."""
    policy = config.policy.model_copy(update={"path": _absolute(config.policy.path), "tokenizer": _absolute(config.policy.tokenizer)})
    given: dict[str, Any] = {"output_dir": config.output_dir.absolute(), "policy": policy}
    if oracle is not None:
        given["oracle"] = oracle if isinstance(oracle, Oracle) else CallableOracle.parse({"function": oracle}, path="oracle")
    if selection is not None:
        given["selection"] = selection
    if loss is not None:
        given["loss"] = loss
    if config.judging.cache is not None:
        given["judging"] = config.judging.model_copy(update={"cache": config.judging.cache.absolute()})
    config = config.model_copy(update=given)
    return config if config.oracle is None else config.model_copy(update={"oracle": config.oracle.located()})


def _absolute(path: str | None) -> str | None:
    """A directory's absolute path; a hub name, or nothing, as it is."""
    return str(Path(path).absolute()) if path is not None and Path(path).is_dir() else path


def _summary(config: RunConfig, outcome: Outcome, run_s: float) -> dict[str, Any]:
    return {
        "name": config.name,
        "policy_dir": str(config.output_dir / "policy"),
        "iterations": config.loop.iterations,
        "steps": outcome.steps,
        "confidence": config.evaluation.confidence,
        "evaluations": outcome.evaluations,
        "sync": outcome.sync,
        "run_s": round(run_s, 3),
        "seconds": outcome.seconds,
        "versions": report.versions(),
    }
