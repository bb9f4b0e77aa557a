"""The TL;DR data, as files that the two configs of this folder read; ``data.template: tldr`` makes prompts of their fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raypref.data.templates import template_of

DEMONSTRATIONS, PREFERENCES = "trl-lib/tldr", "trl-lib/tldr-preference"
"""Hub names: the filtered Reddit posts with their own summaries (about 116,000 to train on), and OpenAI's human comparisons (92,858).
Fields ``prompt``, ``completion``; ``prompt``, ``chosen``, ``rejected``; a prompt is SUBREDDIT, TITLE, POST and ``TL;DR:``."""
XSUM = "hf://datasets/csebuetnlp/xlsum@refs%2Fconvert%2Fparquet/english/test/0000.parquet"
"""The test split of SRPO's footnote (11,535 articles) as Parquet: ``datasets`` no longer runs the data set's own script."""
HELD_OUT_PROMPTS = 1024
"""The paper evaluates on the first 1,024 posts of the test split."""
POST = re.compile(r"SUBREDDIT: r/(?P<subreddit>.*?)\n+TITLE: (?P<title>.*?)\n+POST: (?P<post>.*?)\n*TL;DR:\s*", re.DOTALL)


def prepare(directory: Path) -> None:
    """Download and write ``demonstrations.jsonl``, ``preferences.jsonl`` and ``held_out.jsonl``; the human summaries of the last,
    ``gold_tldr.jsonl``; and, out of distribution, ``xsum.jsonl`` and ``gold_xsum.jsonl``. Nothing is done where all are there."""
    names = ("demonstrations", "preferences", "held_out", "gold_tldr", "xsum", "gold_xsum")
    if all((directory / f"{name}.jsonl").exists() for name in names):
        return
    from datasets import load_dataset

    posts = load_dataset(DEMONSTRATIONS)
    test = list(posts["test"].select(range(HELD_OUT_PROMPTS)))
    news = list(load_dataset("parquet", data_files=XSUM, split="train").select(range(HELD_OUT_PROMPTS)))
    made: tuple[Iterable[Mapping[str, Any]], ...] = (
        (demonstration(row) for row in posts["train"]),
        (pair(row) for row in load_dataset(PREFERENCES, split="train")),
        (post_of(row) for row in test),
        (gold("tldr", post_of(row), row["completion"]) for row in test),
        (article_of(row) for row in news),
        (gold("xsum", article_of(row), row["summary"]) for row in news),
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


def article_of(row: Mapping[str, Any]) -> dict[str, str]:
    """An article of XSum in the fields of ``data.template: xsum``."""
    return {"id": str(row["id"]), "title": row["title"], "article": row["text"]}


def gold(template: str, fields: Mapping[str, str], human: str) -> dict[str, str]:
    """The human summary, which SRPO calls GOLD, beside the prompt that ``template`` makes of the fields."""
    prompt = template_of(template).compose(fields)
    assert prompt is not None
    return {**({"id": fields["id"]} if "id" in fields else {}), "prompt": prompt, "response": summary(human)}


def demonstration(row: Mapping[str, Any]) -> dict[str, str]:
    return {**post_of(row), "response": summary(row["completion"])}


def pair(row: Mapping[str, Any]) -> dict[str, str]:
    return {**post_of(row), "chosen": summary(row["chosen"]), "rejected": summary(row["rejected"])}


def summary(text: str) -> str:
    """One blank before it, none behind: the prompt ends with a colon."""
    return " " + text.strip()
