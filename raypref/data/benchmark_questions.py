"""Questions of benchmarks in their own files, read as prompts, so that ``raypref generate`` answers them and the answers keep their ids.

| benchmark | fields |
| --- | --- |
| Arena-Hard v0.1, FastChat | question_id, turns (one turn: a text, or a mapping with ``content``) |
| Arena-Hard since v2 | uid, prompt |
| AlpacaEval | instruction, and generator or dataset |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypref.data.config import DataConfig
from raypref.data.records import Record
from raypref.errors import DataError


def as_prompt(record: Record, config: DataConfig) -> Record:
    """A benchmark's question as a record with the fields of a prompt and its id; any other record as it is.

    Raises:
        DataError: it has several turns, of which each but the first follows the policy's own answer.
    """
    values = record.values
    added: dict[str, Any] = {}
    if values.get(config.prompt_field) is None and (text := _text(record)) is not None:
        added[config.prompt_field] = text
    if values.get(config.id_field) is None:
        name = next((values[key] for key in ("question_id", "uid") if values.get(key) is not None), None)
        added |= {} if name is None else {config.id_field: name}
    return Record({**values, **added}, record.place) if added else record


def _text(record: Record) -> Any:
    values = record.values
    turns = values.get("turns")
    if values.get("question_id") is not None and isinstance(turns, list) and turns:
        if len(turns) > 1:
            raise DataError(
                f"{record.place}: the question has {len(turns)} turns, and each but the first follows the policy's own answer; give the "
                f"first turns alone"
            )
        return turns[0].get("content") if isinstance(turns[0], Mapping) else turns[0]
    if isinstance(values.get("instruction"), str) and values.keys() & {"generator", "dataset"}:
        return values["instruction"] + (f"\n\n{values['input']}" if values.get("input") else "")
    return None
