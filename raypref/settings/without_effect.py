"""Settings that cannot matter, or that a method does not expect: they are told, not refused. Only what is certain is here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raypref.checks import Task, evaluates, holds_out, samples
from raypref.config import RunConfig
from raypref.errors import Problem

_NEEDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("judging.opponents", "judging.pairs", ("random",)),
    ("judging.truncation_penalty", "judging.truncated", ("penalise",)),
    ("reference.every", "reference.policy", ("refreshed",)),
    ("data.score_scale", "data.verdicts", ("soft",)),
    ("regulariser.coefficient", "regulariser.type", ("token_kl",)),
    ("regulariser.every", "regulariser.type", ("token_kl",)),
    ("regulariser.samples", "regulariser.type", ("token_kl",)),
    ("regulariser.max_tokens", "regulariser.type", ("token_kl",)),
    ("learner.optimizer.beta1", "learner.optimizer.type", ("adamw",)),
)
"""(key, another key, the values of that key with which the first matters)."""

_NEEDS_OF_SPO = (("loss.coefficient", "loss.regulariser", ("log_prob", "tokenwise", "importance")),)

_OF_ENGINES = ("temperature", "top_p", "max_num_seqs", "gpu_memory_utilization", "kv_cache_gib", "enforce_eager")
"""Keys of ``rollout`` that only engines read."""


def notes(config: RunConfig, task: Task | None = None) -> list[Problem]:
    """What a user should know about the settings of a run, though nothing is wrong. A value that is the default is never told.

    Args:
        config: with the caller's objects in place of its sections.
        task: default: a run with the data that the config names.
    """
    task = task or Task()
    if task.kind != "run":
        return []
    return [
        *_switched_off(config),
        *_nothing_sampled(config, task),
        *_nothing_judged(config, task),
        *_length(config),
        *_not_from_pi_t(config),
    ]


def _switched_off(config: RunConfig) -> Iterator[Problem]:
    for path, switch, values in _NEEDS + (_NEEDS_OF_SPO if config.loss.type == "spo" else ()):
        is_set, is_now = _value(config, path), _value(config, switch)[0]
        if is_set[0] != is_set[1] and is_now not in values:
            yield Problem(
                path, is_set[0], f"which has no effect with {switch}={is_now}", f"set {switch}={' or '.join(values)}, or leave it out"
            )


def _nothing_sampled(config: RunConfig, task: Task) -> Iterator[Problem]:
    kind = config.data.type
    if kind == "prompts":
        return
    if config.rollout.responses != _default(config.rollout, "responses"):
        reason = f"which has no effect with data.type={kind}: the responses are given"
        yield Problem("rollout.responses", config.rollout.responses, reason, "leave it out; evaluations have evaluation.responses")
    if not samples(config, task):
        for key in _OF_ENGINES:
            value = getattr(config.rollout, key)
            if value != _default(config.rollout, key):
                reason = f"which has no effect: nothing is sampled with data.type={kind}, without win rates and regulariser"
                yield Problem(f"rollout.{key}", value, reason, "leave it out")
    if config.reference.measure_kl:
        yield Problem("reference.measure_kl", True, f"which has no effect with data.type={kind}", "leave it out")


def _nothing_judged(config: RunConfig, task: Task) -> Iterator[Problem]:
    evaluation = config.evaluation
    if evaluation.texts is not None and evaluation.every == 0:
        yield Problem("evaluation.texts", evaluation.texts, "which has no effect with evaluation.every=0", "leave one of them out")
    if evaluates(config, task):
        return
    apart = holds_out(config, task)  # without an oracle: on given data, the loss alone is measured
    for key in ("responses", "revisions") if apart or evaluation.texts is not None else ("every", "responses", "revisions"):
        value = getattr(evaluation, key)
        if value and evaluation.every != 0 and value != _default(evaluation, key):
            reason = f"which has no effect without {'an oracle' if apart else 'held-out prompts'}"
            remedy = "give an oracle section" if apart else "set data.held_out or data.held_out_prompts"
            yield Problem(f"evaluation.{key}", value, reason, f"{remedy}, or leave it out")
    if config.data.type != "prompts" and config.oracle is not None:
        reason = f"which is never asked with data.type={config.data.type} and without an evaluation on held-out prompts"
        yield Problem("oracle.type", config.oracle.type, reason, "set data.held_out or data.held_out_prompts, or leave the oracle out")
    if config.data.type == "demonstrations" and config.selection is not None:
        yield Problem("selection.type", config.selection.type, "which has no effect with data.type=demonstrations", "leave it out")


def _length(config: RunConfig) -> Iterator[Problem]:
    loop = config.loop
    if loop.sync_interval is not None and loop.steps is None and "iterations" not in loop.model_fields_set:
        steps = config.iterations * (config.steps_per_iteration or 0)
        reason = f"the default, which with loop.sync_interval={loop.sync_interval} is a run of {steps} optimiser steps"
        yield Problem("loop.iterations", loop.iterations, reason, "set loop.steps")


def _not_from_pi_t(config: RunConfig) -> Iterator[Problem]:
    if config.data.type != "prompts" or "previous" not in config.loss.needs:
        return
    for key in ("temperature", "top_p"):
        value = getattr(config.rollout, key)
        if value != 1.0:
            reason = (
                f"so that responses are not drawn from pi_t, as loss {config.loss.type!r} assumes; log-probs are always those of the whole "
                f"distribution at temperature 1"
            )
            yield Problem(f"rollout.{key}", value, reason, f"set rollout.{key}=1, unless a recipe wants it")


def _value(config: RunConfig, path: str) -> tuple[Any, Any]:
    """The value at a dotted path, and its default."""
    *sections, key = path.split(".")
    section: Any = config
    for name in sections:
        section = getattr(section, name)
    return getattr(section, key), _default(section, key)


def _default(section: Any, key: str) -> Any:
    return type(section).model_fields[key].default
