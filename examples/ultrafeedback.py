"""The UltraFeedback prompts of the SPPO paper, as one file in the order of its three iterations.

The paper splits about 60,000 UltraFeedback prompts into three portions; its authors publish the portions as the data sets below, and use
the same three for Mistral and for Llama-3.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

PORTIONS = tuple(f"UCLA-AGI/data-mistral-7b-instruct-sppo-iter{k}" for k in (1, 2, 3))
"""Hub names; split ``train``, field ``prompt`` (text)."""
SEED = 0
HELD_OUT_PROMPTS = 512


def prepare(directory: Path) -> None:
    """Download the three portions and write ``prompts.jsonl`` and ``held_out.jsonl``, unless both are there."""
    files = [directory / "prompts.jsonl", directory / "held_out.jsonl"]
    if all(file.exists() for file in files):
        return
    from datasets import load_dataset

    train, held_out = split([list(load_dataset(name, split="train")["prompt"]) for name in PORTIONS], HELD_OUT_PROMPTS, SEED)
    directory.mkdir(parents=True, exist_ok=True)
    for file, kind, prompts in zip(files, ("train", "held-out"), (train, held_out), strict=True):
        _write(file, kind, prompts)


def split(portions: Sequence[Sequence[str]], held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Training prompts, portion after portion, and prompts set apart for evaluation.

    Each portion is shuffled by itself; a like share of each is set apart; all are then cut to the length of the shortest, so that
    iterations of equal size fall on the portions' borders. A prompt that occurs twice is kept where it occurs first.

    Args:
        portions: the prompts of each iteration.
        held_out: how many to set apart altogether; a remainder of the division by the number of portions is left out.
        seed: of the shuffle.
    """
    source = random.Random(seed)
    share = held_out // len(portions)
    shuffled = [source.sample(portion, k=len(portion)) for portion in _distinct(portions)]
    length = min(len(portion) for portion in shuffled) - share
    apart = [prompt for portion in shuffled for prompt in portion[:share]]
    train = [prompt for portion in shuffled for prompt in portion[share : share + length]]
    return train, apart


def _distinct(portions: Sequence[Sequence[str]]) -> list[list[str]]:
    seen: set[str] = set()
    kept = []
    for portion in portions:
        fresh = [prompt for prompt in dict.fromkeys(portion) if prompt.strip() and prompt not in seen]
        seen.update(fresh)
        kept.append(fresh)
    return kept


def _write(path: Path, kind: str, prompts: Iterable[str]) -> None:
    path.write_text("".join(json.dumps({"id": f"{kind}-{k:05d}", "prompt": prompt}) + "\n" for k, prompt in enumerate(prompts)))
