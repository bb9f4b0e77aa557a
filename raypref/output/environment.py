"""``environment.json`` of a run: what it runs on. Machines, device and versions, but no environment variable and no path."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from raypref.output.terminal import counted
from raypref.output.whole_file import write_whole

NAME = "environment.json"
VERSIONED = ("raypref", "ray", "torch", "transformers", "vllm", "deepspeed")
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as NVIDIA's own tool names it."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, slots=True)
class Machine:
    """One node of a run."""

    host: str
    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    """All of the machine, of which the run may use a part."""
    actors: tuple[str, ...] = ()
    """Names of the run's actors that start on it."""

    @classmethod
    def here(cls) -> Self:
        """The machine of this process."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(platform.node(), processor(), os.cpu_count() or 1, memory, tuple(gpus()))

    def with_actors(self, names: Iterable[str]) -> Self:
        """The same machine with its part of the run."""
        return replace(self, actors=tuple(names))


def write_environment(directory: Path, device: str, machines: Sequence[Machine]) -> None:
    """Write the file, or replace that of the attempt before a resumption.

    Args:
        directory: ``output_dir``.
        device: ``cpu`` or ``cuda``.
        machines: on which actors of the run are placed.
    """
    content = {
        "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": device,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions(),
        "nodes": [asdict(machine) for machine in machines],
    }
    write_whole(directory / NAME, json.dumps(content, indent=2) + "\n")


def in_words(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """``2 nodes, each with 8 NVIDIA H100 80GB HBM3 (80 GiB), AMD EPYC 9654 (192 cores), 1511 GiB of memory``: equal nodes together.

    Args:
        nodes: those of the file; what another version did not write is left out.
    """
    kinds = Counter(", ".join(_parts(node)) for node in nodes)
    return [f"{counted(count, 'node')}{', each' if count > 1 else ''} with {kind}" for kind, count in kinds.items() if kind]


def _parts(node: Mapping[str, Any]) -> list[str]:
    kinds = Counter((gpu["name"], gpu["memory_bytes"]) for gpu in node.get("gpus", []))
    parts = [f"{count} {name} ({size / _GIB:.0f} GiB)" for (name, size), count in kinds.items()]
    if "processor" in node:
        parts.append(f"{node['processor']} ({counted(node['cores'], 'core')}), {node['memory_bytes'] / _GIB:.0f} GiB of memory")
    return parts


def gpus() -> list[Gpu]:
    """The GPUs of this machine, from NVIDIA's own tool, which needs no CUDA context; none where it is not installed."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(", ", 2) for line in answer.stdout.splitlines()]
    return [Gpu(row[0], int(row[1]) << 20, row[2]) for row in rows if len(row) == 3 and row[1].isdigit()]


def processor() -> str:
    """Name of the CPU."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return models[0].split(":", 1)[1].strip() if models else platform.machine()


def versions() -> dict[str, str]:
    """Installed versions by package. vLLM's CPU build has another package name but is imported as vllm, and listed as vllm."""
    from importlib.metadata import PackageNotFoundError, version

    import raypref

    installed = {"raypref": raypref.__version__}
    for name in VERSIONED[1:]:
        for package in (name, f"{name}-cpu"):
            try:
                installed[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    return installed
