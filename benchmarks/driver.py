"""What the driver costs with 1, 8, 64 and 512 engines, each as fast as with an 8B model; everything except the driver is simulated.

- ``driver_N_engines``: the driver's CPU time per group with one engine, over that with N. It must not grow with the number of engines.
- ``driver_share_N_engines``: 1% of the iteration's wall time, over the driver's CPU time in it.
- ``driver_bytes``: bytes of a group, over the bytes that the driver sends and receives for it. It handles references, not the data.

Speed of an engine: 6,583 response tokens per second (Llama-3.1-8B-Instruct on ShareGPT prompts, vLLM pull request 18566). With groups of
K = 5 responses of 400 tokens this is 3.3 groups per second. The learner keeps up. The clock is that of ``benchmarks.simulated``.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import simulated
from benchmarks.figure import Figure
from benchmarks.simulated import Speeds, simulate
from raypref import types
from raypref.config import RunConfig
from raypref.loop.driver import Driver
from raypref.metrics.writer import MetricsWriter
from raypref.roles import Roles

GROUPS = 16_384
SAMPLES = 5
ENGINES = (1, 8, 64, 512)
GROUPS_AT_ONCE = 8
"""Per engine: 40 responses."""
RESPONSES, RESPONSE_TOKENS, PROMPT_TOKENS = 5, 400, 200
TOKENS_PER_S = 6583
GLOBAL_BATCH = 64
SHARE = 0.01
"""Largest share of the iteration's wall time that the driver may take."""
GROWTH_BAR = 1 / 1.2
"""At most 20% more CPU time per group than with one engine."""


def main(arguments: Sequence[str]) -> int:
    samples: dict[int, list[tuple[float, float]]] = {engines: [] for engines in ENGINES}
    for _ in range(SAMPLES):
        for engines in ENGINES:
            samples[engines].append(cost(engines))
    cpu_s = {engines: median(cpu for cpu, _ in pairs) for engines, pairs in samples.items()}
    wall_s = {engines: median(wall for _, wall in pairs) for engines, pairs in samples.items()}
    for engines in ENGINES[1:]:
        unit = f"CPU per group with 1 engine ({cpu_s[1] * 1e6:.0f} us) over that with {engines} ({cpu_s[engines] * 1e6:.0f} us)"
        Figure(f"driver_{engines}_engines", cpu_s[1] / cpu_s[engines], GROWTH_BAR, unit, SAMPLES).show()
    for engines in ENGINES:
        unit = f"1% of the wall time per group ({wall_s[engines] * 1e3:.2f} ms; {1 / wall_s[engines]:.0f} groups per second) over its CPU"
        share = SHARE * wall_s[engines] / cpu_s[engines]
        Figure(f"driver_share_{engines}_engines", share, 1.0, unit, SAMPLES).show()
    whole, touched = group_bytes(), bytes_touched()
    Figure(
        "driver_bytes", whole / touched, 0.0, f"bytes of a group ({whole:.0f}) over those that the driver sends and receives for it", 1
    ).show()
    return 0


def speeds_of(engines: int) -> Speeds:
    groups_per_s = engines * TOKENS_PER_S / (RESPONSES * RESPONSE_TOKENS)
    return Speeds(engines, GROUPS_AT_ONCE, engines * GROUPS_AT_ONCE / groups_per_s, step_s=0.9 * GLOBAL_BATCH / groups_per_s)


def cost(engines: int) -> tuple[float, float]:
    """CPU seconds of this process and simulated wall seconds, per group of an iteration."""
    roles = roles_of(speeds_of(engines))
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_of(Path(folder), roles, GROUPS, engines)
        start = time.process_time()
        _, wall_s = simulate(driver.run)
        cpu_s = time.process_time() - start
        driver.meter.writer.close()
    return cpu_s / GROUPS, wall_s / GROUPS


def roles_of(speeds: Speeds) -> Roles:
    return Roles(
        learner=simulated.SimulatedLearner(speeds),
        rollout=simulated.SimulatedEngines(speeds),
        oracle=simulated.SimulatedOracle(speeds),
        reference=simulated.SimulatedReference(speeds),
    )


def driver_of(folder: Path, roles: Roles, groups: int, engines: int) -> Driver:
    config = RunConfig.parse(
        {
            "output_dir": str(folder),
            "policy": {"path": "unused"},
            "loss": {"type": "sppo"},
            "selection": {"type": "best_worst"},
            "sync": {"check": False},
            "checkpoint": {"policies": 0},
            "loop": {"iterations": 1},
            "rollout": {"responses": RESPONSES, "max_num_seqs": GROUPS_AT_ONCE * RESPONSES},
            "placement": {"rollout": {"engines": engines}},
            "learner": {"global_batch": GLOBAL_BATCH},
        }
    )
    data = types.RunData(prompts=simulated.prompts(groups, PROMPT_TOKENS))
    return Driver(config, roles, data, metrics=MetricsWriter(folder))


def bytes_touched(groups: int = GLOBAL_BATCH) -> float:
    """Bytes that the driver sends to the roles and receives from them, per group."""
    roles, touched = roles_of(speeds_of(1)), [0]
    for role, methods in ((roles.rollout, ["sample"]), (roles.oracle, ["judge"]), (roles.reference, ["score"]), (roles.learner, ["step"])):
        for method in methods:
            setattr(role, method, partial(_counted, touched, getattr(role, method)))
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_of(Path(folder), roles, groups, 1)
        simulate(driver.run)
        driver.meter.writer.close()
    return touched[0] / groups


async def _counted(touched: list[int], method: Any, *arguments: Any) -> Any:
    result = await method(*arguments)
    touched[0] += sum(len(pickle.dumps(value)) for value in (*arguments, result))
    return result


def group_bytes() -> int:
    """Bytes of a rollout with its prompt."""
    tokens, logprobs = np.zeros(RESPONSE_TOKENS, dtype=np.int32), np.zeros(RESPONSE_TOKENS, dtype=np.float32)
    text = "word " * (RESPONSE_TOKENS * 4 // 5)
    responses = tuple(types.Response(tokens.copy(), logprobs.copy(), f"{k}{text}", "stop") for k in range(RESPONSES))
    return len(pickle.dumps(types.Rollout(simulated.prompts(1, PROMPT_TOKENS)[0], responses, 0)))
