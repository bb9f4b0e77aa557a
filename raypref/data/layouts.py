"""Where the layouts of preference data are recognised. Each becomes a ``GivenPreferences``: a prompt, K answers, and which beat which.

| layout | fields | like |
| --- | --- | --- |
| pair | prompt, chosen, rejected; answers are texts or chats, with or without the prompt's turns | UltraFeedback-binarized |
| conversations | chosen, rejected as chats with common first turns, no prompt | many TRL data sets |
| transcripts | chosen, rejected as texts of ``\\n\\nHuman:`` and ``\\n\\nAssistant:`` turns, no prompt | HH-RLHF |
| numbered_pair | instruction, input, output_1, output_2, preference (1 or 2) | AlpacaFarm |
| choice | summaries (each a text, or a mapping with ``text``), choice | summarize_from_feedback |
| best, ranking, scores | prompt, responses, and the field of that name | SPO's TinyStories |
| unpaired | prompt, completion, label (true: desirable) | KTO, TRL's unpaired preferences |

A pair may have scores (``score_chosen`` and ``score_rejected``), which ``data.verdicts: soft`` uses. With ``data.layout: auto`` the fields
decide; a record that fits several layouts is refused, and the message asks for ``data.layout``. A layout that the config names is read
as it says: ``conversations`` and ``transcripts`` do not read the prompt's field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.data.answers import answer_texts, index_of, numbers, truth_of, whole
from raypref.data.chats import Chat, shortened
from raypref.data.config import DataConfig
from raypref.data.record_prompts import has_prompt, prompt_of
from raypref.data.records import Record, field_of, fields_of, value_of
from raypref.data.shared_turns import as_chats, prompt_and_answers, prompt_beside, split_chats, split_transcripts
from raypref.errors import DataError
from raypref.preferences import unknown

_BETTER_FIRST = [[0.5, 1.0], [0.0, 0.5]]


@dataclass(frozen=True, slots=True)
class GivenPreferences:
    """One record: K answers to a prompt, the best first as far as the data says."""

    prompt: str | Chat
    responses: tuple[str, ...]
    values: NDArray[np.float64]
    """(K, K) P[i, j] in the order of ``responses``; NaN where the data does not compare."""
    desirable: bool | None = None
    """Of an unpaired record: whether its only answer is desirable. None: the record compares answers."""


def read_preferences(record: Record, config: DataConfig) -> GivenPreferences:
    """The preferences of one record, whichever layout it has.

    Raises:
        DataError: no layout fits, or several do, an answer is empty, or a verdict is not valid; the message names the place and the fields.
    """
    return _READERS[_layout_of(record, config)](record, config)


def fields_by_layout(config: DataConfig) -> dict[str, tuple[str, ...]]:
    """Layout -> the fields that a record of it has beside the prompt; transcripts and conversations have those of a pair."""
    responses = config.responses_field
    return {
        "pair": (config.chosen_field, config.rejected_field),
        "numbered_pair": ("output_1", "output_2", "preference"),
        "choice": ("summaries", "choice"),
        "best": (responses, config.best_field),
        "ranking": (responses, config.ranking_field),
        "scores": (responses, config.scores_field),
        "unpaired": (config.completion_field, config.label_field),
    }


def _layout_of(record: Record, config: DataConfig) -> str:
    """The layout that the config names, or the only one whose fields the record has; fields without a value do not count."""
    if config.layout != "auto":
        return config.layout
    responses, wanted = config.responses_field, fields_by_layout(config)
    present = {name for name, value in record.values.items() if value is not None}
    fitting = [layout for layout, fields in wanted.items() if present.issuperset(fields)]
    if not fitting and responses in present:
        fitting = ["best"]
    if not fitting:  # so that a field that is there without a value is named
        fitting = [layout for layout, fields in wanted.items() if record.values.keys() >= set(fields)][:1]
    if len(fitting) > 1:
        raise DataError(f"{record.place}: this record fits the layouts {' and '.join(fitting)}; set data.layout to the one that is meant")
    if not fitting:
        raise DataError(
            f"{record.place}: no layout of preference data fits; fields here: {fields_of(record)}. Expected "
            f"{config.chosen_field!r} and {config.rejected_field!r}, or {responses!r} with {config.ranking_field!r}, "
            f"{config.scores_field!r} or {config.best_field!r}, or {config.completion_field!r} and {config.label_field!r}; see data.*_field"
        )
    return fitting[0]


def _pair(record: Record, config: DataConfig) -> GivenPreferences:
    chosen = field_of(record, config.chosen_field, "data.chosen_field")
    rejected = field_of(record, config.rejected_field, "data.rejected_field")
    given = config.layout not in ("conversations", "transcripts") and has_prompt(record, config)
    names = f"{config.chosen_field!r} and {config.rejected_field!r}"
    if isinstance(chosen, str) and isinstance(rejected, str) and config.layout != "conversations":
        prompt, answers = _pair_of_texts(chosen, rejected, given, record, config)
    elif (chats := as_chats([chosen, rejected], record, config)) is not None and config.layout != "transcripts":
        shared, answers = split_chats(chats, record, names)
        prompt = prompt_beside(shared, record, config, given=given)
    else:
        kind = {"conversations": "chats", "transcripts": "texts"}.get(config.layout, "texts, or both be chats")
        raise DataError(f"{record.place}: {names} must both be {kind}, got {shortened(chosen, 80)} and {shortened(rejected, 80)}")
    scores = [value_of(record, f"score_{side}") for side in ("chosen", "rejected")]
    return GivenPreferences(prompt, answer_texts(answers, record, names), _pair_verdict(scores, record, config))


def _pair_of_texts(chosen: str, rejected: str, given: bool, record: Record, config: DataConfig) -> tuple[str | Chat, list[str]]:
    """With a prompt the texts are the answers; transcripts beside a prompt could mean either."""
    if not given:
        return split_transcripts(chosen, rejected, record, config)
    turn = "\n\nHuman:"
    if config.layout == "auto" and chosen.startswith(turn) and rejected.startswith(turn):
        raise DataError(
            f"{record.place}: this record fits the layouts pair and transcripts: a prompt is there, and both answers begin with "
            f"'\\n\\nHuman:'; set data.layout to the one that is meant"
        )
    return prompt_of(record, config), [chosen, rejected]


def _pair_verdict(scores: Sequence[Any], record: Record, config: DataConfig) -> NDArray[np.float64]:
    if config.verdicts == "hard":
        return np.array(_BETTER_FIRST)
    if any(score is None for score in scores):
        raise DataError(f"{record.place}: data.verdicts=soft needs score_chosen and score_rejected beside a pair; or set hard")
    return _soft(numbers(scores, record, "score_chosen"), config.score_scale)


def _numbered_pair(record: Record, config: DataConfig) -> GivenPreferences:
    better = index_of(field_of(record, "preference", "data.layout"), record, "preference", 1, 2, "(output_1 is better) or 2")
    prompt: str | Chat
    if has_prompt(record, config):
        prompt = prompt_of(record, config)
    else:
        parts = [value_of(record, name) for name in ("instruction", "input")]
        if any(not isinstance(part, str | None) for part in parts):
            raise DataError(f"{record.place}: 'instruction' and 'input' must be texts, got {shortened(parts)}")
        prompt = "\n\n".join(part for part in parts if part)
    if isinstance(prompt, str) and not prompt.strip():
        raise DataError(f"{record.place}: the prompt (instruction and input) is empty")
    texts = answer_texts([field_of(record, f"output_{k}", "data.layout") for k in (1, 2)], record, "'output_1' and 'output_2'")
    return GivenPreferences(prompt, texts if better == 1 else texts[::-1], np.array(_BETTER_FIRST))


def _choice(record: Record, config: DataConfig) -> GivenPreferences:
    summaries = field_of(record, "summaries", "data.layout")
    if not isinstance(summaries, list | tuple) or len(summaries) < 2:
        raise DataError(f"{record.place}: 'summaries' must be a list of at least two texts, got {shortened(summaries)}")
    texts = answer_texts([item.get("text") if isinstance(item, Mapping) else item for item in summaries], record, "'summaries'")
    return _best_of(prompt_of(record, config), texts, "choice", record)


def _best(record: Record, config: DataConfig) -> GivenPreferences:
    return _best_of(*_group(record, config), config.best_field, record)


def _ranking(record: Record, config: DataConfig) -> GivenPreferences:
    prompt, responses = _group(record, config)
    count, name = len(responses), config.ranking_field
    given = field_of(record, name, "data.ranking_field")
    ranking = [whole(item) for item in given] if isinstance(given, list | tuple) else []
    if None in ranking or sorted(item for item in ranking if item is not None) != list(range(count)):
        raise DataError(
            f"{record.place}: {name!r} must hold the numbers 0 to {count - 1} of the answers, best first, got {shortened(given)}; "
            f"see data.ranking_field"
        )
    ahead = np.triu(np.ones((count, count)), 1)
    return GivenPreferences(prompt, tuple(responses[k] for k in ranking if k is not None), ahead + np.eye(count) / 2)


def _scores(record: Record, config: DataConfig) -> GivenPreferences:
    prompt, responses = _group(record, config)
    given = field_of(record, config.scores_field, "data.scores_field")
    if not isinstance(given, list | tuple):
        raise DataError(f"{record.place}: {config.scores_field!r} must be a list with a number for each answer, got {shortened(given)}")
    if len(given) != len(responses):
        raise DataError(f"{record.place}: {len(given)} numbers in {config.scores_field!r} for {len(responses)} answers; one each")
    scores = numbers(given, record, config.scores_field)
    order = np.argsort(-scores, kind="stable")
    difference = scores[order, None] - scores[None, order]
    values = _soft(scores[order], config.score_scale) if config.verdicts == "soft" else (np.sign(difference) + 1) / 2
    return GivenPreferences(prompt, tuple(responses[k] for k in order), values)


def _unpaired(record: Record, config: DataConfig) -> GivenPreferences:
    completion = field_of(record, config.completion_field, "data.completion_field")
    desirable = truth_of(field_of(record, config.label_field, "data.label_field"), record, config.label_field)
    prompt, (answer,) = prompt_and_answers([completion], record, config, config.completion_field)
    return GivenPreferences(prompt, (answer,), np.full((1, 1), 0.5), desirable)


def _group(record: Record, config: DataConfig) -> tuple[str | Chat, tuple[str, ...]]:
    """The prompt and a list of answers: texts, or chats."""
    given = field_of(record, config.responses_field, "data.responses_field")
    if not isinstance(given, list | tuple) or len(given) < 2:
        raise DataError(f"{record.place}: {config.responses_field!r} must be a list of at least two answers, got {shortened(given)}")
    return prompt_and_answers(given, record, config, config.responses_field)


def _best_of(prompt: str | Chat, responses: tuple[str, ...], name: str, record: Record) -> GivenPreferences:
    """The best answer first, the others in their order."""
    key = "data.ranking_field, data.scores_field, data.best_field"
    best = index_of(field_of(record, name, key), record, name, 0, len(responses) - 1)
    values = unknown(len(responses))
    values[0, 1:], values[1:, 0] = 1.0, 0.0
    return GivenPreferences(prompt, (responses[best], *responses[:best], *responses[best + 1 :]), values)


def _soft(scores: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """(K, K) sigmoid(scale (s_i - s_j)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * scale * (scores[:, None] - scores[None, :])))


_READERS: Mapping[str, Callable[[Record, DataConfig], GivenPreferences]] = {
    "pair": _pair,
    "conversations": _pair,
    "transcripts": _pair,
    "numbered_pair": _numbered_pair,
    "choice": _choice,
    "best": _best,
    "ranking": _ranking,
    "scores": _scores,
    "unpaired": _unpaired,
}
