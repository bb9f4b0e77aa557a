"""The results of a finished run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What the driver reports at the end; ``summary.json`` is built from it."""

    steps: int = 0
    """Optimiser steps."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """What ``Evaluator.evaluate`` returned, in order."""
    held_out: list[dict[str, Any]] = field(default_factory=list)
    """What ``HeldOutLoss`` measured, in order: ``iteration`` (from 1), ``step`` (steps taken before); of held-out examples their number
    (``examples``), the loss and its metrics by their names in training; of texts their number (``texts``) and ``text_nll``."""
    best: dict[str, Any] | None = None
    """The best checkpoint: ``checkpoint``, ``policy`` (its model directory, if there is one), ``iteration``, ``step``, and the measure."""
    sync: dict[str, float] = field(default_factory=dict)
    """The largest value of each metric of the check, over all weight syncs."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> wall seconds in which it was at work; stages overlap."""
    replacements: list[dict[str, Any]] = field(default_factory=list)
    """Actors that were lost and replaced while the run went on: ``time``, ``actor``, ``step`` (steps taken before) and ``reason``."""
    set_aside: list[dict[str, Any]] = field(default_factory=list)
    """Prompts whose group was dropped because it killed two replicas of a role: ``prompt``, ``step`` and ``reason``."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """What left its healthy range, in the order in which it did: the entries of ``warnings.jsonl`` (``raypref.metrics.health.Finding``)."""
