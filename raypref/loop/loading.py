"""Loads what a run trains and evaluates on, whatever its kind: prompts to sample from, given preferences, or given answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raypref.config import RunConfig
from raypref.data.demonstrations import read_demonstrations
from raypref.data.examples import ExampleBuilder
from raypref.data.given_preferences import load_preferences
from raypref.data.identity import differ
from raypref.data.policy_facts import PolicyFacts
from raypref.data.prompts import PromptData, load_apart, load_prompts
from raypref.data.revision import Reviser
from raypref.errors import ConfigError, DataError
from raypref.types import RunData


def load_run_data(config: RunConfig, facts: PolicyFacts, *, records: Any = None, held_out: Any = None) -> RunData:
    """Load the training data and the held-out prompts of a run.

    Args:
        config: of the run.
        facts: about its policy.
        records: used instead of ``data.path``; ``raypref.data.objects`` lists what is accepted.
        held_out: used instead of ``data.held_out``, likewise.

    Raises:
        ConfigError: the policy has no end token, or a template is missing.
        DataError: the data is wrong, or nothing is left of it.
    """
    builder = ExampleBuilder.of_run(config.loss, config.data, facts)  # refuses a loss that this data cannot serve, whatever its kind
    if config.data.type == "prompts":
        data = _prompts(config, facts, records, held_out)
    else:
        data = _given_examples(config, facts, builder, records, held_out)
    if not config.evaluation.revisions:
        return data
    return replace(data, revise=Reviser(config.data, facts).within(facts.context_tokens - config.rollout.max_tokens))


def _prompts(config: RunConfig, facts: PolicyFacts, records: Any, held_out: Any) -> RunData:
    loaded = load_prompts(config.data, facts, config.rollout.max_tokens, config.seed, prompts=records, held_out=held_out)
    if config.loss.mismatched and not differ(loaded.train):
        raise DataError(
            f"data: loss {config.loss.type!r} trains on responses to another prompt, and all {len(loaded.train)} prompts are the same; "
            "give different prompts"
        )
    return RunData(prompts=loaded.train, held_out=loaded.held_out, left_out=_left_out(loaded.dropped, loaded.skipped))


def _given_examples(config: RunConfig, facts: PolicyFacts, builder: ExampleBuilder, records: Any, held_out: Any) -> RunData:
    """Given preferences or answers. Held-out prompts come from ``data.held_out`` or from the preferences."""
    if not facts.end_token_ids:
        raise ConfigError(f"policy.path: {config.policy.path} names no end token (eos_token_id), so it cannot learn to end an answer")
    section = config.data
    longest_prompt = facts.context_tokens - config.rollout.max_tokens
    apart = PromptData([], [], 0)
    if held_out is not None or section.held_out is not None:
        apart = load_apart(section, facts, longest_prompt, held_out)
    if section.type == "demonstrations":
        shown = read_demonstrations(section, facts, config.seed, records=records, held_out=apart.held_out)
        left_out = _left_out(shown.dropped + apart.dropped, shown.skipped + apart.skipped)
        return RunData(examples=shown.examples, held_out=apart.held_out, left_out=left_out)
    objects: dict[str, Any] = {"loss": config.loss, "selection": config.selection, "builder": builder}
    loaded = load_preferences(section, facts, config.seed, **objects, records=records, held_out=apart.held_out)
    short = [prompt for prompt in loaded.held_out if len(prompt.token_ids) <= longest_prompt]
    left_out = _left_out(
        loaded.overlong + apart.dropped + len(loaded.held_out) - len(short),
        loaded.skipped + apart.skipped,
        loaded.unpicked,
        loaded.identical,
    )
    return RunData(examples=loaded.examples, prompts=loaded.prompts, held_out=apart.held_out or short, left_out=left_out)


def _left_out(overlong: int, skipped: int, unpicked: int = 0, identical: int = 0) -> dict[str, int]:
    return {"overlong": overlong, "skipped": skipped, "unpicked": unpicked, "identical": identical}
