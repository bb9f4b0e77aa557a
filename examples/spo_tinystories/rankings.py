"""Rankings of four stories, made as SPO Appendix E makes them: an annotator ranks each set twice, in opposite orders.

``python -m examples.spo_tinystories.rankings nothing COUNT PROMPTS``, ``... ask STORIES QUESTIONS`` and ``... read STORIES ANSWERS
RANKINGS``, all JSONL: PROMPTS ``{"id", "prompt"}`` with empty prompts, one for each set of stories,
STORIES ``{"id", "prompt", "responses"}`` (four texts a line), QUESTIONS ``{"id", "question"}`` (two a line of STORIES, ``ID/forward``
and ``ID/backward``), ANSWERS ``{"id", "answer"}`` by the same ids, RANKINGS ``{"id", "prompt", "responses", "ranking"}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raypref.oracles.support.rankings import read_ranking

STORIES = 4
TEMPLATE = Path(__file__).with_name("ranking_prompt.txt")


def questions(story_set: Mapping[str, Any]) -> list[dict[str, str]]:
    """The set's two questions, its stories in their order and reversed."""
    stories: Sequence[str] = story_set["responses"]
    if len(stories) != STORIES:
        raise ValueError(f"set {story_set['id']!r} has {len(stories)} stories; the prompt is for {STORIES}")
    orders = {"forward": stories, "backward": stories[::-1]}
    return [{"id": f"{story_set['id']}/{name}", "question": _question(shown)} for name, shown in orders.items()]


def _question(stories: Sequence[str]) -> str:
    before, *gaps = TEMPLATE.read_text().split("{}")
    return before + "".join(story.strip() + gap for story, gap in zip(stories, gaps, strict=True))


def agreed(forward: str, backward: str) -> tuple[int, ...] | None:
    """The ranking that both answers give, the second about the stories in reverse; None where they differ or either is unreadable."""
    first, second = read_ranking(forward, STORIES), read_ranking(backward, STORIES)
    if first is None or second is None or first != tuple(STORIES - 1 - story for story in second):
        return None
    return first


def rankings(story_sets: Iterable[Mapping[str, Any]], answers: Mapping[str, str]) -> list[dict[str, Any]]:
    """The sets on which both answers agree, with their stories from the best to the worst."""
    kept = []
    for story_set in story_sets:
        name = story_set["id"]
        ranking = agreed(answers.get(f"{name}/forward", ""), answers.get(f"{name}/backward", ""))
        if ranking is not None:
            best_first = [story_set["responses"][story] for story in ranking]
            kept.append({"id": name, "prompt": story_set["prompt"], "responses": best_first, "ranking": list(range(STORIES))})
    return kept


def _read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]


def _write(path: str, records: Iterable[Mapping[str, Any]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))


def main(arguments: list[str]) -> None:
    """``nothing COUNT PROMPTS``, ``ask STORIES QUESTIONS`` or ``read STORIES ANSWERS RANKINGS``."""
    match arguments:
        case ["nothing", count, out]:
            _write(out, ({"id": f"{Path(out).stem}-{k:05d}", "prompt": ""} for k in range(int(count))))
        case ["ask", stories, out]:
            _write(out, (question for story_set in _read(stories) for question in questions(story_set)))
        case ["read", stories, answers, out]:
            _write(out, rankings(_read(stories), {record["id"]: record["answer"] for record in _read(answers)}))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
