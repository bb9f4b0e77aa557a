"""How long a training step takes: seconds of a plain torch loop, and of TRL's trainer, over those of the learner.

- ``learner_zero_N``: a loop of forward, backward and AdamW without DeepSpeed, with the same micro-batches, packing and chunks, over one
  rank of the learner at ZeRO stage N (15M parameters).
- ``learner_trl_SIZE``: TRL's ``DPOTrainer`` with ``loss_type="sppo_hard"`` over the learner at stage 0. TRL runs without gradient
  checkpointing, in float32 like the learner, with pi_t's log-probs computed beforehand and micro-batches of four pairs (at 260k parameters
  faster than all sixteen at once, which are padded to the longest); the time of its loader is not counted. Left out where TRL is not
  installed (the extra ``bench``).

Every side trains on the same pairs in the same batches with one thread, and the sides take turns; the result is the median of the ratios
of the turns. The gradient norm of the first step is checked to be the same on all sides.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figure import Figure
from benchmarks.learner_sides import Bare, Learner, Trl
from benchmarks.models import SHAPES, make_policy

THREADS = 1
SAMPLES = 5
STAGES = {0: 0.92, 2: 0.92, 3: 0.85}
"""ZeRO stage -> bar."""
STEPS = {"260k": 4, "7m": 1, "15m": 1}
"""Optimiser steps of one sample."""
BARS_OVER_TRL = {"260k": 1.3, "7m": 1.7, "15m": 3.0}


def main(arguments: Sequence[str]) -> int:
    """Arguments: the sizes to measure; all by default."""
    import ray

    trl = importlib.util.find_spec("trl") is not None
    if not trl:
        print("learner: TRL is not installed (the extra `bench`); the figures over it are left out", file=sys.stderr)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for size in arguments or STEPS:
            if trl or size == "15m":
                with tempfile.TemporaryDirectory() as folder:
                    _measure(Path(folder), size, trl)
    finally:
        ray.shutdown()
    return 0


def _measure(directory: Path, size: str, trl: bool) -> None:
    """Show the figures of one model."""
    import ray

    from actors.learner.deepspeed_setup import learner_env

    make_policy(directory / "policy", size)
    env = {"num_cpus": 0, "runtime_env": {"env_vars": learner_env("cpu", THREADS)}}
    common = (directory / "policy", SHAPES[size]["vocab_size"], STEPS[size])
    stages = STAGES if size == "15m" else {0: 0.0}
    sides: dict[str, Any] = {f"zero_{stage}": ray.remote(Learner).options(**env).remote(*common, stage) for stage in stages}
    if size == "15m":
        sides["bare"] = ray.remote(Bare).options(**env).remote(*common)
    if trl:
        sides["trl"] = ray.remote(Trl).options(**env).remote(*common)
    norms = {name: ray.get(side.first_gradient_norm.remote(), timeout=600) for name, side in sides.items()}
    for name, norm in norms.items():
        if not math.isclose(norm, norms["zero_0"], rel_tol=1e-3):
            raise RuntimeError(f"learner: the first step's gradient norm is {norm} for {name} and {norms['zero_0']} for the learner")
    turns = [{name: ray.get(side.seconds.remote(), timeout=600) for name, side in sides.items()} for _ in range(SAMPLES)]
    if size == "15m":
        for stage, bar in STAGES.items():
            _show(f"learner_zero_{stage}", turns, "bare", f"zero_{stage}", bar)
    if trl:
        _show(f"learner_trl_{size}", turns, "trl", "zero_0", BARS_OVER_TRL[size])
    for side in sides.values():
        ray.kill(side)


def _show(name: str, turns: Sequence[dict[str, float]], other: str, ours: str, bar: float) -> None:
    seconds = {side: median(turn[side] for turn in turns) for side in (other, ours)}
    unit = f"seconds of {other} ({seconds[other]:.3f}) over the learner's ({seconds[ours]:.3f})"
    Figure(name, median(turn[other] / turn[ours] for turn in turns), bar, unit, SAMPLES).show()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
