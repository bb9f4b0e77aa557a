"""Which checkpoint is the best, and that it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypref.output.best import best_of
from raypref.output.checkpoint import Checkpoints, RunState


def write(checkpoints: Checkpoints, iteration: int, within: int = 0) -> Path:
    state = RunState(iteration, iteration * 10 + within, iteration * 100, within, within)
    checkpoints.begin(state)
    checkpoints.commit(state, evaluations=[])
    return checkpoints.path(state)


def rates(*values: float) -> list[dict[str, Any]]:
    return [{"iteration": k, "base": {"win_rate": value}, "previous": {"win_rate": 1 - value}} for k, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("evaluations", "held_out", "best", "measure", "value"),
    [
        (rates(0.6, 0.7, 0.65), {}, "iteration_0002", "win_rate_against_base", 0.7),
        (rates(0.7, 0.7, 0.65), {}, "iteration_0002", "win_rate_against_base", 0.7),
        (rates(0.6), {10: 9.0, 20: 1.0}, "iteration_0001", "win_rate_against_base", 0.6),
        ([], {0: 0.1, 10: 0.5, 14: 0.3, 20: 0.4, 25: 0.2}, "iteration_0001-step_000014", "held_out_loss", 0.3),
        ([], {10: 0.5, 14: float("nan"), 20: float("inf"), 30: float("nan")}, "iteration_0001", "held_out_loss", 0.5),
    ],
)
def test_the_highest_win_rate_or_the_lowest_loss(
    tmp_path: Path, evaluations: Any, held_out: dict[int, float], best: str, measure: str, value: float
) -> None:
    """Only policies that are in a checkpoint count: not those of steps 0 and 25."""
    checkpoints = Checkpoints(tmp_path, keep=9)
    for iteration, within in ((1, 0), (1, 4), (2, 0), (3, 0)):
        write(checkpoints, iteration, within)
    found = best_of(checkpoints.complete(), evaluations, [{"step": step, "loss": loss} for step, loss in held_out.items()])
    assert found is not None
    assert (found.checkpoint.name, found.measure, found.value) == (best, measure, value)


def test_nothing_was_measured_or_nothing_can_be_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=9)
    path = write(checkpoints, 1)
    assert best_of([path], [], []) is None
    assert best_of([path], rates(0.5), []) is not None
    (path / "state.json").write_text("{")
    assert best_of([path], rates(0.5), []) is None


def test_the_best_stays_with_what_it_needs(tmp_path: Path) -> None:
    """Beside the newest two; one that is best no longer goes."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 1)
    best = write(checkpoints, 1, within=4)
    for iteration in (2, 3, 4, 5):
        write(checkpoints, iteration)
        checkpoints.prune(best)
    assert [path.name for path in checkpoints.complete()] == ["iteration_0001", best.name, "iteration_0004", "iteration_0005"]
    checkpoints.prune(tmp_path / "iteration_0005")
    assert [path.name for path in checkpoints.complete()] == ["iteration_0004", "iteration_0005"]
