"""A hundred thousand groups: the memory of the driver does not grow with them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from benchmarks import simulated
from benchmarks.driver import roles_of, speeds_of
from raypref import types
from raypref.config import RunConfig
from raypref.loop.driver import Driver
from raypref.metrics.progress import Callback
from raypref.metrics.writer import MetricsWriter
from tests.chaos.light import GROUP_S
from tests.chaos.runs import LightRun

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

GROUPS, SETTLED, ITERATIONS = 100_000, 10_000, 10


class Memory(Callback):
    """Resident bytes of this process, at every thousandth group."""

    def __init__(self) -> None:
        self.groups = 0
        self.bytes: list[int] = []

    def on_group(self, verdict: types.Verdict) -> None:
        self.groups += 1
        if self.groups % 1000 == 0:
            self.bytes.append(psutil.Process().memory_info().rss)


def test_the_drivers_memory_is_flat_after_ten_thousand_groups(tmp_path: Path) -> None:
    """Over all that follows it grows by less than 100 bytes per group: a group that was kept takes kilobytes."""
    config = RunConfig.parse(
        {
            "output_dir": str(tmp_path),
            "policy": {"path": "unused"},
            "loss": {"type": "sppo"},
            "selection": {"type": "best_worst"},
            "sync": {"check": False},
            "loop": {"iterations": ITERATIONS},
            "rollout": {"responses": 4},
            "learner": {"global_batch": 100},
        }
    )
    data = types.RunData(prompts=simulated.prompts(GROUPS, 8))
    writer, memory = MetricsWriter(tmp_path), Memory()
    simulated.simulate(Driver(config, roles_of(speeds_of(4)), data, metrics=writer, callbacks=[memory]).run)
    writer.close()
    assert memory.groups == GROUPS
    settled, last = memory.bytes[SETTLED // 1000 - 1], max(memory.bytes[-5:])
    assert last - settled < 100 * (GROUPS - SETTLED), f"{settled >> 20} MiB, then {last >> 20} MiB"


def test_the_object_store_holds_no_more_after_ten_iterations_than_after_two(model: Path, tmp_path: Path) -> None:
    """1,920 groups through real actors; the store is looked at when an iteration begins, while its first groups are in flight."""
    loop = {"iterations": 12, "prompts_per_iteration": 160, "window_groups": 32}
    quick = {"evaluation": {"every": 0}, "checkpoint": {"policies": 0, "keep": 1}, "data": {"chat_template": False}}
    run = LightRun(tmp_path, model, {"loop": loop, **quick}, environment={GROUP_S: "0"}, prompts=12 * 160)
    assert run.finish(timeout_s=400) == 0, run.log
    stored = [note["objects"] for note in run.noted("stored")]
    assert len(stored) == 12
    assert max(stored[2:]) <= max(stored[:3]) + 64, stored
    assert run.left_behind() == []
