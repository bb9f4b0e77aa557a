"""The rules that tie sections of the config together. ``check`` runs all of them on a config and starts nothing.

A rule is a function of the config and of the task, and yields a ``Problem`` for each thing that is wrong; to add one, write it and put it
into ``RULES``. What concerns one section alone is validated in that section. What needs the policy's files, the data or the cluster is
checked where these are read, by ``raypref.compose``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from raypref.errors import Problem, refuse
from raypref.judging.trial import misfit
from raypref.output.terminal import counted

if TYPE_CHECKING:
    from raypref.config import RunConfig
    from raypref.sections import LearnerConfig, PolicyConfig


@dataclass(frozen=True, slots=True)
class Task:
    """What a config is about to be used for."""

    kind: Literal["run", "generate", "compare"] = "run"
    """run: the whole loop; generate: the policy answers prompts; compare: the oracle compares given responses."""
    held_out: bool | None = None
    """run: whether the caller passes held-out prompts as objects; None: the ``data`` section decides."""
    revises: bool = False
    """generate: whether answers are revised."""
    chooses: int = 0
    """generate: of how many answers per prompt the oracle chooses the best; 0: all are kept."""


def check(config: RunConfig, task: Task | None = None) -> list[Problem]:
    """Every problem that the config alone shows.

    Args:
        config: with the caller's objects in place of its sections.
        task: default: a run with the data that the config names.
    """
    task = task or Task()
    return [problem for rule in RULES for problem in rule(config, task)]


def check_learner(policy: PolicyConfig, learner: LearnerConfig) -> None:
    """Refuse what DeepSpeed trains wrongly without an error. A learner rank calls this as well, for callers without a whole config.

    Raises:
        ConfigError: see ``_zero_stage_problems``.
    """
    refuse(_zero_stage_problems(policy, learner))


def check_supply(config: RunConfig, available: int) -> list[Problem]:
    """Whether there is enough data for the run.

    Args:
        available: prompts that can be sampled from, or given examples.
    """
    loop, batch, iterations = config.loop, config.learner.global_batch, config.iterations
    item, most = "prompt", 1
    if config.data.type != "prompts":
        item = "example"
    elif config.selection is not None:
        most = config.selection.examples_at_most(config.rollout.responses)
    if loop.sync_interval is not None:
        needed = iterations * -(-loop.sync_interval * batch // most)
        steps = [(iterations, "iteration"), (loop.sync_interval, "step")]
        factors = [*(steps if loop.steps is None else [(iterations * loop.sync_interval, "step")]), (batch, "example")]
    else:
        each = loop.prompts_per_iteration or 1
        needed, factors, most = iterations * each, [(iterations, "iteration"), (each, item)], 1
    if available >= needed:
        return []
    terms = " x ".join(counted(*factor) for factor in factors) + (f", of which a prompt gives at most {most}" if most > 1 else "")
    reason = f"{counted(available, f'usable {item}')}, but the run needs at least {needed} ({terms})"
    return [Problem("data", None, reason, f"give more data or lower loop.{'*' if loop.steps is None else 'steps'}")]


def holds_out(config: RunConfig, task: Task) -> bool:
    """Whether a run has held-out data and evaluates on it: by win rates, by the loss, or by both."""
    named = config.data.held_out is not None or config.data.held_out_prompts > 0
    return config.evaluation.wanted(named if task.held_out is None else task.held_out)


def evaluates(config: RunConfig, task: Task) -> bool:
    """Whether the policy answers held-out prompts and the oracle compares the answers. With given data an oracle says so: without one,
    the loss on held-out records is all that is measured."""
    return holds_out(config, task) and (config.data.type == "prompts" or config.oracle is not None)


def judges(config: RunConfig, task: Task) -> bool:
    """Whether a run asks the oracle: about sampled responses to training prompts, or to held-out ones."""
    return config.data.type == "prompts" or evaluates(config, task)


def samples(config: RunConfig, task: Task) -> bool:
    """Whether the run's engines answer anything: training prompts, held-out prompts, or the regulariser's."""
    return judges(config, task) or config.regulariser.on


# ------------------------------------------------------------------------------------------------- the rules


def _responses_to_compare(config: RunConfig, task: Task) -> Iterator[Problem]:
    if task.kind == "run" and config.data.type == "prompts" and config.rollout.responses < 2:
        yield Problem("rollout.responses", config.rollout.responses, "which leaves the oracle nothing to compare", "set at least 2")


def _oracle(config: RunConfig, task: Task) -> Iterator[Problem]:
    purpose = None
    if task.kind == "compare":
        purpose = "to compare responses"
    elif task.kind == "generate":
        purpose = "to choose the best answer" if task.chooses else None
    elif config.data.type == "prompts":
        purpose = "to train on sampled responses (data.type: prompts)"
    if purpose and config.oracle is None:
        yield Problem("oracle", None, f"required {purpose}", "give an oracle section")


def _oracle_without_policy(config: RunConfig, task: Task) -> Iterator[Problem]:
    if task.kind == "compare" and config.oracle is not None and config.oracle.asks_policy:
        yield Problem("oracle.type", config.oracle.type, "which asks the policy, and no policy runs here", "give another oracle")


def _selection(config: RunConfig, task: Task) -> Iterator[Problem]:
    if task.kind == "run" and config.data.type == "prompts" and config.selection is None:
        reason = "required to train on sampled responses (data.type: prompts)"
        yield Problem("selection", None, reason, "give a selection section, such as {type: best_worst}")


def _answers_to_choose_from(config: RunConfig, task: Task) -> Iterator[Problem]:
    if task.chooses == 1:
        yield Problem("responses", task.chooses, "which leaves the oracle nothing to choose from", "ask for at least 2")


def _template(config: RunConfig, task: Task) -> Iterator[Problem]:
    users = {
        f"loss {config.loss.type!r}, which trains on them": task.kind == "run" and config.loss.revisions,
        "evaluation.revisions": task.kind == "run" and config.evaluation.revisions > 0 and evaluates(config, task),
        "--revisions": task.revises,
    }
    wanted = " and ".join(user for user, is_on in users.items() if is_on)
    template = config.data.template
    if wanted and template is None:
        remedy = "set tldr, xsum, chat, or a text with {prompt} and {answer}"
        yield Problem("data.template", None, f"required for revisions ({wanted})", remedy)
    if wanted and template == "chat" and not config.data.chat_template:
        reason = "but data.chat_template is false"
        yield Problem("data.template", template, reason, "set data.chat_template=true; for a model that continues text, give a text")


def _one_kind_of_sequences(config: RunConfig, task: Task) -> Iterator[Problem]:
    if task.kind == "run" and config.loss.revisions and config.loss.mismatched:
        reason = "which asks for revisions and for mismatched sequences; there is no such example"
        yield Problem("loss.type", config.loss.type, reason, "declare one of the two")


def _zero_stage(config: RunConfig, task: Task) -> Iterator[Problem]:
    if task.kind == "run":
        yield from _zero_stage_problems(config.policy, config.learner)


def _zero_stage_problems(policy: PolicyConfig, learner: LearnerConfig) -> Iterator[Problem]:
    """bfloat16 at ZeRO stage 0: DeepSpeed 0.19.8 steps the optimiser once on zero gradients when it starts, and the parameters end up 14%
    from plain AdamW's after five steps."""
    if policy.dtype == "bfloat16" and learner.zero_stage == 0:
        reason = "which trains wrongly in DeepSpeed with policy.dtype=bfloat16"
        yield Problem("learner.zero_stage", learner.zero_stage, reason, "use 1, which costs no more, or float32")


def _sleep(config: RunConfig, task: Task) -> Iterator[Problem]:
    """``placement.sleep``: the learner and the engines take turns on the GPUs that they share."""
    if task.kind != "run" or not config.placement.sleep or not samples(config, task):
        return
    if config.placement.layout != "colocated":
        remedy = "set placement.layout=colocated, or placement.sleep=false"
        yield Problem("placement.sleep", True, "but the engines share no GPUs with the learner", remedy)
    if config.loop.overlap:
        reason = "but with loop.overlap the engines sample while the learner trains"
        yield Problem("placement.sleep", True, reason, "set loop.overlap=false")
    stage, dtype = config.learner.zero_stage, config.policy.dtype
    if stage == 0 or (stage == 1 and dtype == "bfloat16"):  # DeepSpeed's bfloat16 optimiser of stage 1 cannot move its state
        reason = f"whose optimiser state in {dtype} cannot leave the GPU, as placement.sleep needs"
        yield Problem("learner.zero_stage", stage, reason, "use 2 or 3")


def _counted_in_steps(config: RunConfig, task: Task) -> Iterator[Problem]:
    """``evaluation.every_steps`` needs ``loop.sync_interval``, which fixes an iteration's steps; and a run consists of whole iterations."""
    each, steps = config.steps_per_iteration, config.loop.steps
    if task.kind != "run":
        return
    if each is None:
        if (every := config.evaluation.every_steps) is not None:
            reason = "but without loop.sync_interval the run is counted in iterations"
            yield Problem("evaluation.every_steps", every, reason, "use evaluation.every, in iterations")
    elif steps is not None and steps % each:
        epochs = config.learner.epochs
        length = f"an iteration's {each} (loop.sync_interval" + (f" x {epochs} learner.epochs)" if epochs > 1 else ")")
        near = sorted({max(each, steps - steps % each), steps - steps % each + each})
        yield Problem("loop.steps", steps, f"which is not a multiple of {length}", f"set {' or '.join(map(str, near))}")


def _loss_on_held_out_records(config: RunConfig, task: Task) -> Iterator[Problem]:
    """``evaluation.loss_every_steps`` needs answers to held-out prompts, which given data and ``evaluation.texts`` have."""
    every = config.evaluation.loss_every_steps
    if task.kind != "run" or every is None:
        return
    path = "evaluation.loss_every_steps"
    if config.evaluation.every == 0:
        yield Problem(path, every, "but evaluation.every=0 switches evaluation off", "set evaluation.every=1, or leave it out")
    elif config.evaluation.texts is not None:
        return
    elif config.data.type == "prompts":
        reason = "but with data.type=prompts the held-out data are prompts without answers, on which there is no loss"
        yield Problem(path, every, reason, "leave it out, or give evaluation.texts; win rates have evaluation.every")
    elif not holds_out(config, task):
        yield Problem(path, every, "but no data is held out", "set data.held_out_prompts or data.held_out, or leave it out")


def _passes_over_prompts(config: RunConfig, task: Task) -> Iterator[Problem]:
    if task.kind == "run" and config.data.type == "prompts" and config.data.passes > 1:
        reason = "but with data.type=prompts each iteration samples answers to new prompts"
        yield Problem("data.passes", config.data.passes, reason, "leave it out; give more prompts, or the same ones under other ids")


def _greedy(config: RunConfig, task: Task) -> Iterator[Problem]:
    """Temperature 0 gives the same response each time."""
    evaluation = config.evaluation
    if task.kind == "run" and not config.rollout.temperature and config.data.type == "prompts":
        reason = "which gives equal responses to train on"
        yield Problem("rollout.temperature", 0, reason, "set it above 0; evaluation.temperature=0 evaluates greedily")
    if task.kind == "run" and evaluates(config, task) and not config.evaluation_sampling.temperature and evaluation.responses > 1:
        reason = "but evaluation.temperature is 0, and all of them would be equal"
        yield Problem("evaluation.responses", evaluation.responses, reason, "set evaluation.responses=1")
    if evaluation.max_tokens is not None and evaluation.max_tokens > config.rollout.max_tokens:
        reason = f"but prompts leave room for rollout.max_tokens={config.rollout.max_tokens} alone"
        yield Problem("evaluation.max_tokens", evaluation.max_tokens, reason, "lower it, or raise rollout.max_tokens")


def _loss_against_demonstrations(config: RunConfig, task: Task) -> Iterator[Problem]:
    fewest = config.loss.responses[0]
    if task.kind == "run" and config.data.type == "demonstrations" and fewest > 1:
        reason = f"which needs at least {fewest} responses per example, but data.type=demonstrations gives one"
        yield Problem("loss.type", config.loss.type, reason, "set loss.type=sft, or data.type=preferences")


def _loss_against_selection(config: RunConfig, task: Task) -> Iterator[Problem]:
    """For given preferences this depends on each record; all of them are read before anything starts."""
    if task.kind != "run" or config.data.type != "prompts" or config.selection is None or config.rollout.responses < 2:
        return
    problem = misfit(config.selection, config.loss, config.judging, config.rollout.responses)
    if problem is not None:
        yield problem


def _trackers(config: RunConfig, task: Task) -> Iterator[Problem]:
    if task.kind == "run":
        yield from config.metrics.missing()


RULES: tuple[Callable[[RunConfig, Task], Iterator[Problem]], ...] = (
    _responses_to_compare,
    _oracle,
    _oracle_without_policy,
    _answers_to_choose_from,
    _selection,
    _loss_against_selection,
    _loss_against_demonstrations,
    _counted_in_steps,
    _loss_on_held_out_records,
    _template,
    _one_kind_of_sequences,
    _passes_over_prompts,
    _greedy,
    _zero_stage,
    _sleep,
    _trackers,
)
