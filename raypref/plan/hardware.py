"""The machines that a plan is made for, and the speeds that it assumes. Every figure says where it is from.

Peaks: NVIDIA's data sheets of H100 SXM (2023), H200 (2023), A100 (2021), L40S (2023), L4 (2023); bfloat16 without sparsity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

from raypref.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU."""

    name: str
    gib: float
    """Memory as nvidia-smi states it, in GiB."""
    teraflops: float
    """Peak of dense products in bfloat16, in 1e12 operations per second."""
    terabytes_per_s: float
    """Peak of its memory, in 1e12 bytes per second."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h200", 140.4, 989.0, 4.8),
        Gpu("h100", 79.6, 989.0, 3.35),
        Gpu("a100", 80.0, 312.0, 2.04),
        Gpu("a100-40g", 40.0, 312.0, 1.56),
        Gpu("l40s", 45.0, 362.0, 0.86),
        Gpu("l4", 22.5, 121.0, 0.3),
    )
}
CPU = Gpu("cpu", 0.0, 0.05, 0.01)
"""One core of a server's CPU in float32: 16 products and sums per cycle and unit at 2 to 3 GHz give 0.1e12, of which half is taken."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """What is assumed about a run's speed. None: it follows from the GPU."""

    mfu: float = 0.4
    """Share of the GPU's peak that training and forward passes reach, 6 operations per parameter and token. benchmarks/README.md: 0.41 and
    0.44 of 989e12 at 1.5B and 1.2B on an H200, 0.27 at 0.5B."""
    bandwidth_share: float = 0.7
    """Share of the memory's peak that decoding reaches: what large copies reach."""
    sequence_us: float = 40.0
    """Microseconds of an engine's host work per sequence and decoded token: every sequence has its own random numbers. From
    ``rollout_speed`` of benchmarks/README.md: 22,943 tokens/s with 1024 sequences are 44 ms per token of all, of which 3 are the GPU's."""
    step_ms: float = 5.0
    """Milliseconds of an engine's host work per decoded token of all sequences: scheduling and launches."""
    sync_gb_per_s: float = 14.0
    """Of a weight sync, checksums included: ``sync_speed`` of benchmarks/README.md (ipc on one H200). nccl was not measured."""
    disk_gb_per_s: float = 1.0
    """Of checkpoints and exports: what one NVMe drive or a network file system usually takes."""
    sampled_tokens_per_s: float | None = None
    """Of one engine, in place of the model of decoding."""
    trained_tokens_per_s: float | None = None
    """Of one learner rank, in place of ``mfu``."""
    comparisons_per_s: float | None = None
    """Of one oracle replica. None: from the size of its model; for a function or an endpoint judging is not counted."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value <= 0:
                raise ConfigError(f"--{field.name.replace('_', '-')}: {value:g}; give a number above 0")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal nodes of equal GPUs."""

    gpu: Gpu | None
    """None: not known; nothing is compared with its memory, and no time is computed."""
    gpus: int | None = None
    """Of each node; None: as many as the run needs, evenly on the nodes."""
    nodes: int = 1

    @classmethod
    def of(cls, *, gpu: str | None = None, gpus: int | None = None, gpu_gib: float | None = None, nodes: int = 1) -> Self:
        """The cluster of some options.

        Args:
            gpu: a name of ``GPUS``; default: the first whose memory is ``gpu_gib`` or more, else an H100.
            gpus: of each node.
            gpu_gib: memory of each GPU, in place of that of its kind.

        Raises:
            ConfigError: there is no such GPU.
        """
        known = ", ".join(GPUS)
        if gpu is not None and gpu.lower() not in GPUS:
            raise ConfigError(f"--gpu: {gpu!r} is not in the table; give one of {known}, or --gpu-memory and the speeds that you know")
        by_memory = sorted(GPUS.values(), key=lambda kind: kind.gib)
        fitting = [kind for kind in by_memory if gpu_gib is not None and kind.gib >= 0.9 * gpu_gib]
        kind = GPUS[gpu.lower()] if gpu is not None else fitting[0] if fitting else GPUS["h100"]
        if gpu_gib is not None:
            kind = Gpu(kind.name, gpu_gib, kind.teraflops, kind.terabytes_per_s)
        return cls(kind, gpus, nodes)

    @classmethod
    def of_ray(cls, resources: Iterable[str], device: str) -> Self:
        """The cluster of a run that starts, from the names of its resources; Ray names the kinds of GPU ``accelerator_type:H100``."""
        if device == "cpu":
            return cls(CPU)
        names = (name.removeprefix("accelerator_type:").lower() for name in resources if name.startswith("accelerator_type:"))
        kinds = [GPUS[name] for name in names if name in GPUS]
        return cls(min(kinds, key=lambda kind: kind.teraflops) if kinds else None)
