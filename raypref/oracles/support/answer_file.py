"""A judge's answers as JSON Lines: each is on the disk as soon as it is there, and an interrupted call goes on from the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raypref.errors import DataError, RunFailed
from raypref.oracles.base import Chat

Ask = Callable[[Sequence[Chat]], Sequence[str | None]]
"""Chats -> replies; None where there is none."""
Request = tuple[Sequence[Chat], Callable[[Sequence[str]], dict[str, Any]]]
"""What a judge is asked for one line of the file, and what makes the line of its replies."""


def read_lines(path: Path, *, answers: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place (``file:line``) and the object of each line of a JSON Lines file.

    Args:
        path: the file.
        answers: it is one that ``answered`` writes: it may not be there yet, and a last line that was cut off is left out.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    if answers and not path.exists():
        return
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    content = path.read_bytes()
    try:
        lines = content[: _end(path, content) if answers else None].decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 text, so that it cannot be JSON Lines: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: no JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected an object, got {type(record).__name__}")
        yield f"{path}:{number}", record


def answered(path: Path, requests: Sequence[Request], ask: Ask, at_once: int) -> Iterator[list[dict[str, Any]]]:
    """Ask, and add the answers to a file. A request of which a chat has no reply is left out.

    Args:
        path: a last line that was cut off is removed from it first.
        requests: what is asked.
        ask: sends chats to the judge.
        at_once: requests that are asked together.

    Yields:
        The new lines of each part of the requests; they are on the disk.

    Raises:
        RunFailed: the file cannot be written. It ends with a whole line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.truncate(_end(path, path.read_bytes()))
        for start in range(0, len(requests), at_once):
            part = requests[start : start + at_once]
            replies = iter(ask([chat for chats, _ in part for chat in chats]))
            lines = []
            for chats, record in part:
                own = [next(replies) for _ in chats]
                if len(texts := [reply for reply in own if reply is not None]) == len(own):
                    lines.append(record(texts))
            _append(path, file.fileno(), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            yield lines


def _append(path: Path, descriptor: int, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes \ud83d, which JSON reads back
    before, written = os.fstat(descriptor).st_size, 0
    try:
        while written < len(data):
            written += os.write(descriptor, data[written:])
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, before + data.rfind(b"\n", 0, written) + 1)
        remedy = "the answers before are in it; make room, and the same command asks for the others"
        raise RunFailed(f"{path} cannot be written ({error.strerror}): {remedy}") from error


def _end(path: Path, content: bytes) -> int:
    """Where the last whole line ends."""
    end = content.rfind(b"\n") + 1
    if content and not end:
        raise DataError(f"{path}: has no whole line, so that it is no file of answers; remove it, or give another --output")
    return end
