"""The inputs that are not asked again, on disk as soon as each of them is known."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from raypref.output.whole_file import write_whole


class SetAside:
    """Inputs that killed two replicas of a role: ``set_aside.jsonl`` in the run's directory. A run that is resumed leaves them out, too, so
    that its batches are the same; who wants them to be asked again removes the file."""

    def __init__(self, output_dir: Path) -> None:
        """Read what the run has set aside before. A line that was cut off is left out: its input is asked again."""
        self._path = output_dir / "set_aside.jsonl"
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
        if lines and not lines[-1].endswith("\n"):
            write_whole(self._path, "".join(lines[:-1]))
        read = [json.loads(line) for line in lines if line.endswith("\n")]
        self.entries: list[dict[str, Any]] = [{key: value for key, value in entry.items() if key != "input"} for entry in read]
        """What is known of each, for the report."""
        self._inputs = {entry["input"] for entry in read}

    def __contains__(self, name: str) -> bool:
        return name in self._inputs

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Set an input aside. It is on the disk when this returns.

        Args:
            name: a hash of the input, or its place in the data; the same in a run that is resumed.
            entry: what is known of it.

        Raises:
            OSError: the disk is full or broken. No part of the line stays in the file, and the input is not set aside.
        """
        data = (json.dumps({"input": name, **entry}) + "\n").encode()
        with self._path.open("ab", buffering=0) as file:
            before, written = file.tell(), 0
            try:
                while written < len(data):
                    written += file.write(data[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
        self._inputs.add(name)
        self.entries.append(entry)
