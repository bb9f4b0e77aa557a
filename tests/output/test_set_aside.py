"""Inputs that are set aside: on the disk at once, and no part of a line on a full one."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from raypref.output.set_aside import SetAside


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    """The kernel writes no file beyond the limit: of the second line 3 bytes fit. It is not set aside, and the next one is read back."""
    aside, path = SetAside(tmp_path), tmp_path / "set_aside.jsonl"
    aside.add("a", {"prompt": "1"})
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 3, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            aside.add("b", {"prompt": "2"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path.read_bytes(), "b" in aside, aside.entries) == (whole, False, [{"prompt": "1"}])
    aside.add("c", {"prompt": "3"})
    assert SetAside(tmp_path).entries == [{"prompt": "1"}, {"prompt": "3"}]
