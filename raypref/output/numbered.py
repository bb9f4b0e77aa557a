"""Names with a number in them (``iteration_0002``, ``iteration_0002-step_000350``, ``iteration_0002-oracle-0-00.parquet``), compared as
numbers.

Names are padded with zeros for people and for ``ls``. From 10,000 on the order of the names is no longer that of the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_NUMBERED = re.compile(r"iteration_(\d+)(?!\d)(?:-step_(\d+)(?!\d))?")


def iteration_name(number: int, step: int | None = None) -> str:
    """``iteration_0002``; with a step of the run ``iteration_0002-step_000350``."""
    return f"iteration_{number:04d}" + ("" if step is None else f"-step_{step:06d}")


def number_in(name: str) -> int | None:
    """The number of a name that begins like those of ``iteration_name``; None if it does not."""
    match = _NUMBERED.match(name)
    return None if match is None else int(match[1])


def step_in(name: str) -> int:
    """The step of a name that begins like those of ``iteration_name``; 0 where it has none."""
    match = _NUMBERED.match(name)
    return 0 if match is None else int(match[2] or 0)


def by_number(paths: Iterable[Path]) -> list[Path]:
    """The paths whose names have a number, smallest number first; those with the same number by step, then in the order of their names."""
    numbered = [(number, step_in(path.name), path) for path in paths if (number := number_in(path.name)) is not None]
    return [path for _, _, path in sorted(numbered)]
