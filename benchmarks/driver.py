"""What the driver costs: CPU seconds of its process for a group, with roles in plain Python that answer after a fixed time.

The roles do nothing, so all that is measured is the loop: admission, ordering, batching, metrics. It must not grow with the engines.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.figure import Figure
from raypref.config import RunConfig
from raypref.driver import Driver, Roles, RunData
from raypref.metrics import MetricsWriter
from tests.fakes import FakeLearner, FakeOracle, FakePolicy, FakeReference, FakeRollout, prompt

GROUPS = 2048
SAMPLES = 5
ENGINES = (1, 8, 64, 512)
GROUPS_IN_FLIGHT = 16
"""For each engine."""


def main(arguments: Sequence[str]) -> int:
    costs: dict[int, list[float]] = {engines: [] for engines in ENGINES}
    for _ in range(SAMPLES):
        for engines in ENGINES:
            costs[engines].append(cpu_s_per_group(engines))
    one = median(costs[1])
    for engines in ENGINES[1:]:
        unit = f"CPU of a group with 1 engine ({one * 1e6:.0f} us) over that with {engines}"
        Figure(f"driver_{engines}_engines", one / median(costs[engines]), 0.8, unit, SAMPLES).show()
    return 0


def cpu_s_per_group(engines: int) -> float:
    """CPU seconds of this process for one group, over an iteration of ``GROUPS`` with a window that keeps ``engines`` busy."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.parse(
            {
                "output_dir": folder,
                "policy": {"path": "unused"},
                "loss": {"type": "sppo"},
                "selection": {"type": "best_worst"},
                "loop": {"iterations": 1, "window_groups": GROUPS_IN_FLIGHT * engines},
                "learner": {"global_batch": 64},
            }
        )
        rollout, reference = FakeRollout(FakePolicy()), FakeReference(FakePolicy())
        learner = FakeLearner(replicas=[rollout.policy, reference.policy])
        roles = Roles(learner=learner, rollout=rollout, oracle=FakeOracle(), reference=reference)
        metrics = MetricsWriter(Path(folder))
        driver = Driver(config, roles, RunData(prompts=[prompt(k) for k in range(GROUPS)]), metrics=metrics)
        start = time.process_time()
        asyncio.run(driver.run())
        used = time.process_time() - start
        metrics.close()
    return used / GROUPS
