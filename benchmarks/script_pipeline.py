"""The loop as one program, against the scripts that the SPPO authors publish (``benchmarks.scripts``): seconds of theirs over ours.

Both sides do the same work from the same model: 5 iterations of 40 prompts, 5 responses each, one pair per prompt, 10 steps of 4 pairs; 50
global batches in all. The oracle is the same function, which has nothing to load. The pipeline's trainer is plain torch; its engine is
started in the way that is fastest here. The time of a side is from the start of its first process to the end of its last. On their side it
includes every stage's imports, model and engine; on ours the command line, the local Ray cluster, the start and end of all actors, and
also the sync checks, the checkpoints, the journal and the exported policy. So that other work on the machine does not favour a side,
waiting threads of both sides sleep, and Ray's workers have the scripts' priority (by default they are nice by 15).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from actors.rollout.engine import engine_env
from benchmarks.figure import Figure
from benchmarks.models import SHAPES, make_policy
from benchmarks.scripts import work
from benchmarks.trl import cut_heads, make_prompts

ROOT = Path(__file__).parents[1]
STAGES = ("generate", "rank", "compute_prob", "train")
SIZE = "260k"
THREADS = 2
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Waiting threads sleep."""
SAMPLES = 3
BAR = 2.0


def figure() -> Figure:
    """Measure the sides in turns.

    Raises:
        RuntimeError: a process of either side failed, or the sides did not do the same work.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_policy(folder / "policy", SIZE)
        cut_heads(folder / "policy")
        prompts = make_prompts(work.ITERATIONS * work.PROMPTS, SHAPES[SIZE]["vocab_size"])
        turns = [
            (scripts_s(folder / f"scripts_{k}", folder / "policy", prompts), ours_s(folder / f"ours_{k}", prompts)) for k in range(SAMPLES)
        ]
    theirs, ours = (median(side) for side in zip(*turns, strict=True))
    unit = f"seconds of the scripts ({theirs:.1f}) over ours ({ours:.1f}), {work.ITERATIONS} iterations, every process' start-up counted"
    return Figure("iteration_over_script_pipeline", median(a / b for a, b in turns), BAR, unit, SAMPLES)


def scripts_s(folder: Path, start: Path, prompts: list[str]) -> float:
    """Seconds of the script pipeline."""
    folder.mkdir()
    shutil.copytree(start, work.policy(folder, 0))
    (folder / "prompts.json").write_text(json.dumps(prompts))
    began = time.monotonic()
    for iteration in range(work.ITERATIONS):
        for stage in STAGES:
            call(f"benchmarks.scripts.{stage}", str(folder), str(iteration), env=engine_env("cpu", THREADS) | WAITING)
    seconds = time.monotonic() - began
    check_steps(sum(int((folder / str(iteration) / "steps").read_text()) for iteration in range(work.ITERATIONS)))
    return seconds


def ours_s(folder: Path, prompts: list[str]) -> float:
    """Seconds of ``raypref train``."""
    folder.mkdir()
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    (folder / "run.yaml").write_text(yaml.safe_dump(settings(folder)))
    began = time.monotonic()
    env = {"RAY_ADDRESS": "local", "RAY_worker_niceness": "0"}
    call("raypref", "train", str(folder / "run.yaml"), env=env)
    seconds = time.monotonic() - began
    check_steps(json.loads((folder / "run" / "summary.json").read_text())["steps"])
    return seconds


def settings(folder: Path) -> dict[str, Any]:
    """Of our run."""
    return {
        "output_dir": str(folder / "run"),
        "policy": {"path": str(folder.parent / "policy"), "dtype": "float32", "max_context_tokens": work.CONTEXT_TOKENS},
        "data": {"path": str(folder / "prompts.jsonl"), "chat_template": False, "shuffle": False},
        "loop": {"iterations": work.ITERATIONS, "prompts_per_iteration": work.PROMPTS},
        "rollout": {"responses": work.RESPONSES, "max_tokens": work.TOKENS},
        "oracle": {"type": "callable", "function": "benchmarks.different_words:preferences"},
        "selection": {"type": "best_worst", "all_equal": "keep"},
        "loss": {"type": "sppo", "eta": work.ETA},
        "learner": {
            "global_batch": work.PAIRS,
            "zero_stage": 0,
            "max_grad_norm": work.MAX_GRAD_NORM,
            "optimizer": {"lr": work.LR},
            "schedule": {"type": "constant", "warmup_ratio": 0.0},
        },
        "placement": {"device": "cpu", "oracle": {"gpus": 0}},
    }


def call(module: str, *arguments: str, env: dict[str, str]) -> None:
    """Run a module to its end in its own process."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def check_steps(steps: int) -> None:
    expected = work.ITERATIONS * -(-work.PROMPTS // work.PAIRS)
    if steps != expected:
        raise RuntimeError(f"script_pipeline: {steps} optimiser steps; expected {expected}")
