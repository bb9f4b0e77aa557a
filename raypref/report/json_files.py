"""JSON files of a run as they are found: perhaps still being written, cut off or damaged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Lines:
    """The objects of a file with one on each line."""

    rows: tuple[dict[str, Any], ...]
    damaged: tuple[int, ...]
    """Numbers of the lines, from 1, that hold no object. The last one is not among them where it has no line end."""
    torn: bool
    """Whether the last line has no line end and holds no object: it is being written, or was cut off."""


def json_lines(path: Path) -> Lines:
    """What a file holds, line by line; nothing where there is no file."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else [""]
    found = [_object(line) for line in lines]
    wrong = [number for number, line in enumerate(lines, start=1) if line.strip() and found[number - 1] is None]
    return Lines(
        tuple(row for row in found if row is not None),
        tuple(number for number in wrong if number < len(lines)),
        len(lines) in wrong,
    )


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line.strip() else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def json_object(path: Path) -> dict[str, Any]:
    """The object that is all of a file.

    Raises:
        OSError, ValueError: there is no file, or it holds something else; the message says what.
    """
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError("the file is empty")
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {type(content).__name__}")
    return content
