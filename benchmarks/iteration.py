"""How long an iteration takes, compared with what it cannot do without and with other ways to run it.

- ``iteration_STAGE_longest``: seconds of the longest stage alone (the others take no time), over those of a simulated run: two iterations
  of at least 50 global batches, with the sync and the checkpoint between them. The stages do not compete for cores. 8 engines as fast as
  in ``benchmarks.driver``; the learner is faster than they are (``rollout`` is longest), or slower (``train``).
- ``iteration_over_one_after_another``: the same simulated iterations with ``loop.overlap`` off, over those with it.
- ``iteration_2_cores``: 51 global batches through real engines on 2 cores, one stage after another (with 1 thread or with 2, whichever is
  faster), over overlapped (1 thread per role). Start-up is not counted.
- ``iteration_over_script_pipeline``: see ``benchmarks.script_pipeline``.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import driver as driver_benchmark
from benchmarks.figure import Figure
from benchmarks.simulated import Speeds, prompts, simulate
from raypref.config import RunConfig
from raypref.loop.driver import Driver
from raypref.metrics.progress import Callback
from raypref.metrics.writer import MetricsWriter
from raypref.types import RunData

SAMPLES = 5
SIMULATED_SAMPLES = 5
"""They differ by a thousandth."""
ITERATIONS = 2
BATCHES = 52
"""In one simulated iteration."""
GLOBAL_BATCH = 64
ENGINES = 8
LONGEST_BAR = 0.909
"""At most 1.10 times the longest stage."""
STEP_SHARE = {"rollout": 0.9, "train": 1.3}
"""The longest stage -> seconds of a step, over those in which the engines sample a batch."""
REAL = {"prompts": 153, "batch": 3, "responses": 4, "tokens": 24}
"""The run on real engines: 51 batches."""


def main(arguments: Sequence[str]) -> int:
    for stage, share in STEP_SHARE.items():
        show_simulated(stage, share)
    show_real()
    from benchmarks.script_pipeline import figure

    figure().show()
    return 0


# ------------------------------------------------------------------------------------------------------------------------- simulated


def show_simulated(stage: str, step_share: float) -> None:
    batch_s = GLOBAL_BATCH * driver_benchmark.speeds_of(ENGINES).group_s / (ENGINES * driver_benchmark.GROUPS_AT_ONCE)
    group_s = batch_s / GLOBAL_BATCH
    speeds = replace(
        driver_benchmark.speeds_of(ENGINES),
        judge_s=0.7 * group_s,
        score_s=0.8 * group_s,
        step_s=step_share * batch_s,
        sync_s=1.0,
        save_s=10.0,
    )
    alone = [alone_s(speeds, field) for field in ("group_s", "judge_s", "score_s", "step_s")]
    ours = median(simulated_s(speeds) for _ in range(SIMULATED_SAMPLES))
    unit = f"seconds of the longest stage ({max(alone):.1f}) over those of {ITERATIONS} x {BATCHES} batches overlapped ({ours:.1f})"
    Figure(f"iteration_{stage}_longest", max(alone) / ours, LONGEST_BAR, unit, SIMULATED_SAMPLES).show()
    in_turn = median(simulated_s(speeds, overlap=False) for _ in range(SIMULATED_SAMPLES))
    unit = f"simulated seconds one stage after another ({in_turn:.1f}) over overlapped ({ours:.1f}), {stage} the longest"
    Figure(f"iteration_over_one_after_another_{stage}", in_turn / ours, 0.0, unit, SIMULATED_SAMPLES).show()


def alone_s(speeds: Speeds, stage: str) -> float:
    """Seconds of the run when the other stages take none."""
    others = {field.name: 0.0 for field in fields(speeds) if field.name.endswith("_s") and field.name != stage}
    return median(simulated_s(replace(speeds, **others)) for _ in range(SIMULATED_SAMPLES))  # type: ignore[arg-type]  # the fields are floats


def simulated_s(speeds: Speeds, *, overlap: bool = True) -> float:
    """Simulated seconds of a run."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.parse(
            {
                "output_dir": folder,
                "policy": {"path": "unused"},
                "loss": {"type": "sppo"},
                "selection": {"type": "best_worst"},
                "sync": {"check": False},
                "checkpoint": {"policies": 0},
                "loop": {"iterations": ITERATIONS, "overlap": overlap},
                "learner": {"global_batch": GLOBAL_BATCH},
            }
        )
        data = RunData(prompts=prompts(ITERATIONS * BATCHES * GLOBAL_BATCH, tokens=16))
        with contextlib.closing(MetricsWriter(Path(folder))) as metrics:
            return simulate(Driver(config, driver_benchmark.roles_of(speeds), data, metrics=metrics).run)[1]


# ------------------------------------------------------------------------------------------------------------------------------ real


def show_real() -> None:
    import ray

    ray.init(address="local", num_cpus=16, num_gpus=8, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds = real_s(Path(folder))
    finally:
        ray.shutdown()
    ratio = median(min(in_turn) / ours for ours, *in_turn in zip(*seconds, strict=True))
    ours, *in_turn = (median(side) for side in seconds)
    unit = (
        f"seconds of {REAL['prompts'] // REAL['batch']} batches one stage after another ({in_turn[0]:.2f} with 1 thread each, "
        f"{in_turn[1]:.2f} with 2) over overlapped ({ours:.2f}); the median of the turns' ratios"
    )
    Figure("iteration_2_cores", ratio, 0.97, unit, SAMPLES).show()


def real_s(folder: Path) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each sample: overlapped, one stage after another with one thread per role, the same with two. The three take turns."""
    from actors.policy_model import facts_of
    from actors.run_actors import RunActors
    from examples.quickstart.base_policy import prepare
    from raypref.loop.loading import load_run_data
    from raypref.plan.placement import Need, plan_placement

    prepare(folder)
    texts = [f"{k} a lion in a forest" for k in range(REAL["prompts"])]
    with contextlib.ExitStack() as stack:
        runs = []
        for threads in (1, 2):
            config = real_config(folder, threads)
            plan = plan_placement(config.placement, Need(rollout=True, reference=True, oracle=True))
            runs.append(stack.enter_context(RunActors.reserved(config, plan, "cpu", may_grow=False)))
        data = load_run_data(runs[0].config, facts_of(runs[0].config.policy), records=texts, held_out=None)
        return asyncio.run(turns(runs, data, folder))


async def turns(runs: Sequence[Any], data: RunData, folder: Path) -> tuple[list[float], list[float], list[float]]:
    one, two = runs
    for actors in runs:
        await actors.start()
    seconds: tuple[list[float], list[float], list[float]] = ([], [], [])
    for sample in range(SAMPLES + 1):
        for side, (actors, overlap) in zip(seconds, ((one, True), (one, False), (two, False)), strict=True):
            run_s = await one_iteration(actors, data, folder / f"{sample}-{actors.config.name}-{overlap}", overlap)
            if sample:  # the first warms up
                side.append(run_s)
    for actors in runs:
        await actors.close()
    return seconds


async def one_iteration(actors: Any, data: RunData, output_dir: Path, overlap: bool) -> float:
    """Seconds from the iteration's start to the end of its last step."""
    watch = Watch()
    loop = actors.config.loop.model_copy(update={"overlap": overlap})
    config = actors.config.model_copy(update={"output_dir": output_dir, "loop": loop})
    with contextlib.closing(MetricsWriter(output_dir)) as metrics:
        outcome = await Driver(config, actors.roles, data, metrics=metrics, callbacks=[watch]).run()
    if outcome.steps != REAL["prompts"] // REAL["batch"]:
        raise RuntimeError(f"iteration: {outcome.steps} steps; every group should give an example")
    return watch.end - watch.start


class Watch(Callback):
    def on_iteration(self, iteration: int) -> None:
        self.start = time.perf_counter()

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.end = time.perf_counter()


def real_config(folder: Path, threads: int) -> RunConfig:
    cpus = {"cpus": threads}
    return RunConfig.parse(
        {
            "name": f"threads-{threads}",
            "output_dir": str(folder / f"run-{threads}"),
            "policy": {"path": str(folder / "init"), "dtype": "float32"},
            "data": {"chat_template": False, "held_out_prompts": 0},
            "loop": {"iterations": 1, "window_groups": 64},
            "rollout": {"responses": REAL["responses"], "max_tokens": REAL["tokens"]},
            "oracle": {"type": "callable", "function": "examples.quickstart.oracle:panel"},
            "selection": {"type": "best_worst", "all_equal": "keep"},
            "loss": {"type": "sppo", "eta": 1.0},
            "learner": {"global_batch": REAL["batch"], "optimizer": {"lr": 1e-6}, "schedule": {"type": "constant", "warmup_ratio": 0.0}},
            "placement": {"device": "cpu", "rollout": cpus, "reference": cpus, "oracle": {"gpus": 0}, "learner": cpus},
            "evaluation": {"every": 0},
            "sync": {"check": False},
            "checkpoint": {"policies": 0},
        }
    )
