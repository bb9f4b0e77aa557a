"""Who worked when: ``timeline.jsonl`` of a run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

MOST_SPANS = 400
"""Intervals of one row that are shown; neighbouring ones are joined until there are no more."""


def read_timeline(directory: Path) -> dict[str, list[tuple[float, float]]]:
    """Row -> begin and end of each interval, in seconds since the first start of the run; empty where the run has no timeline.

    A resumed run continues the time of the attempt before it.
    """
    path = directory / "timeline.jsonl"
    rows: dict[str, list[tuple[float, float]]] = {}
    offset = newest = 0.0
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else []:
        try:
            entry = json.loads(line) if line.strip() else {}
        except ValueError:
            continue  # the last line, which is being written or was cut off
        if entry.get("begins"):
            offset = newest
        for name, begin, end in entry.get("spans", []):
            newest = max(newest, offset + end)
            rows.setdefault(name, []).append((offset + begin, offset + end))
    return {name: joined(sorted(intervals), MOST_SPANS) for name, intervals in sorted(rows.items())}


def joined(intervals: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most ``most`` intervals: the shortest gaps between them are closed."""
    if len(intervals) <= most:
        return intervals
    gaps = sorted((following[0] - interval[1], place) for place, (interval, following) in enumerate(itertools.pairwise(intervals)))
    closed = {place for _, place in gaps[: len(intervals) - most]}
    result = [intervals[0]]
    for place, interval in enumerate(intervals[1:]):
        if place in closed:
            result[-1] = (result[-1][0], max(result[-1][1], interval[1]))
        else:
            result.append(interval)
    return result
