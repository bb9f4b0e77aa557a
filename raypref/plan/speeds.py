"""The speeds that a plan assumes. Every figure says where it is from."""

from __future__ import annotations

from dataclasses import dataclass, fields

from raypref.errors import ConfigError


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
    sampling_rate: float | None = None
    """Tokens per second of one engine, in place of the model of decoding."""
    training_rate: float | None = None
    """Tokens per second of one learner rank, in place of ``mfu``."""
    judging_rate: float | None = None
    """Comparisons per second of one oracle replica. None: from the size of its model; a function's or an endpoint's is not known."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value <= 0:
                raise ConfigError(f"--{field.name.replace('_', '-')}: {value:g}; give a number above 0")
