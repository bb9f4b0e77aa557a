"""Where the layouts of preference data are recognised. Each becomes a ``GivenPreferences``: a prompt, K answers, and which beat which.

| layout | fields | like |
| --- | --- | --- |
| pair | prompt, chosen, rejected; answers are texts or chats, with or without the prompt's turns | UltraFeedback-binarized |
| conversations | chosen, rejected as chats with common first turns, no prompt | many TRL data sets |
| transcripts | chosen, rejected as texts of ``\\n\\nHuman:`` and ``\\n\\nAssistant:`` turns, no prompt | HH-RLHF |
| numbered pair | instruction, input, output_1, output_2, preference (1 or 2) | AlpacaFarm |
| choice | summaries (each a text, or a mapping with ``text``), choice | summarize_from_feedback |
| best of n, ranking, scores | prompt, responses, and one of best, ranking, scores | SPO's TinyStories |

A pair may have scores (``score_chosen`` and ``score_rejected``), which ``data.verdicts: soft`` uses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.data.chats import Chat, Message
from raypref.data.config import DataConfig
from raypref.data.record_prompts import has_prompt, prompt_chat, prompt_of, read_chat
from raypref.data.records import Record, field_of
from raypref.errors import DataError
from raypref.preferences import unknown

_ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}


@dataclass(frozen=True, slots=True)
class GivenPreferences:
    """One record: K answers to a prompt, the best first as far as the data says."""

    prompt: str | Chat
    responses: tuple[str, ...]
    values: NDArray[np.float64]
    """(K, K) P[i, j] in the order of ``responses``; NaN where the data does not compare."""


def read_preferences(record: Record, config: DataConfig) -> GivenPreferences:
    """The preferences of one record, whichever layout it has.

    Raises:
        DataError: no layout fits, an answer is empty, or a verdict is not valid; the message names the place and the fields.
    """
    values = record.values
    if config.chosen_field in values and config.rejected_field in values:
        return _pair(record, config)
    if {"output_1", "output_2", "preference"} <= values.keys():
        return _numbered_pair(record, config)
    if {"summaries", "choice"} <= values.keys():
        texts = [item["text"] if isinstance(item, Mapping) else item for item in values["summaries"]]
        return _best_of(prompt_of(record, config), _texts(texts, record, "summaries"), values["choice"], record, "choice")
    if config.responses_field in values:
        return _group(record, config)
    raise DataError(
        f"{record.place}: no layout of preference data fits; fields here: {', '.join(map(str, values))}. Expected "
        f"{config.chosen_field!r} and {config.rejected_field!r}, or {config.responses_field!r} with "
        f"{config.ranking_field!r}, {config.scores_field!r} or {config.best_field!r}; see data.*_field"
    )


def _pair(record: Record, config: DataConfig) -> GivenPreferences:
    chosen = field_of(record, config.chosen_field, "data.chosen_field")
    rejected = field_of(record, config.rejected_field, "data.rejected_field")
    given = has_prompt(record, config)
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, answers = (prompt_of(record, config), [chosen, rejected]) if given else _transcripts(chosen, rejected, record, config)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        chats = [read_chat(side, record, config) for side in (chosen, rejected)]
        common = _common_turns(*chats)
        prompt = prompt_of(record, config) if given else prompt_chat(Chat(chats[0][:common], chats[0].tools), record.place)
        answers = [_last_answer(chat[common:], record.place) for chat in chats]
    else:
        raise DataError(f"{record.place}: {config.chosen_field!r} and {config.rejected_field!r} must both be texts, or both be chats")
    scores = [record.values.get(f"score_{side}") for side in ("chosen", "rejected")]
    return GivenPreferences(prompt, _texts(answers, record, config.chosen_field), _pair_verdict(scores, record, config))


def _pair_verdict(scores: Sequence[Any], record: Record, config: DataConfig) -> NDArray[np.float64]:
    if config.verdicts == "hard":
        return np.array([[0.5, 1.0], [0.0, 0.5]])
    if any(score is None for score in scores):
        raise DataError(f"{record.place}: data.verdicts=soft needs score_chosen and score_rejected beside a pair; or set hard")
    return _soft(_numbers(scores, record, "score_chosen"), config.score_scale)


def _numbered_pair(record: Record, config: DataConfig) -> GivenPreferences:
    values = record.values
    if values["preference"] not in (1, 2):
        raise DataError(f"{record.place}: 'preference' must be 1 (output_1 is better) or 2, got {values['preference']!r}")
    question = "\n\n".join(text for text in (values.get("instruction"), values.get("input")) if text)
    prompt = prompt_of(record, config) if has_prompt(record, config) else question
    if not prompt:
        raise DataError(f"{record.place}: the prompt (instruction and input) is empty")
    texts = _texts([values["output_1"], values["output_2"]], record, "output_1")
    ordered = texts if values["preference"] == 1 else texts[::-1]
    return GivenPreferences(prompt, ordered, np.array([[0.5, 1.0], [0.0, 0.5]]))


def _group(record: Record, config: DataConfig) -> GivenPreferences:
    prompt = prompt_of(record, config)
    responses = _texts(_answers(record, config), record, config.responses_field)
    if record.values.get(config.scores_field) is not None:
        return _scored(prompt, responses, record, config)
    if record.values.get(config.ranking_field) is not None:
        ranking = list(record.values[config.ranking_field])
        if sorted(ranking) != list(range(len(responses))):
            raise DataError(
                f"{record.place}: {config.ranking_field!r} must hold the numbers 0 to {len(responses) - 1} of the answers, best first, "
                f"got {ranking!r}; see data.ranking_field"
            )
        ahead = np.triu(np.ones((len(responses),) * 2), 1)
        return GivenPreferences(prompt, tuple(responses[k] for k in ranking), ahead + np.eye(len(responses)) / 2)
    best = field_of(record, config.best_field, "data.ranking_field, data.scores_field, data.best_field")
    return _best_of(prompt, responses, best, record, config.best_field)


def _scored(prompt: str | Chat, responses: tuple[str, ...], record: Record, config: DataConfig) -> GivenPreferences:
    scores = _numbers(record.values[config.scores_field], record, config.scores_field)
    if len(scores) != len(responses):
        raise DataError(f"{record.place}: {len(scores)} numbers in {config.scores_field!r} for {len(responses)} answers; one each")
    order = np.argsort(-scores, kind="stable")
    difference = scores[order, None] - scores[None, order]
    values = _soft(scores[order], config.score_scale) if config.verdicts == "soft" else (np.sign(difference) + 1) / 2
    return GivenPreferences(prompt, tuple(responses[k] for k in order), values)


def _best_of(prompt: str | Chat, responses: tuple[str, ...], best: Any, record: Record, name: str) -> GivenPreferences:
    """The best answer first, the others in their order."""
    if isinstance(best, bool) or not isinstance(best, int) or not 0 <= best < len(responses):
        raise DataError(f"{record.place}: {name!r} must be the number of an answer, 0 to {len(responses) - 1}, got {best!r}")
    values = unknown(len(responses))
    values[0, 1:], values[1:, 0] = 1.0, 0.0
    return GivenPreferences(prompt, (responses[best], *responses[:best], *responses[best + 1 :]), values)


def _soft(scores: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """(K, K) sigmoid(scale (s_i - s_j)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * scale * (scores[:, None] - scores[None, :])))


def _transcripts(chosen: str, rejected: str, record: Record, config: DataConfig) -> tuple[str | Chat, list[str]]:
    """HH-RLHF: everything up to the last ``Assistant:`` is the prompt. Without a chat template it remains a text."""
    marker = "\n\nAssistant:"
    sides = [text.rpartition(marker) for text in (chosen, rejected)]
    if any(not found for _, found, _ in sides) or sides[0][0] != sides[1][0]:
        raise DataError(
            f"{record.place}: without {config.prompt_field!r}, both texts must be transcripts of Human: and Assistant: turns that differ "
            f"in the last answer alone; see data.prompt_field"
        )
    answers = [answer.strip() for _, _, answer in sides]
    dialogue = sides[0][0]
    if not config.chat_template:
        return dialogue + marker, [f" {answer}" for answer in answers]
    parts = re.split(r"\n\n(Human|Assistant|System): ?", dialogue)
    turns = [(_ROLES[role], text.strip()) for role, text in zip(parts[1::2], parts[2::2], strict=True)]
    if parts[0].strip() or not turns:
        raise DataError(f"{record.place}: a transcript begins with a turn, such as '\\n\\nHuman: ...', got {chosen[:40]!r}")
    return prompt_chat(Chat.of(turns), record.place), answers


def _common_turns(first: Chat, second: Chat) -> int:
    """Number of first turns that the two chats share; the last turn of either chat never counts."""
    most = min(len(first), len(second)) - 1
    return next((k for k in range(most) if first[k] != second[k]), most)


def _last_answer(turns: Sequence[Message], place: str) -> str:
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise DataError(
            f"{place}: after the turns that both chats share there must be one assistant's turn, got {[turn['role'] for turn in turns]}"
        )
    return str(turns[0]["content"])


def _answers(record: Record, config: DataConfig) -> list[Any]:
    """The answers: texts, or the last turn of a chat."""
    given = field_of(record, config.responses_field, "data.responses_field")
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2:
        raise DataError(f"{record.place}: {config.responses_field!r} must be a list of at least two answers, got {given!r}")
    return [item if isinstance(item, str) else _last_answer(read_chat(item, record, config)[-1:], record.place) for item in given]


def _texts(answers: Sequence[Any], record: Record, name: str) -> tuple[str, ...]:
    for answer in answers:
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(f"{record.place}: an answer (field {name!r}) must be a text that is not empty, got {answer!r}")
    return tuple(answers)


def _numbers(scores: Sequence[Any], record: Record, name: str) -> NDArray[np.float64]:
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise DataError(f"{record.place}: a score (field {name!r}) must be a finite number, got {score!r}")
    return np.array(scores, dtype=np.float64)
