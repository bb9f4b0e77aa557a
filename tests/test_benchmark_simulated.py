"""The clock that skips waiting, and the loop's stages on it."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks.simulated import SimulatedEngines, SimulatedLearner, SimulatedOracle, SimulatedReference, Speeds, Station, prompts, simulate
from raypref.config import RunConfig
from raypref.loop.driver import Driver
from raypref.metrics.writer import MetricsWriter
from raypref.roles import Roles
from raypref.types import RunData


def test_station_with_two_places_takes_three_turns_for_five_things() -> None:
    """Five things of an hour, two at a time: three hours, and a moment of this process."""

    async def work() -> None:
        station = Station(2)
        await asyncio.gather(*(station.work(3600.0) for _ in range(5)))

    assert simulate(work)[1] == pytest.approx(3 * 3600.0, abs=10.0)


def seconds(folder: Path, speeds: Speeds, overlap: bool) -> float:
    """Of one iteration of 50 batches of 4 groups."""
    config = RunConfig.parse(
        {
            "output_dir": str(folder),
            "policy": {"path": "unused"},
            "loss": {"type": "sppo"},
            "selection": {"type": "best_worst"},
            "sync": {"check": False},
            "loop": {"iterations": 1, "window_groups": 16, "overlap": overlap},
            "learner": {"global_batch": 4},
        }
    )
    learner, rollout = SimulatedLearner(speeds), SimulatedEngines(speeds)
    roles = Roles(learner=learner, rollout=rollout, oracle=SimulatedOracle(speeds), reference=SimulatedReference(speeds))
    metrics = MetricsWriter(folder)
    took = simulate(Driver(config, roles, RunData(prompts=prompts(200, tokens=4)), metrics=metrics).run)[1]
    metrics.close()
    return took


@pytest.mark.parametrize(("step_s", "longest"), [(3600.0, "group_s"), (4800.0, "step_s")])
def test_iteration_takes_little_more_than_its_longest_stage(tmp_path: Path, step_s: float, longest: str) -> None:
    """Four groups at once of 4,000 s each: a batch of four in 4,000 s. The oracle takes 2,800 s for a batch, the reference 3,200 s, a step
    3,600 s, or 4,800 s: overlapped at most 1.10 times the stage that is the longest by itself; one after another at least 1.6 times."""
    speeds = Speeds(engines=1, groups_at_once=4, group_s=4000.0, judge_s=700.0, score_s=800.0, step_s=step_s)
    others = {field.name: 0.0 for field in fields(speeds) if field.name.endswith("_s") and field.name != longest}
    alone = seconds(tmp_path, replace(speeds, **others), overlap=True)  # type: ignore[arg-type]
    assert alone == pytest.approx(50 * getattr(speeds, longest), rel=0.02)
    assert seconds(tmp_path, speeds, overlap=True) <= 1.10 * alone
    assert seconds(tmp_path, speeds, overlap=False) >= 1.6 * alone
