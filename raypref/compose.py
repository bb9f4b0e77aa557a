"""The composition root: from a config, or objects in place of its sections, to a finished run. It alone imports ``actors``, lazily."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from raypref.checks import Task, check, check_supply
from raypref.config import RunConfig
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import ConfigError, DataError, Problem, refuse
from raypref.loop.driver import Driver
from raypref.losses.base import Loss
from raypref.metrics import warning_log
from raypref.metrics.answering import Answering
from raypref.metrics.progress import Callback, Callbacks, ended
from raypref.metrics.progress_line import ProgressLine
from raypref.metrics.writer import MetricsWriter
from raypref.oracles.base import Oracle
from raypref.output import directory as output
from raypref.output import run_lock, targets
from raypref.output.checkpoint import Checkpoints
from raypref.output.environment import write_environment
from raypref.output.failure import as_run_failure
from raypref.output.restarts import Restarts
from raypref.output.summary import RunResult
from raypref.plan.placement import Need, plan_placement
from raypref.plan.plan_file import write_plan
from raypref.report.model_card import with_card
from raypref.roles import OracleRole, RolloutRole
from raypref.selection.base import Selection
from raypref.settings.objects import with_objects
from raypref.settings.without_effect import notes
from raypref.types import Chain, RunData

T = TypeVar("T")
logger = logging.getLogger(__name__)


def run(
    config: RunConfig,
    *,
    prompts: Sequence[Any] | None = None,
    held_out: Sequence[Any] | None = None,
    oracle: Oracle | Callable[..., Any] | None = None,
    selection: Selection | None = None,
    loss: Loss | None = None,
    callbacks: Sequence[Callback] | None = None,
    resume: bool | Literal["auto"] | Path = False,
    overwrite: bool = False,
) -> RunResult:
    """Run the loop to its end, on the existing Ray cluster or on a local one.

    Works inside the caller's ``ray.init``, and any number of times in one process.

    Args:
        config: what to run.
        prompts: in place of ``data.path``: texts, lists of chat messages, or mappings as a data file holds them.
        held_out: in place of ``data.held_out``, likewise; for given data with or without answers.
        oracle: in place of the ``oracle`` section: an ``Oracle``, or a function (see ``CallableOracle``).
        selection: in place of the ``selection`` section.
        loss: in place of the ``loss`` section.
        callbacks: called at every group, step and evaluation; default: a progress line. An error in one ends the run, except at the end.
        resume: True: continue from the newest checkpoint in ``output_dir``, from the start where there is none yet; a path: from this
            checkpoint; ``auto``: continue if ``output_dir`` holds a run, otherwise begin.
        overwrite: remove the run that ``output_dir`` holds, once all checks have passed; not together with ``resume``.

    Raises:
        ConfigError, DataError: before anything starts; all problems of the config in one message.
        PlacementError: the cluster cannot hold the run.
        RunFailed: an actor died or hung, or the disk is full; the run may be resumed.
        SyncError, LossNotFinite, OracleError: the run stopped; checkpoints, rollouts and metrics so far are on disk.
    """
    from raypref.data.records import listed
    from raypref.loop.garbage_collection import frozen_heap
    from raypref.loop.loading import load_run_data

    config = with_objects(config, oracle, selection, loss)
    held_out = listed(held_out, config.data)
    with ended(callbacks if callbacks is not None else [ProgressLine(config.iterations, steps=config.loop.steps)]) as shown:
        problems, facts = inspect(config, Task(held_out=None if held_out is None else bool(held_out)))
        refuse(problems)
        with frozen_heap():  # otherwise a file of a million prompts takes a sixth longer
            data = load_run_data(config, facts, records=prompts, held_out=held_out)
        refuse(check_supply(config, len(data.items)), DataError)
        with run_lock.held(config.output_dir):
            resumed, resume_from = output.begin_or_resume(config, data, resume, overwrite=overwrite)
            restarts = Restarts(config.checkpoint)
            attempt = partial(_run_on_cluster, config, data, shown, restarts)
            result = restarts.until_it_ends(
                partial(attempt, resume_from, resumed=resumed), lambda: attempt(output.resume(config, data), resumed=True)
            )
    return result.read_again()


def _run_on_cluster(
    config: RunConfig, data: RunData, callbacks: Sequence[Callback], restarts: Restarts, resume_from: Path | None, *, resumed: bool
) -> RunResult:
    from actors.cluster.peak import gpu_types, speed_of
    from actors.learner import universal
    from actors.learner.checkpoint import Layout

    begun = time.monotonic()
    after_step = None
    if resume_from is not None:
        after_step = Checkpoints.read(resume_from)[0].step
        layout = Layout(config.placement.learner.ranks, config.learner.zero_stage)
        universal.check(resume_from / "learner", layout, config.learner.optimizer.type)
    with as_run_failure(config, lambda: "at the start"), contextlib.ExitStack() as stack:
        actors = stack.enter_context(_actors(config, Task(held_out=bool(data.held_out)), callbacks, again=bool(restarts.entries)))
        recorded = output.rewind(config, resume_from) if resumed else frozenset()  # every check has passed, and the cluster holds the run
        write_environment(config.output_dir, actors.device, actors.machines)
        write_plan(config, data, gpu_types(), actors.device)
        metrics = stack.enter_context(MetricsWriter.of(config, after_step))

        async def train() -> RunResult:
            start_s = time.monotonic() - begun
            logger.info("started in %.0f s", start_s)
            driver = Driver(config, actors.roles, data, metrics=metrics, callbacks=callbacks, recorded=recorded)
            driver.meter.sources += [one.take_metrics for one in (actors.roles.rollout, actors.peaks) if one is not None]
            driver.meter.speed = speed_of(config, actors.device)
            actors.supervisor.on_restart = driver.failures.replaced
            with as_run_failure(config, lambda: driver.iterations.moment(driver.state)), restarts.counting(lambda: driver.state.iteration):
                outcome = await actors.supervisor.supervised(driver.run(resume_from))
                outcome.seconds = {"start": round(start_s, 3)} | outcome.seconds
                outcome.warnings = warning_log.read(config.output_dir)
                # Before the actors end: whatever goes wrong there, the run has been finished.
                return with_card(RunResult.written(config, outcome, time.monotonic() - begun, data.left_out, restarts.entries))

        return _with_actors(actors, train)


def generate(
    config: RunConfig, prompts: str | Sequence[Any], output: Path, *, responses: int = 1, revisions: int = 0, best: bool = False
) -> None:
    """Have the policy answer prompts and revise its answers, through the engines of ``placement.rollout``; no learner is started.

    Args:
        config: policy, data (how prompts are read and rendered), rollout (sampling) and placement are what matters.
        prompts: a file, directory or data set like ``data.path``, or prompts as ``run`` takes them.
        output: a JSONL file (see ``raypref.output.generated_answers.record_of``), replaced; none of the files that are read.
        responses: first answers per prompt.
        revisions: number of revisions of each; needs ``data.template``.
        best: keep the one of each prompt's last answers with the highest mean score under the oracle (best of n, SPPO section 5). All
            answers are first written next to ``output``, to ``<its name>.all.jsonl``.

    Raises:
        ConfigError, DataError, PlacementError: before anything starts.
    """
    from raypref.evaluation.reranking import best_of
    from raypref.loop.generation import generate_chains, load_questions
    from raypref.output.generated_answers import write_chains

    config, output = config.located(), Path(os.path.expanduser(output))
    all_answers = output.with_name(f"{output.stem}.all.jsonl")
    targets.check_answers(config, prompts, [output, all_answers] if best else [output])
    task = Task("generate", revises=revisions > 0, chooses=responses if best else 0)
    problems, facts = inspect(config, task)
    refuse(problems)
    if responses > 1 and not config.rollout.temperature:
        raise ConfigError(
            f"rollout.temperature: 0, which gives {responses} equal answers; set it above 0, or ask for one answer per prompt"
        )
    questions, revise = load_questions(config, facts, prompts, revisions)

    async def answers() -> list[Chain]:
        chains = await generate_chains(actors.roles.rollout, config, questions, responses, revisions, revise, shown.on_answered)
        if not best:
            return chains
        write_chains(all_answers, chains)
        return await best_of(chains, actors.roles.oracle)

    shown = Answering(len(questions))
    with ended([shown]), _actors(config, task, [shown]) as actors:
        write_chains(output, _with_actors(actors, lambda: actors.supervisor.supervised(answers())))


def with_oracle(config: RunConfig, work: Callable[[OracleRole], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine with the config's oracle; only the actors of ``placement.oracle`` are started.

    Args:
        config: oracle, judging, placement and output_dir are what matters.
        work: a coroutine function of the oracle's role.

    Raises:
        ConfigError: there is no oracle, or it asks the policy.
        PlacementError: the cluster cannot hold the actors.
    """
    config, task = config.located(), Task("compare")
    refuse([*check(config, task), *_placement_problems(config, task)])
    with _actors(config, task) as actors:
        return _with_actors(actors, lambda: actors.supervisor.supervised(work(actors.roles.oracle)))


def with_policy(
    config: RunConfig, work: Callable[[RolloutRole, PolicyFacts], Coroutine[Any, Any, T]], callbacks: Sequence[Callback] = ()
) -> T:
    """Run a coroutine with engines that hold the config's policy; only the actors of ``placement.rollout`` are started.

    Args:
        config: policy, rollout, placement and output_dir are what matters.
        work: a coroutine function of the engines' role and of what is known of the policy.

    Raises:
        ConfigError, PlacementError: before anything starts.
    """
    config, task = config.located(), Task("generate")
    problems, facts = inspect(config, task)
    refuse(problems)
    with _actors(config, task, callbacks) as actors:
        return _with_actors(actors, lambda: actors.supervisor.supervised(work(actors.roles.rollout, facts)))


def inspect(config: RunConfig, task: Task) -> tuple[list[Problem], Any]:
    """Everything that is wrong with a config, its placement and its policy's files; nothing is started. Settings without effect are logged.

    Returns:
        The problems, and the policy's ``PolicyFacts``: None where its files cannot be read.
    """
    from actors.learner.policy_export import check_savable
    from actors.policy_model import check_routers, facts_of
    from actors.weights.source import check_sendable

    for note in notes(config, task):
        logger.warning("%s", note)
    problems = [*check(config, task), *_placement_problems(config, task)]
    try:
        facts = facts_of(config.policy)
        if task.kind == "run":
            check_savable(config.policy, facts.tokenizer)
            check_routers(config.policy)
            check_sendable(config.policy)
            targets.check_room(config)
        return problems, facts
    except ConfigError as error:
        return [*problems, Problem.of(error)], None


def _placement_problems(config: RunConfig, task: Task) -> Iterator[Problem]:
    from actors.cluster.gpu_shares import check_shares
    from actors.weights import transport

    device, oracle_share = config.placement.device, None if config.oracle is None else config.oracle.engine_share

    def plan() -> None:
        placed = plan_placement(config.placement, Need.of(config, task))
        if device == "cuda":
            check_shares(placed, config.rollout.gpu_memory_utilization, oracle_share)

    def choose() -> None:
        if device != "auto":  # otherwise the cluster decides
            transport.choose(config.sync.transport, device, config.placement.layout)

    for part in (plan, choose):
        try:
            part()
        except ConfigError as error:
            yield Problem.of(error)


@contextlib.contextmanager
def _actors(config: RunConfig, task: Task, callbacks: Sequence[Callback] = (), *, again: bool = False) -> Iterator[Any]:
    """The ``RunActors`` that a task needs, on the existing cluster or a local one; ``again``: on which they were before."""
    from actors.cluster.connection import connected, ship_modules
    from actors.run_actors import RunActors

    plan = plan_placement(config.placement, Need.of(config, task))
    Callbacks(callbacks).on_waiting([actor.name for actor in plan.actors])
    with connected(plan, config) as (device, may_grow):
        logger.info("starting %s; their logs go to %s", plan.arithmetic(device), config.output_dir / "logs")
        ship_modules()
        with RunActors.reserved(config, plan, device, may_grow=may_grow, again=again) as actors:
            actors.on_waiting = Callbacks(callbacks).on_waiting
            yield actors


def _with_actors(actors: Any, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Start the actors, do ``work``, and let the actors end; in another thread where an event loop already runs here (a notebook)."""

    async def start_work_and_close() -> T:
        try:
            await actors.start()
            return await work()
        finally:
            await actors.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(start_work_and_close())
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, start_work_and_close()).result()
