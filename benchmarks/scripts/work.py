"""How much each stage has to do, and where it reads and writes."""

from __future__ import annotations

import sys
from pathlib import Path

ITERATIONS = 5
PROMPTS = 40
"""Of one iteration."""
RESPONSES = 5
TOKENS = 48
"""Longest response."""
CONTEXT_TOKENS = 128
PAIRS = 4
"""Of one optimiser step: 10 steps an iteration."""
ETA, LR, MAX_GRAD_NORM = 20.0, 1e-4, 1.0


def policy(folder: Path, iteration: int) -> Path:
    """Where pi_t is."""
    return folder / f"policy_{iteration}"


def stage() -> tuple[Path, int, Path]:
    """From the command line: the folder of all iterations, which iteration it is, and its own folder."""
    folder, iteration = Path(sys.argv[1]), int(sys.argv[2])
    own = folder / str(iteration)
    own.mkdir(exist_ok=True)
    return folder, iteration, own
