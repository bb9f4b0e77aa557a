"""The prompts of the INPO paper and of its iterative DPO baseline, as one file in the order of the three iterations.

Both papers train each iteration on a new set of 20,000 prompts, which the RLHFlow project publishes as the data sets below.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from examples.ultrafeedback import split

SETS = tuple(f"RLHFlow/iterative-prompt-v1-iter{k}-20K" for k in (1, 2, 3))
"""Hub names; split ``train``, field ``context_messages`` (a list of chat messages)."""
SEED = 0
HELD_OUT_PROMPTS = 510
"""Divisible by three."""


def prepare(directory: Path) -> None:
    """Download the three sets and write ``prompts.jsonl`` and ``held_out.jsonl``, unless both are there."""
    files = [directory / "prompts.jsonl", directory / "held_out.jsonl"]
    if all(file.exists() for file in files):
        return
    from datasets import load_dataset

    sets = [[as_text(chat) for chat in load_dataset(name, split="train")["context_messages"]] for name in SETS]
    directory.mkdir(parents=True, exist_ok=True)
    for file, kind, prompts in zip(files, ("train", "held-out"), split(sets, HELD_OUT_PROMPTS, SEED), strict=True):
        file.write_text("".join(records(kind, prompts)))


def as_text(chat: Iterable[dict[str, str]]) -> str:
    """A chat as one text, the same for the same chat: prompts are compared to drop those that occur twice."""
    return json.dumps([{"role": turn["role"], "content": turn["content"]} for turn in chat])


def records(kind: str, prompts: Iterable[str]) -> Iterable[str]:
    """Lines of JSON: an id, and the chat."""
    return (json.dumps({"id": f"{kind}-{k:05d}", "prompt": json.loads(prompt)}) + "\n" for k, prompt in enumerate(prompts))
