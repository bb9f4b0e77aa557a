"""Files of a judge's answers: a full disk, a line that was cut off, files that are something else."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from raypref.errors import DataError, RunFailed
from raypref.oracles.base import Chat
from raypref.oracles.support.answer_file import Request, answered, read_lines


def answer(replies: Sequence[str]) -> dict[str, Any]:
    return {"a": replies[0]}


def requests(*texts: str) -> list[Request]:
    return [([(("user", text),)], answer) for text in texts]


def echo(chats: Sequence[Chat]) -> list[str | None]:
    return [chat[0][1] for chat in chats]


def ask(path: Path, *texts: str, at_once: int = 8) -> list[Any]:
    return [line["a"] for lines in answered(path, requests(*texts), echo, at_once) for line in lines]


def there(path: Path) -> list[Any]:
    return [line["a"] for _, line in read_lines(path, answers=True)]


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """The kernel writes no file beyond this many bytes; what fits of a write is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_whole_lines_and_no_part_of_another(tmp_path: Path) -> None:
    """Each line has 12 bytes, so that of four at once two fit into 30, and 6 bytes of the third; it is removed again."""
    path = tmp_path / "new" / "a.jsonl"
    assert ask(path, "x0") == ["x0"]
    assert path.stat().st_size == 12
    with room_for(42), pytest.raises(RunFailed, match=r"a\.jsonl cannot be written \(File too large\): the answers before are in it"):
        ask(path, "x1", "x2", "x3", "x4")
    assert path.read_bytes() == b'{"a": "x0"}\n{"a": "x1"}\n{"a": "x2"}\n'
    assert ask(path, "x3", "x4", at_once=1) == ["x3", "x4"]
    assert there(path) == ["x0", "x1", "x2", "x3", "x4"]


@pytest.mark.parametrize("cut", range(1, 13))
def test_a_line_that_was_cut_off_anywhere_is_left_out_and_then_removed(tmp_path: Path, cut: int) -> None:
    """Also inside of a character of two bytes, and before the line's end alone. Reading changes nothing."""
    path = tmp_path / "a.jsonl"
    ask(path, "x0", "éé")
    path.write_bytes(path.read_bytes()[:-cut])
    before = path.read_bytes()
    assert (there(path), path.read_bytes()) == (["x0"], before)
    assert ask(path, "éé") == ["éé"]
    assert there(path) == ["x0", "éé"]


def test_a_request_without_a_reply_is_left_out(tmp_path: Path) -> None:
    """Two chats make one line; of three requests the second lacks its first reply."""
    path = tmp_path / "a.jsonl"
    pairs: list[Request] = [([(("user", f"{k}"),), (("user", f"{k}'"),)], lambda replies: {"a": "".join(replies)}) for k in range(3)]
    parts = list(answered(path, pairs, lambda chats: [None if chat[0][1] == "1" else chat[0][1] for chat in chats], 2))
    assert parts == [[{"a": "00'"}], [{"a": "22'"}]]
    assert there(path) == ["00'", "22'"]


def test_a_reply_with_half_a_character_is_read_back(tmp_path: Path) -> None:
    ask(tmp_path / "a.jsonl", "\ud83d \\ud83d")
    assert there(tmp_path / "a.jsonl") == ["\ud83d \\ud83d"]


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    """A list on one line without an end would be cut off as a whole."""
    path = tmp_path / "a.jsonl"
    path.write_text('[{"mine": 1}]')
    for attempt in (there, ask):
        with pytest.raises(DataError, match=r"a\.jsonl: has no whole line, so that it is no file of answers"):
            attempt(path)
    assert path.read_text() == '[{"mine": 1}]'
    with pytest.raises(DataError, match="no such file"):
        list(read_lines(tmp_path / "none"))
