"""The TL;DR data, as files that the two configs of this folder read; ``data.template: tldr`` makes prompts of their fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DEMONSTRATIONS, PREFERENCES = "trl-lib/tldr", "trl-lib/tldr-preference"
"""Hub names: the filtered Reddit posts with their own summaries (about 116,000 to train on), and OpenAI's human comparisons (92,858).
Fields ``prompt``, ``completion``; ``prompt``, ``chosen``, ``rejected``; a prompt is SUBREDDIT, TITLE, POST and ``TL;DR:``."""
HELD_OUT_PROMPTS = 1024
"""The paper evaluates on the first 1,024 posts of the test split."""
POST = re.compile(r"SUBREDDIT: r/(?P<subreddit>.*?)\n+TITLE: (?P<title>.*?)\n+POST: (?P<post>.*?)\n*TL;DR:\s*", re.DOTALL)


def prepare(directory: Path) -> None:
    """Download and write ``demonstrations.jsonl``, ``preferences.jsonl`` and ``held_out.jsonl``, unless all are there."""
    names = ("demonstrations", "preferences", "held_out")
    if all((directory / f"{name}.jsonl").exists() for name in names):
        return
    from datasets import load_dataset

    posts = load_dataset(DEMONSTRATIONS)
    made: tuple[Iterable[Mapping[str, Any]], ...] = (
        (demonstration(row) for row in posts["train"]),
        (pair(row) for row in load_dataset(PREFERENCES, split="train")),
        (post_of(row) for row in posts["test"].select(range(HELD_OUT_PROMPTS))),
    )
    directory.mkdir(parents=True, exist_ok=True)
    for name, records in zip(names, made, strict=True):
        lines = (json.dumps({"id": f"{name}-{k:06d}", **record}) + "\n" for k, record in enumerate(records))
        (directory / f"{name}.jsonl").write_text("".join(lines))


def post_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The fields ``subreddit``, ``title`` and ``post`` of the row's prompt.

    Raises:
        ValueError: the prompt is not made of SUBREDDIT, TITLE, POST and TL;DR.
    """
    post = POST.fullmatch(row["prompt"])
    if post is None:
        raise ValueError(f"TL;DR: expected 'SUBREDDIT: r/... TITLE: ... POST: ... TL;DR:', got {row['prompt']!r}")
    return post.groupdict()


def demonstration(row: Mapping[str, Any]) -> dict[str, str]:
    return {**post_of(row), "response": summary(row["completion"])}


def pair(row: Mapping[str, Any]) -> dict[str, str]:
    return {**post_of(row), "chosen": summary(row["chosen"]), "rejected": summary(row["rejected"])}


def summary(text: str) -> str:
    """One blank before it, none behind: the prompt ends with a colon."""
    return " " + text.strip()
