"""Loads what a run trains and evaluates on, whatever its kind: prompts to sample from, given preferences, or given answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raypref.config import RunConfig
from raypref.data.demonstrations import DemonstrationData, load_texts, read_demonstrations
from raypref.data.examples import ExampleBuilder
from raypref.data.given_preferences import PreferenceData, load_preferences
from raypref.data.held_out import hold_answers, read_held_out
from raypref.data.identity import differ
from raypref.data.policy_facts import PolicyFacts
from raypref.data.prompts import PromptData, load_apart, load_prompts
from raypref.data.records import BadRecords, Record, fields_of
from raypref.data.revision import Reviser
from raypref.errors import ConfigError, DataError
from raypref.loop.opponents import load_opponents
from raypref.seeds import seed_for
from raypref.types import Example, Prompt, RunData


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
    file = config.evaluation.texts
    texts, apart = ([], []) if file is None else load_texts(file, config.data, _with_end(config, facts))
    if config.data.type == "prompts":
        data = _prompts(config, facts, records, held_out, apart)
    else:
        data = _given_examples(config, _with_end(config, facts), builder, records, held_out, apart)
    data = replace(data, texts=texts, opponents=load_opponents(config, facts, data.held_out))
    if not config.evaluation.revisions:
        return data
    return replace(data, revise=Reviser(config.data, facts).within(facts.context_tokens - config.rollout.max_tokens))


def _with_end(config: RunConfig, facts: PolicyFacts) -> PolicyFacts:
    """The facts, which name an end token: given answers end with it.

    Raises:
        ConfigError: they name none.
    """
    if not facts.end_token_ids:
        raise ConfigError(f"policy.path: {config.policy.path} names no end token (eos_token_id), with which given answers end")
    return facts


def _prompts(config: RunConfig, facts: PolicyFacts, records: Any, held_out: Any, texts: Sequence[Prompt]) -> RunData:
    loaded = load_prompts(config.data, facts, config.rollout.max_tokens, config.seed, prompts=records, held_out=held_out, apart=texts)
    if config.loss.mismatched and not differ(loaded.train):
        raise DataError(
            f"data: loss {config.loss.type!r} trains on responses to another prompt, and all {len(loaded.train)} prompts are the same; "
            "give different prompts"
        )
    return RunData(prompts=loaded.train, held_out=loaded.held_out, left_out=_left_out(loaded.dropped, loaded.skipped))


def _given_examples(
    config: RunConfig, facts: PolicyFacts, builder: ExampleBuilder, records: Any, held_out: Any, texts: Sequence[Prompt]
) -> RunData:
    """Given preferences or answers, to train on and held out. With an oracle, the policy also answers the held-out prompts."""
    section, longest_prompt = config.data, facts.context_tokens - config.rollout.max_tokens
    bad = BadRecords(section.on_bad_record == "skip")
    apart = read_held_out(section, held_out, bad)
    bad.report("data.held_out")
    answered = apart is not None and hold_answers(apart, section)
    alone = PromptData([], [], 0)
    if apart and not answered:
        check_answers_or_oracle(config, apart)
        alone = load_apart(section, facts, longest_prompt, apart)
    held: dict[str, Any] = {"held_out": [*alone.held_out, *texts], "held_out_records": apart if answered or apart is None else []}
    loaded: DemonstrationData | PreferenceData
    prompts: list[Prompt] = []
    not_compared = (0, 0)
    if section.type == "demonstrations":
        loaded = read_demonstrations(section, facts, config.seed, records=records, **held)
    else:
        objects: dict[str, Any] = {"loss": config.loss, "selection": config.selection, "builder": builder}
        loaded = load_preferences(section, facts, config.seed, **objects, records=records, **held)
        prompts, not_compared = loaded.prompts, (loaded.unpicked, loaded.identical)
    answerable = [prompt for prompt in loaded.held_out if len(prompt.token_ids) <= longest_prompt] if config.oracle is not None else []
    unanswerable = len(loaded.held_out) - len(answerable) if config.oracle is not None else 0
    overlong, skipped = loaded.overlong + alone.dropped + unanswerable, loaded.skipped + alone.skipped + bad.count
    return RunData(
        examples=in_passes(loaded.examples, section.passes, config.seed if section.shuffle else None),
        prompts=prompts,
        held_out=alone.held_out or answerable,
        held_out_examples=loaded.held_out_examples,
        left_out=_left_out(overlong, skipped, *not_compared),
    )


def in_passes(examples: Sequence[Example], passes: int, seed: int | None) -> list[Example]:
    """The examples once for each pass: the first pass in their order, each further one in another order that ``seed`` fixes.

    Args:
        examples: (N,) in the order of the first pass.
        passes: how often the run goes through them.
        seed: of the run; None: every pass is in the same order.

    Returns:
        (passes * N,) with ``prompt_index`` counted over all of them.
    """
    ordered = list(examples)
    for number in range(1, passes):
        order: Sequence[int] = range(len(examples))
        if seed is not None:
            order = np.random.default_rng(seed_for(seed, "pass", None, str(number))).permutation(len(examples)).tolist()
        ordered += [examples[k] for k in order]
    return ordered if passes == 1 else [replace(example, prompt_index=index) for index, example in enumerate(ordered)]


def check_answers_or_oracle(config: RunConfig, apart: Sequence[Record]) -> None:
    """Refuse held-out prompts without answers where there is no oracle either: nothing could be evaluated on them.

    Raises:
        ConfigError: naming the fields of the first record.
    """
    if config.oracle is None and config.evaluation.every != 0:
        raise ConfigError(
            f"oracle: required to evaluate on held-out prompts without answers ({apart[0].place} has the fields {fields_of(apart[0])}); "
            f"give an oracle section, or held-out records with answers, as data.path has them; evaluation.every: 0 switches evaluation off"
        )


def _left_out(overlong: int, skipped: int, unpicked: int = 0, identical: int = 0) -> dict[str, int]:
    return {"overlong": overlong, "skipped": skipped, "unpicked": unpicked, "identical": identical}
