"""ShareGPT for the SFT policy, UltraFeedback's pairs, and Arena-Hard's prompts, as files that the two configs of this folder read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SHAREGPT = "hf://datasets/anon8231489123/ShareGPT_Vicuna_unfiltered/ShareGPT_V3_unfiltered_cleaned_split_no_imsorry.json"
"""SRPO's footnote 6; the paper's 53,000 pairs are a selection that it does not publish."""
PAIRS = "HuggingFaceH4/ultrafeedback_binarized"
"""SRPO's footnote 7; its split ``train_prefs`` has the 61,135 pairs that the card calls 64k with the test split."""
ARENA_HARD = "https://raw.githubusercontent.com/lmarena/arena-hard-auto/main/data/arena-hard-v0.1/question.jsonl"
"""500 questions; SRPO's footnote 8."""


def prepare(directory: Path) -> None:
    """Download and write ``demonstrations.jsonl``, ``preferences.jsonl`` and ``arena_hard.jsonl``, unless all are there."""
    names = ("demonstrations", "preferences", "arena_hard")
    if all((directory / f"{name}.jsonl").exists() for name in names):
        return
    from datasets import load_dataset

    made: tuple[Iterable[Mapping[str, Any]], ...] = (
        (pair for row in load_dataset("json", data_files=SHAREGPT, split="train") if (pair := first_exchange(row)) is not None),
        ({"chosen": row["chosen"], "rejected": row["rejected"]} for row in load_dataset(PAIRS, split="train_prefs")),
        (question(row) for row in load_dataset("json", data_files=ARENA_HARD, split="train")),
    )
    directory.mkdir(parents=True, exist_ok=True)
    for name, records in zip(names, made, strict=True):
        lines = (json.dumps({"id": f"{name}-{k:06d}", **record}) + "\n" for k, record in enumerate(records))
        (directory / f"{name}.jsonl").write_text("".join(lines))


def first_exchange(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first question and its answer; None where the chat does not begin with them."""
    turns: Sequence[Mapping[str, str]] = row["conversations"][:2]
    if [turn["from"] for turn in turns] != ["human", "gpt"] or not all(turn["value"].strip() for turn in turns):
        return None
    return {"prompt": [{"role": "user", "content": turns[0]["value"]}], "response": turns[1]["value"]}


def question(row: Mapping[str, Any]) -> dict[str, Any]:
    """Arena-Hard's question as a prompt of one turn, under its own id."""
    (turn,) = row["turns"]
    return {"id": row["question_id"], "prompt": [{"role": "user", "content": turn["content"]}]}
