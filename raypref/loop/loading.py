"""A run's data, whatever its kind: prompts to sample from, given preferences, given answers; and which roles that calls for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raypref.config import RunConfig
from raypref.data.demonstrations import load_demonstrations
from raypref.data.examples import ExampleBuilder
from raypref.data.preferences import load_preferences
from raypref.data.prompts import load_held_out, load_prompts
from raypref.data.revision import Reviser
from raypref.errors import ConfigError
from raypref.types import Prompt, RunData


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """What data must know of the policy."""

    tokenizer: Any
    context_tokens: int
    end_token_ids: tuple[int, ...]


def load_run_data(
    config: RunConfig, facts: PolicyFacts, *, records: Sequence[Any] | None = None, held_out: Sequence[Any] | None = None
) -> RunData:
    """What the run trains and evaluates on.

    Args:
        config: the run's.
        facts: of the policy.
        records: in place of ``data.path``.
        held_out: in place of ``data.held_out``.

    Raises:
        ConfigError: sections that this kind of data needs are missing.
        DataError: the data is wrong, or nothing is left of it.
    """
    builder = example_builder(config, facts)
    data = _load(config, facts, builder, records, held_out)
    if not config.evaluation.revisions:
        return data
    return replace(data, revise=Reviser(config.data, facts.tokenizer).within(facts.context_tokens - config.rollout.max_tokens))


def _load(
    config: RunConfig, facts: PolicyFacts, builder: ExampleBuilder, records: Sequence[Any] | None, held_out: Sequence[Any] | None
) -> RunData:
    if config.data.type == "prompts":
        limits = (facts.context_tokens, config.rollout.max_tokens, config.seed)
        loaded = load_prompts(config.data, facts.tokenizer, *limits, prompts=records, held_out=held_out)
        return RunData(prompts=loaded.train, held_out=loaded.held_out)
    return _given(config, facts, builder, records, held_out)


def _given(
    config: RunConfig, facts: PolicyFacts, builder: ExampleBuilder, records: Sequence[Any] | None, held_out: Sequence[Any] | None
) -> RunData:
    if not facts.end_token_ids:
        raise ConfigError(f"policy.path: {config.policy.path} names no end token (eos_token_id), so it cannot learn to end an answer")
    section, tokenizer, limit, end = config.data, facts.tokenizer, facts.context_tokens, facts.end_token_ids[0]
    room = facts.context_tokens - config.rollout.max_tokens
    apart: list[Prompt] = []
    if held_out is not None or section.held_out is not None:
        apart = load_held_out(section, tokenizer, room, held_out)[0]
    if section.type == "demonstrations":
        return RunData(examples=load_demonstrations(section, tokenizer, limit, config.seed, end, records=records), held_out=apart)
    makers: dict[str, Any] = {"loss": config.loss, "selection": config.selection, "builder": builder}
    found = load_preferences(section, tokenizer, limit, config.seed, end, **makers, records=records)
    short = [prompt for prompt in found.held_out if len(prompt.token_ids) <= room]
    return RunData(examples=found.examples, prompts=found.prompts, held_out=apart or short)


def example_builder(config: RunConfig, facts: PolicyFacts) -> ExampleBuilder:
    """The builder of the run's examples, here and in the oracle's actors.

    Raises:
        ConfigError: the loss wants revisions and there is no template for them.
    """
    wanted = config.loss.revisions and config.data.template is not None
    reviser = Reviser(config.data, facts.tokenizer) if wanted else None
    return ExampleBuilder(config.loss, reviser, facts.context_tokens)
