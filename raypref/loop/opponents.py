"""Opponents from files (``evaluation.against``): given responses to a run's held-out prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raypref.config import RunConfig
from raypref.data.identity import Turns, turns_of
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import ConfigError, DataError
from raypref.evaluation.response_files import read_responses
from raypref.evaluation.response_formats import Answers
from raypref.output.run_reference import RunReference
from raypref.types import Prompt, Response, Rollout


def load_opponents(config: RunConfig, facts: PolicyFacts, held_out: Sequence[Prompt]) -> dict[str, list[Rollout]]:
    """Name -> a rollout for each held-out prompt, with the responses that the file gives to it. Lengths are in the policy's tokens.

    Args:
        config: of the run; ``evaluation.against`` names the files.
        facts: the policy's tokenizer.
        held_out: (N,) prompts; a file may have responses to others, too.

    Raises:
        ConfigError: a run that is named has no such answers.
        DataError: a file cannot be read, has no prompts, or has no response to a held-out prompt; naming the prompt.
    """
    return {name: _responses(name, path, facts, held_out) for name, path in config.evaluation.against.items()} if held_out else {}


def _responses(name: str, path: str, facts: PolicyFacts, held_out: Sequence[Prompt]) -> list[Rollout]:
    key = f"evaluation.against.{name}"
    try:
        run = RunReference.read(path)
        file = Path(path) if run is None else run.answers()
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    by_prompt: dict[tuple[Turns, int], Answers] = {}  # by how often the prompt occurred before, as in raypref.evaluation.matching
    seen, asked = Counter[Turns](), Counter[Turns]()
    for answers in read_responses(file, name).answers:
        if answers.turns is None:
            raise DataError(f"{key}: {answers.place}: names its prompt by an id alone; give a file that has the prompts")
        by_prompt[answers.turns, seen[answers.turns]] = answers
        seen[answers.turns] += 1
    rollouts = []
    for prompt in held_out:
        turns = turns_of(prompt)
        found = by_prompt.get((turns, asked[turns]))
        asked[turns] += 1
        if found is None:
            raise DataError(f"{key}: {file} has no response to the held-out prompt {prompt.id!r}; every held-out prompt needs one there")
        rollouts.append(Rollout(prompt, tuple(_response(text, facts) for text in found.responses), None))
    return rollouts


def _response(text: str, facts: PolicyFacts) -> Response:
    ids = np.array(facts.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    return Response(ids, np.zeros(len(ids), dtype=np.float32), text, "stop")
