"""The machines that a plan is made for. Every figure says where it is from.

Peaks: NVIDIA's data sheets; bfloat16 without sparsity, modules with NVLink where there are several kinds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
        Gpu("b200", 178.0, 2250.0, 8.0),
        Gpu("h200", 140.4, 989.0, 4.8),
        Gpu("gh200", 95.0, 989.0, 4.0),
        Gpu("h20", 95.0, 148.0, 4.0),
        Gpu("a100", 80.0, 312.0, 2.04),
        Gpu("h100", 79.6, 989.0, 3.35),
        Gpu("l40s", 45.0, 362.0, 0.86),
        Gpu("l40", 45.0, 181.0, 0.86),
        Gpu("a100-40g", 40.0, 312.0, 1.56),
        Gpu("a30", 24.0, 165.0, 0.93),
        Gpu("l4", 22.5, 121.0, 0.3),
        Gpu("a10g", 22.5, 70.0, 0.6),
    )
}


def gpu_of(name: str) -> Gpu | None:
    """The kind with a name as Ray has it (``A100-40G``, ``H100``); None: it is not known."""
    return GPUS.get(name.lower()) or GPUS.get(name.lower().partition("-")[0])


CPU = Gpu("cpu", 0.0, 0.05, 0.01)
"""One core of a server's CPU in float32: 16 products and sums per cycle and unit at 2 to 3 GHz give 0.1e12, of which half is taken."""


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
    def of_types(cls, types: Iterable[str], device: str) -> Self:
        """The cluster of a run that starts.

        Args:
            types: of its GPUs, as Ray names them; of several the slowest counts.
            device: ``cpu`` or ``cuda``.
        """
        if device == "cpu":
            return cls(CPU)
        kinds = [gpu for name in types if (gpu := gpu_of(name)) is not None]
        return cls(min(kinds, key=lambda kind: kind.teraflops) if kinds else None)
