"""The machine, as ``raypref doctor`` sees it: GPUs, memory, shared memory, limits."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from raypref.cli.findings import Finding

SHARED_MEMORY = Path("/dev/shm")
_LEAST_SHARED = 256 * 2**20
"""Bytes below which Ray's object store and NCCL have too little; a container has 64 MiB unless it is told otherwise."""
_LEAST_MEMORY = 4 * 2**30
_LEAST_FILES, _ENOUGH_FILES = 1024, 8192
WAIT_S = 4.0
"""Longest wait for ``nvidia-smi``, for torch in a process of its own, and for Ray."""
_TORCH = """
import torch
usable = torch.cuda.is_available()
print(torch.cuda.device_count() if usable else 0, ".".join(map(str, torch.cuda.nccl.version())) if usable else "-", torch.__version__)
"""


@dataclass(frozen=True, slots=True)
class Gpus:
    """What ``nvidia-smi`` says."""

    names: tuple[str, ...] = ()
    driver: str = ""
    failure: str = ""


def gpus() -> Gpus:
    """This machine's GPUs."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Gpus()
    code, output = run([command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    rows = [[part.strip() for part in line.split(",")] for line in output.splitlines() if line.count(",") == 2]
    if code != 0 or not rows:
        return Gpus(failure=output.strip() or "no answer")
    return Gpus(tuple(f"{name} ({memory})" for name, memory, _ in rows), rows[0][2])


def gpu_findings(found: Gpus) -> list[Finding]:
    """The GPUs, whether torch reaches them, and NCCL's version."""
    if found.failure:
        text = f"nvidia-smi fails: {found.failure.splitlines()[0]}"
        return [Finding("problem", "GPUs", text, "restart the driver, or give the container its GPUs (docker run --gpus all)")]
    if not found.names:
        return [Finding("OK", "GPUs", "none; runs use the CPU (placement.device=auto)")]
    kinds = ", ".join(f"{found.names.count(name)} x {name}" for name in dict.fromkeys(found.names))
    lines = [Finding("OK", "GPUs", f"{kinds}, driver {found.driver}")]
    code, output = run([sys.executable, "-c", _TORCH], wait_s=2 * WAIT_S)
    count, nccl, torch = [*output.split(), "", "", ""][:3]
    if code != 0 or not count.isdigit():
        lines.append(Finding("problem", "CUDA", f"torch cannot be asked: {last_line(output)}", "make setup EXTRA=gpu"))
    elif int(count) == 0:
        remedy = "make setup EXTRA=gpu; if torch is a CUDA build, the driver is too old for it: nvidia-smi shows its CUDA version"
        lines.append(Finding("problem", "CUDA", f"torch {torch} sees none of these GPUs", remedy))
    elif int(count) < len(found.names):
        remedy = "unset CUDA_VISIBLE_DEVICES, unless the others are not for you"
        lines.append(Finding("warning", "CUDA", f"torch {torch} sees {count} of {len(found.names)} GPUs", remedy))
    else:
        lines.append(Finding("OK", "CUDA", f"torch {torch} sees all of them; NCCL {nccl}"))
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        lines.append(Finding("problem", "C compiler", "none; vLLM's kernels are compiled at the start", "apt-get install gcc"))
    if version("liger-kernel") == "not installed":
        text = "liger-kernel is not installed: training takes more memory and time"
        lines.append(Finding("warning", "kernels", text, 'pip install "raypref[liger]"'))
    return lines


def shared_memory(policy_bytes: int = 0, directory: Path = SHARED_MEMORY) -> Finding:
    """/dev/shm against what uses it: Ray's object store, NCCL, and on CPUs a copy of the policy (``sync.transport: shm``).

    Args:
        policy_bytes: size of the policy; 0: not known.
        directory: where it is mounted.
    """
    remedy = "docker run --shm-size=16g; in Kubernetes an emptyDir with medium: Memory, mounted at /dev/shm"
    if not directory.is_dir():
        return Finding("problem", "shared memory", f"{directory} is not there", remedy)
    usage, third = shutil.disk_usage(directory), int(0.3 * _total_memory())
    text = f"{directory} has {gib(usage.free)} free of {gib(usage.total)}"
    if usage.free < max(_LEAST_SHARED, policy_bytes):
        needed = f"the policy takes {gib(policy_bytes)}" if policy_bytes > _LEAST_SHARED else f"at least {gib(_LEAST_SHARED)} are needed"
        return Finding("problem", "shared memory", f"{text}; {needed}", remedy)
    if usage.total < third:
        return Finding("warning", "shared memory", f"{text}; Ray wants {gib(third)}, and keeps objects on disk otherwise", remedy)
    return Finding("OK", "shared memory", text)


def memory() -> Finding:
    """Host memory that is free now."""
    import psutil

    free = psutil.virtual_memory().available
    text = f"{gib(free)} free of {gib(_total_memory())}, {os.cpu_count()} CPU cores"
    if free < _LEAST_MEMORY:
        return Finding("warning", "memory", text, "end other programs: Ray ends actors at 95% (RAY_memory_usage_threshold)")
    return Finding("OK", "memory", text)


def open_files() -> Finding:
    """The limit of open files, of which each of Ray's connections takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"at most {soft} per process (can be raised to {hard})"
    remedy = f"ulimit -n {min(65536, hard)}, or LimitNOFILE= of the service" if hard > soft else "have the administrator raise it to 65536"
    if soft < _LEAST_FILES:
        return Finding("problem", "open files", text, remedy)
    return Finding("warning", "open files", text, remedy) if soft < _ENOUGH_FILES else Finding("OK", "open files", text)


def gib(size: float) -> str:
    """Bytes, in GiB."""
    return f"{size / 2**30:.1f} GiB"


def run(command: list[str], wait_s: float = WAIT_S) -> tuple[int, str]:
    """Exit code and all output of a command; 124 where it takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=wait_s)
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {wait_s:.0f} s"
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no answer"])[-1]


def _total_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
