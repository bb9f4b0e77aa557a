"""Which checkpoint is the best one (``checkpoint.best``)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raypref.errors import ConfigError
from raypref.output.checkpoint import Checkpoints, RunState


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint so far."""

    checkpoint: Path
    state: RunState
    measure: Literal["win_rate_against_base", "held_out_loss"]
    value: float

    def entry(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return {
            "checkpoint": str(self.checkpoint),
            "iteration": self.state.iteration,
            "step": self.state.step,
            self.measure: self.value,
        }


def best_of(checkpoints: Iterable[Path], evaluations: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> Best | None:
    """The checkpoint whose policy has the highest win rate against the base policy; in a run without win rates the one with the lowest loss
    on held-out examples. Of equal ones the newest.

    Args:
        checkpoints: complete ones, oldest first; one that cannot be read is left out.
        evaluations: win rates, one entry per evaluated policy (``Evaluator.evaluate``).
        held_out: losses (``HeldOutLoss``).

    Returns:
        None where no policy of these was measured.
    """
    rates = {entry["iteration"]: float(entry["base"]["win_rate"]) for entry in evaluations if "base" in entry}
    losses = {entry["step"]: loss for entry in held_out if math.isfinite(loss := float(entry.get("loss", math.nan)))}
    found: list[Best] = []
    for path in checkpoints:
        try:
            state, _ = Checkpoints.read(path)
        except ConfigError:  # named when a run is resumed
            continue
        if not rates and state.step in losses:
            found.append(Best(path, state, "held_out_loss", losses[state.step]))
        elif state.iteration in rates and not state.steps_within:
            found.append(Best(path, state, "win_rate_against_base", rates[state.iteration]))
    return max(reversed(found), key=lambda one: one.value if rates else -one.value, default=None)
