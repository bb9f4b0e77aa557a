"""Checks of ``benchmarks.gpu`` that are programs of their own: tests/gpu, and the quickstart with every role on the GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.gpu_passes import Deviation

ONE_GPU = ("placement.device=cuda", "placement.layout=colocated", "policy.dtype=bfloat16", "rollout.gpu_memory_utilization=0.3")
"""The quickstart's settings for one GPU."""


def tests_passes(device: str) -> str:
    """Passes, the head, the token-wise KL and checksums on each device."""
    return _tests("test_passes.py", "test_checksums.py")


def tests_learner(device: str) -> str:
    """A learner rank on each device."""
    return _tests("test_learner.py")


def tests_engines(device: str) -> str:
    """Weight syncs through nccl and ipc; the learner and an engine that take turns on one GPU."""
    return _tests("test_transport.py", "test_phases.py")


def _tests(*files: str) -> str:
    """pytest's summary of tests/gpu."""
    done = _run([sys.executable, "-m", "pytest", "-q", *(f"tests/gpu/{file}" for file in files)])
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else f"pytest ended with status {done.returncode}"
    if done.returncode:
        raise Deviation(summary)
    return summary


def quickstart(device: str) -> str:
    """The quickstart: its base policy on the CPU, its three iterations on the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = _run([sys.executable, "-m", "examples.quickstart.quickstart", "--output-dir", f"{folder}/run", *ONE_GPU])
        if done.returncode:
            raise Deviation(f"the quickstart ended with status {done.returncode}; its output is above")
        return f"{time.perf_counter() - start:.0f} s"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command without the variables of a learner rank; its output is also passed on."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DS_ACCELERATOR", "PYTHONWARNINGS")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stdout)
    return done
