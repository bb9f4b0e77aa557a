"""AlpacaFarm's data, as files that the two configs of this folder read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HUB = "hf://datasets/tatsu-lab/alpaca_farm"
"""Read as plain JSON: the data set's loading script is one that ``datasets`` no longer runs."""
SFT, PREFERENCES, EVALUATION = "alpaca_instructions/sft.json", "alpaca_gpt4_preference.json", "alpaca_farm_evaluation.json"
"""10,000 instructions with answers; 19,472 pairs that GPT-4 labelled; AlpacaFarm's evaluation instructions."""


def prepare(directory: Path) -> None:
    """Download and write ``demonstrations.jsonl``, ``preferences.jsonl`` and ``held_out.jsonl``, unless all are there."""
    makers = {"demonstrations": (SFT, demonstration), "preferences": (PREFERENCES, pair), "held_out": (EVALUATION, prompt_alone)}
    if all((directory / f"{name}.jsonl").exists() for name in makers):
        return
    from datasets import load_dataset

    directory.mkdir(parents=True, exist_ok=True)
    for name, (file, make) in makers.items():
        rows = load_dataset("json", data_files=f"{HUB}/{file}", split="train")
        (directory / f"{name}.jsonl").write_text("".join(_lines(name, (make(row) for row in rows))))


def _lines(name: str, records: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    return (json.dumps({"id": f"{name}-{k:05d}", **record}) + "\n" for k, record in enumerate(records))


def prompt_of(row: Mapping[str, Any]) -> str:
    """The instruction, and its input after an empty line, as AlpacaEval has them. The configs put Alpaca's frame around it (``frame``),
    which oracles and exports do not see."""
    return f"{row['instruction']}\n\n{row['input']}" if row.get("input") else str(row["instruction"])


def demonstration(row: Mapping[str, Any]) -> dict[str, str]:
    return {"prompt": prompt_of(row), "response": row["output"]}


def prompt_alone(row: Mapping[str, Any]) -> dict[str, str]:
    return {"prompt": prompt_of(row)}


def pair(row: Mapping[str, Any]) -> dict[str, str]:
    """``preference`` is 1 where ``output_1`` is the better answer, and 2 where ``output_2`` is.

    Raises:
        ValueError: it is neither.
    """
    if row["preference"] not in (1, 2):
        raise ValueError(f"AlpacaFarm: preference {row['preference']!r} of instruction {row['instruction']!r}; expected 1 or 2")
    outputs = (row["output_1"], row["output_2"])
    better = int(row["preference"]) - 1
    return {"prompt": prompt_of(row), "chosen": outputs[better], "rejected": outputs[1 - better]}
