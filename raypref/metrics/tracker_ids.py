"""The ids under which experiment trackers know a run, so that a resumed run goes on in the same one."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "trackers.json"


def known(directory: Path, tracker: str) -> str | None:
    """The tracker's id of this run; None for a new one."""
    path = directory / FILE
    return json.loads(path.read_text()).get(tracker) if path.exists() else None


def remember(directory: Path, tracker: str, id_: str) -> None:
    path = directory / FILE
    ids = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**ids, tracker: id_}) + "\n")
