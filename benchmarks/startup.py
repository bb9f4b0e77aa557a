"""How long a run takes to start: seconds in which one process imports what the actors import, over those from ``run()`` to the first
iteration.

- ``startup_two_ranks``: supervised fine-tuning on two learner ranks, without engines.
- ``startup_quickstart``: the quickstart's actors: an engine, a reference, an oracle and a learner rank.

Every sample is a process of its own, and the sides take turns. A local Ray cluster is started in each run and is part of its time. The
imports are those of transformers, DeepSpeed and vLLM, in one process: a run that starts its actors side by side on enough cores could not
be faster than the slowest of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figure import Figure
from benchmarks.models import SHAPES, make_policy
from benchmarks.trl import cut_heads, make_prompts

ROOT = Path(__file__).parents[1]
SIZE = "260k"
SAMPLES = 3
BARS = {"two_ranks": 0.0, "quickstart": 0.0}
IMPORTS = "import transformers, deepspeed, vllm"
RUN = """
import sys, time
import raypref
from raypref import compose
from raypref.loop.driver import Driver

class Started(Exception):
    pass

async def started(*arguments):
    print(time.monotonic() - begun)
    raise Started

Driver.run = started
config = raypref.load_config(sys.argv[1])
begun = time.monotonic()
try:
    raypref.run(config, callbacks=[])
except Started:
    pass
"""
"""``raypref.run`` up to where the driver would begin; prints the seconds."""


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_policy(folder / "policy", SIZE)
        cut_heads(folder / "policy")
        turns = [{kind: seconds(folder / str(k), kind) for kind in ("imports", *BARS)} for k in range(SAMPLES + 1)][1:]
    for kind, bar in BARS.items():
        imports_s, ours_s = (median(turn[side] for turn in turns) for side in ("imports", kind))
        unit = f"seconds of the imports in one process ({imports_s:.1f}) over those from run() to the first iteration ({ours_s:.1f})"
        Figure(f"startup_{kind}", median(turn["imports"] / turn[kind] for turn in turns), bar, unit, SAMPLES).show()
    return 0


def seconds(folder: Path, kind: str) -> float:
    """Of one side, in a process of its own."""
    if kind == "imports":
        begun = time.monotonic()
        call(IMPORTS)
        return time.monotonic() - begun
    path = folder / f"{kind}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(settings(kind, folder)))  # JSON is YAML
    return float(call(RUN, str(path)).split()[-1])


def call(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter; what it prints.

    Raises:
        RuntimeError: it failed.
    """
    environment = os.environ | {"RAY_ADDRESS": "local", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"startup: {' '.join(arguments) or code} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def settings(kind: str, folder: Path) -> dict[str, Any]:
    """The run's config; its data is written beside it."""
    data = folder / f"{kind}.jsonl"
    texts = make_prompts(32, SHAPES[SIZE]["vocab_size"])
    data.write_text("".join(json.dumps({"prompt": text, "response": " w3"}) + "\n" for text in texts))
    common: dict[str, Any] = {
        "output_dir": str(folder / kind),
        "policy": {"path": str(folder.parent / "policy"), "dtype": "float32"},
        "data": {"path": str(data), "chat_template": False},
        "loop": {"iterations": 1},
        "learner": {"global_batch": 8},
        "evaluation": {"every": 0},
    }
    if kind == "two_ranks":
        common["data"]["type"] = "demonstrations"
        return common | {"loss": {"type": "sft"}, "placement": {"device": "cpu", "learner": {"ranks": 2}}}
    return common | {
        "rollout": {"responses": 5, "max_tokens": 48},
        "oracle": {"type": "callable", "function": "benchmarks.different_words:preferences"},
        "selection": {"type": "best_worst"},
        "loss": {"type": "sppo"},
        "placement": {"device": "cpu", "oracle": {"gpus": 0}},
    }
